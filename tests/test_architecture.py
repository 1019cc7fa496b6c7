"""The rules of the house that a test can keep: layers, light modules, small rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("data", "trainers", "pipelines", "slurm")
MAY_IMPORT = {
    "data": {"data"},
    "trainers": {"trainers", "data"},
    "pipelines": {"pipelines", "trainers", "data", "slurm"},
    "slurm": {"slurm", "data"},
}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "flash_attn"}
VAGUE = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc", "base", "core"}
LONGEST = 400


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> Iterator[str]:
    """Top-level names of the packages that this statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module.split(".")[0]


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported: not those in functions or for type checkers."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and ast.unparse(statement.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            yield from at_import(statement.orelse)
            continue
        yield statement
        for field in ("body", "orelse", "finalbody"):
            yield from at_import(getattr(statement, field, []))
        for handler in getattr(statement, "handlers", []):
            yield from at_import(handler.body)


ALL = pytest.mark.parametrize("path", modules(), ids=name)


@ALL
def test_nothing_imports_upward(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    found = {top for node in ast.walk(tree(path)) for top in imported(node)} & set(PACKAGES)
    assert found <= MAY_IMPORT[package]


@ALL
def test_imports_are_absolute(path: Path) -> None:
    relative = [
        node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


@pytest.mark.parametrize("path", [path for path in modules() if "trainers" not in path.parts], ids=name)
def test_outside_trainers_nothing_imports_torch_at_the_top(path: Path) -> None:
    found = {top for statement in at_import(tree(path).body) for top in imported(statement)}
    assert found & HEAVY == set()


@ALL
def test_a_module_says_what_it_is_for(path: Path) -> None:
    text = ast.get_docstring(tree(path))
    assert text, "no docstring"
    assert text.splitlines()[0].endswith((".", ":", "`")), "its first line is one sentence"


@ALL
def test_rooms_are_small_and_named_for_what_they_hold(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST
    assert path.stem not in VAGUE
    assert not path.stem.startswith(("base_", "utils_"))
    assert not path.stem.endswith(("_utils", "_helpers", "_manager"))


def test_rooms_are_mostly_under_two_hundred_lines() -> None:
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in modules())
    assert lengths[len(lengths) // 2] < 200


def test_one_place_catches_every_error() -> None:
    """The worker's boundary records what nobody foresaw; anywhere else it would hide it."""
    found = [
        name(path)
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {"Exception", "BaseException"} & names(node.type))
        and not reraises(node)
    ]
    assert found == ["pipelines/worker.py"]


def names(node: ast.expr) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def reraises(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_the_walk_over_statements_sees_what_it_must() -> None:
    code = """
import torch.nn
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import trl
else:
    import peft
try:
    import accelerate
except ImportError:
    import datasets
class A:
    import bitsandbytes
def f():
    import transformers
"""
    found = {top for statement in at_import(ast.parse(code).body) for top in imported(statement)}
    assert found & HEAVY == {"torch", "peft", "accelerate", "datasets", "bitsandbytes"}
