"""The YAML between two lines of dashes at the head of a Markdown file."""

from __future__ import annotations

import re

import yaml

from producer.refusals import Reason, RefusedError

__all__ = ["MAX_FRONT_MATTER_CHARS", "split_front_matter"]

MAX_FRONT_MATTER_CHARS = 256 * 1024
"""Far above what fits a document's metadata; below it, no YAML takes long to read."""

# Of YAML's loaders the one that makes nothing but text, lists and mappings: no type is guessed, so that the
# language `no` stays Norwegian, 12:30 no number of seconds, and a date is what the file says.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_OPENING = re.compile(r"---[ \t]*\r?\n")
_CLOSING = re.compile(r"^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.MULTILINE)
_EMPTY_LINE = re.compile(r"[ \t]*\r?\n")
_LINE = re.compile(r"([A-Za-z_][\w .-]{0,63}):(?:[ \t]+(.*))?")
_MAX_DEPTH = 32


def split_front_matter(text: str) -> tuple[dict[str, object], str]:
    """Return a file's front matter and its body: what follows the closing line and an empty one after it.

    Where the front matter is not YAML, but each of its lines is a name, a colon and a value, as programs
    write it that quote nothing (`title: Capital: a critique`), the values are taken as they stand.

    A text without an opening line, or without a closing one, has no front matter: a lone line of dashes is
    Markdown's horizontal rule.

    Raises:
        RefusedError: `BAD_FRONT_MATTER`: it is not YAML, no mapping, or larger than it may be.
    """
    opening = _OPENING.match(text)
    if opening is None:
        return {}, text
    closing = _CLOSING.search(text, opening.end())
    if closing is None:
        return {}, text
    front = text[opening.end() : closing.start()]
    if len(front) > MAX_FRONT_MATTER_CHARS:
        told = f"the front matter is longer than {MAX_FRONT_MATTER_CHARS} characters"
        raise RefusedError(Reason.BAD_FRONT_MATTER, told)
    end = _EMPTY_LINE.match(text, closing.end())
    return _parse(front), text[end.end() if end else closing.end() :]


def _parse(front: str) -> dict[str, object]:
    try:
        return _parse_yaml(front)
    except RefusedError:
        fields = _parse_lines(front)
        if fields is None:
            raise
        return fields


def _parse_lines(front: str) -> dict[str, object] | None:
    """Return the fields of lines that are all `name: value`, None where one is not."""
    fields: dict[str, object] = {}
    for line in filter(None, map(str.rstrip, front.splitlines())):
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        name, value = found.groups()
        try:
            fields |= _parse_yaml(line)
        except RefusedError:
            fields[name] = value
    return fields


def _parse_yaml(front: str) -> dict[str, object]:
    try:
        _refuse_what_explodes(front)
        # Not the unsafe load that the rule warns of: see `_Loader`.
        value = yaml.load(front, _Loader)  # noqa: S506
    except yaml.YAMLError as error:
        raise RefusedError(Reason.BAD_FRONT_MATTER, f"the front matter is not YAML: {error}") from None
    if not value:
        return {}
    if not isinstance(value, dict):
        raise RefusedError(Reason.BAD_FRONT_MATTER, "the front matter is no mapping of names to values")
    return {name: entry for name, entry in value.items() if entry != ""}


def _refuse_what_explodes(front: str) -> None:
    """Refuse aliases, which make a few lines a terabyte of text, and a nesting that ends libyaml's stack."""
    depth = 0
    for event in yaml.parse(front, _Loader):
        if isinstance(event, yaml.AliasEvent):
            told = "the front matter holds an alias: text that begins with * must stand in quotes"
            raise RefusedError(Reason.BAD_FRONT_MATTER, told)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise RefusedError(Reason.BAD_FRONT_MATTER, "the front matter is nested too deep")
