"""Globs that say which files of a corpus are wanted.

    wanted = Filter(include=("*.md",), exclude=("drafts", "a/**/old"))
    wanted.takes("books/one.md")  # True
    wanted.takes("books/drafts/two.md")  # False

A pattern is matched against the path relative to the root, with `/`. `*` and `?` stand for any characters and
for one, but never for `/`; `[abc]`, `[a-z]` and `[!abc]` for one of a set; `**` for any number of folders. A
pattern without `/` matches a name at any depth, one with `/` a path from the root (a leading `/` may say so).
Where it matches a folder, all below it is meant. With includes, a file must match one of them; an exclude
wins. Upper and lower case differ.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["EVERYTHING", "Filter"]

_PART = re.compile(r"\*\*/|/\*\*$|\*\*|\*|\?|\[!?\]?[^]/]*\]|.", re.DOTALL)


class Filter:
    """Which paths are wanted; without patterns, all."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = _compiled(include)
        self._exclude = _compiled(exclude)

    def takes(self, relative: str) -> bool:
        """Return whether a file is wanted, by its path relative to the root."""
        if self._exclude is not None and self._exclude.fullmatch(relative):
            return False
        return self._include is None or self._include.fullmatch(relative) is not None

    def enters(self, relative: str) -> bool:
        """Return whether anything in a folder may be wanted, by its path without a `/` at the end."""
        return self._exclude is None or self._exclude.fullmatch(relative) is None

    def __bool__(self) -> bool:
        """Whether anything is left out at all."""
        return self._include is not None or self._exclude is not None


def _compiled(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(_expression, patterns)), re.DOTALL) if patterns else None


def _expression(pattern: str) -> str:
    stripped = pattern.rstrip("/")
    anywhere = "/" not in stripped
    body = "".join(_translated(part) for part in _PART.findall(stripped.lstrip("/")))
    return f"(?:{'(?:.*/)?' if anywhere else ''}{body}(?:/.*)?)"


def _translated(part: str) -> str:
    if part == "**/":
        return "(?:.*/)?"
    if part == "/**":
        return "/.*"
    if part == "**":
        return ".*"
    if part == "*":
        return "[^/]*"
    if part == "?":
        return "[^/]"
    if len(part) > 1:
        negated = part[1] == "!"
        inside = part[2 if negated else 1 : -1].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
        inside = inside.replace("&&", "&\\&").replace("||", "|\\|").replace("~~", "~\\~").replace("]", "\\]")
        expression = f"(?!/)[{'^' if negated else ''}{inside}]"
        try:
            re.compile(expression)
        except re.error:  # an empty set, or a range that ends before it begins: no set
            return re.escape(part)
        return expression
    return re.escape(part)


EVERYTHING = Filter()
"""Leaves nothing out."""
