"""What keeps the code base easy to take over: short files and functions, and who may import whom.

Everything is read from the sources, imports within functions included: they cost nothing at start, and tie
modules to each other all the same.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.brokers import REPOSITORY

PACKAGES = ("embedstream", "producer", "consumer", "schemas", "deploy")
MOST_LINES = 400
# A file of tests is a list of scenarios, each readable alone: to find one, nobody reads the others. What
# tests share is read as any other code.
MOST_LINES_OF_SCENARIOS = 600
MOST_LINES_OF_A_FUNCTION = 60
# What only a machine that embeds has.
CONSUMER_ONLY = {"torch", "transformers", "sentence_transformers", "tokenizers", "huggingface_hub"}


@cache
def sources(*folders: str) -> dict[str, Path]:
    """The files of the folders by their modules' names."""
    found = {}
    for folder in folders:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path, *, at_once: bool = False) -> Iterator[str]:
    """The modules that a file imports, wherever in it; `at_once`: only what importing the file imports."""
    waiting: list[ast.AST] = [tree(path)]
    while waiting:
        node = waiting.pop()
        if at_once and isinstance(node, ast.FunctionDef | ast.Lambda):
            continue
        if at_once and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            modules = sources(*PACKAGES)
            for each in node.names:
                name = f"{node.module}.{each.name}"
                yield name if name in modules else node.module


@cache
def graph() -> dict[str, frozenset[str]]:
    """For each module all that it imports; a package's parts import the package."""
    return {name: frozenset(imported(path)) for name, path in sources(*PACKAGES).items()}


def reached(start: str, edges: dict[str, frozenset[str]]) -> set[str]:
    """All that a package leads to, over any number of imports."""
    found: set[str] = set()
    waiting = [name for name in edges if name.partition(".")[0] == start]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += edges.get(name, ())
    return found


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function with the lines of its statements: parameters and docstring are what is told, not done."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body:
                yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1


def cycles(edges: dict[str, frozenset[str]]) -> list[list[str]]:
    """What is left when modules that nothing imports, and those that import nothing, are taken away."""
    left = {name: {each for each in edges[name] if each in edges and each != name} for name in edges}
    while True:
        targets = set().union(*left.values()) if left else set()
        ends = [name for name, found in left.items() if not found or name not in targets]
        if not ends:
            return [[name, *sorted(found)] for name, found in sorted(left.items())]
        for name in ends:
            del left[name]
        left = {name: found - set(ends) for name, found in left.items()}


def most_lines(path: Path) -> int:
    return MOST_LINES_OF_SCENARIOS if path.name.startswith("test_") else MOST_LINES


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_no_file_is_longer_than_one_idea(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(folder).values()}
    assert lengths
    assert {path: length for path, length in lengths.items() if length > most_lines(path)} == {}


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_no_function_does_more_than_fits_on_a_screen(folder: str) -> None:
    found = {
        f"{name}.{function}": lines
        for name, path in sources(folder).items()
        for function, lines in functions(path)
    }
    assert found
    assert {each: lines for each, lines in found.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


def test_a_cycle_would_be_found() -> None:
    ring = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("a")}
    assert [name for name, *_ in cycles(ring)] == ["b", "c"]


def test_no_imports_go_round() -> None:
    assert len(graph()) > 150
    assert cycles(graph()) == []


def test_a_producer_leads_to_nothing_that_embeds() -> None:
    found = {each.partition(".")[0] for each in reached("producer", graph())}
    assert {"producer", "embedstream", "schemas", "confluent_kafka"} < found
    assert found & (CONSUMER_ONLY | {"consumer"}) == set()


def test_a_consumer_leads_to_no_producer() -> None:
    found = {each.partition(".")[0] for each in reached("consumer", graph())}
    assert {"consumer", "embedstream", "schemas", "torch"} < found
    assert "producer" not in found


def test_schemas_lead_to_neither_and_not_to_embedstream() -> None:
    found = {each.partition(".")[0] for each in reached("schemas", graph())}
    assert found & {*PACKAGES} == {"schemas"}


def test_what_is_shared_imports_producer_and_consumer_only_where_it_runs_them() -> None:
    """At import, nothing of `embedstream` needs either."""
    wrong = {
        name: sorted(
            each for each in imported(path, at_once=True) if each.startswith(("producer.", "consumer."))
        )
        for name, path in sources("embedstream").items()
    }
    assert {name: found for name, found in wrong.items() if found} == {}


def test_nothing_that_is_shipped_imports_tests() -> None:
    assert {
        name for name, found in graph().items() if any(each.startswith("tests") for each in found)
    } == set()


def test_a_producer_runs_where_there_is_no_torch() -> None:
    """As on a laptop: importing what only a consumer needs fails."""
    modules = [
        *sources("producer"),
        "embedstream.commands.produce",
        "embedstream.verify",
        "embedstream.doctor",
    ]
    script = f"import sys\nsys.modules |= dict.fromkeys({sorted(CONSUMER_ONLY)!r})\n"
    script += "\n".join(f"import {each}" for each in modules)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
