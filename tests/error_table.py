"""Every error that ends a command, from the sources: its class, exit code, text and mend.

    python -m tests.error_table          # writes docs/errors.md

An error is where a class of `embedstream.errors` is made. What a text holds of the moment stands in braces.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from embedstream import errors
from embedstream.errors import EmbedstreamError
from embedstream.fleet.client import NoBalanceError
from tests.brokers import REPOSITORY

__all__ = ["FILE", "Row", "rows", "table"]

FILE = REPOSITORY / "docs" / "errors.md"
PACKAGES = ("embedstream", "producer", "consumer", "schemas")
CLASSES: dict[str, type[EmbedstreamError]] = {
    each.__name__: each
    for each in (*(getattr(errors, name) for name in errors.__all__), NoBalanceError)
    if each is not EmbedstreamError
}
HEAD = """\
# Every error that ends a command

A command that fails says one line on stderr, `embedstream: TEXT: MEND`, and ends with the exit code of the
error's class. What stands in braces is put in at that moment. Beside these there are a misspelt command or
flag (2, with the nearest name), a signal (130, 143), and a bug (70, with a traceback in the log).

This table is made from the sources by `python -m tests.error_table`; a test walks it and fails when it is not
up to date.
"""


@dataclass(frozen=True, order=True)
class Row:
    """One error.

    Attributes:
        exit_code: That the command ends with.
        kind: The name of its class.
        module: Where it is made.
        text: What was found.
        mend: What to do; empty where the text says it all.
    """

    exit_code: int
    kind: str
    module: str
    text: str
    mend: str


def rows() -> list[Row]:
    """All errors, by exit code, class and module."""
    found: set[Row] = set()
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            if path.name != "errors.py":
                found.update(_of_file(path))
    return sorted(found)


def table() -> str:
    """The whole file, in Markdown."""
    lines, found = [HEAD], rows()
    for kind in sorted(CLASSES, key=lambda name: CLASSES[name].exit_code):
        own = [row for row in found if row.kind == kind]
        lines += [f"## {CLASSES[kind].exit_code}: {kind}", "", f"{CLASSES[kind].__doc__}", ""]
        lines += ["| text | mend | made in |", "| --- | --- | --- |"]
        lines += [f"| {_cell(row.text)} | {_cell(row.mend)} | `{row.module}` |" for row in own]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


def _of_file(path: Path) -> Iterator[Row]:
    module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if not isinstance(node, ast.Call) or name not in CLASSES or not node.args:
                continue
            text, mend = node.args[0], node.args[1] if len(node.args) > 1 else None
            yield Row(
                CLASSES[name].exit_code,
                name,
                module,
                " ".join(_told(text, function, module).split()),
                "" if mend is None else " ".join(_told(mend, function, module).split()),
            )


def _told(node: ast.AST, function: ast.FunctionDef, module: str) -> str:
    """A text as it is written, with names in braces; a name that is given one text is that text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_told(each, function, module) for each in parts)
        case ast.FormattedValue(value=value):
            return f"{{{_name(value)}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _told(left, function, module) + _told(right, function, module)
        case ast.IfExp(body=one, orelse=other):
            return f"{_told(one, function, module)} / {_told(other, function, module)}"
        case ast.Name(id=name):
            given = {
                _told(each.value, function, module)
                for each in ast.walk(function)
                if isinstance(each, ast.Assign)
                and [name] == [target.id for target in each.targets if isinstance(target, ast.Name)]
                and isinstance(each.value, ast.Constant | ast.JoinedStr | ast.IfExp | ast.BinOp)
            }
            return " / ".join(sorted(given)) or getattr(import_module(module), name, f"{{{name}}}")
        case _:
            return f"{{{_name(node)}}}"


def _name(node: ast.AST) -> str:
    """The word that says best what a value is: the last one of an expression."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name.strip("_")
        case ast.Call(func=function, args=[first, *_]) if isinstance(function, ast.Name):
            return (
                _name(first) if isinstance(first, ast.Name | ast.Attribute | ast.Subscript) else function.id
            )
        case ast.Call(func=function):
            return _name(function)
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return key
        case ast.Subscript(value=value):
            return _name(value)
        case ast.BinOp(left=left):
            return _name(left)
        case _:
            return "..."


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(table())
    print(f"{FILE}: {len(rows())} errors")
