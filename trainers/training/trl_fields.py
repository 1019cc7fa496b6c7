"""The settings of the installed SFTConfig and DPOConfig, read from their source text so that nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

ConfigName = Literal["SFTConfig", "DPOConfig"]
CONFIGS: dict[str, ConfigName] = {"sft": "SFTConfig", "prefer": "DPOConfig", "unlearn": "DPOConfig"}
"""Which class the `training:` of a kind of stage goes to."""

FILES = {"SFTConfig": "trl/trainer/sft_config.py", "DPOConfig": "trl/trainer/dpo_config.py"}
# Names that `from transformers import …` finds lazily, where the source of the import does not tell the file.
_LAZY = {("transformers", "TrainingArguments"): "transformers/training_args.py"}
# TRL lists these in a sentence only, and finds a wrong one at the first training step.
IN_PROSE = {
    ("DPOConfig", "f_divergence_type"): ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
}

_PLAIN = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
    "None": "null",
}


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Any = _Unknown()
"""A default that is computed."""


@dataclass(frozen=True)
class TrlField:
    """One setting. What the source does not tell for sure is left open, and then everything is allowed."""

    name: str
    types: frozenset[str] | None = None
    """`bool int float str list dict None`; None: cannot tell."""
    choices: tuple[str, ...] | None = None
    """The texts that are allowed."""
    default: Any = UNKNOWN

    def refusal(self, value: object) -> str | None:
        """What is allowed instead, or None when the value may stand."""
        if self.types is None:
            return None
        kind = "None" if value is None else type(value).__name__
        fits = kind in self.types or (kind == "int" and "float" in self.types)
        if fits and (kind != "str" or self.choices is None or value in self.choices):
            return None
        return self.allowed

    @property
    def allowed(self) -> str:
        types = self.types or frozenset()
        told = [words for name, words in _PLAIN.items() if name in types]
        if self.choices is not None and "str" in types:
            told[told.index("text")] = f"one of {', '.join(self.choices)}"
        if "a number" in told and "a whole number" in told:
            told.remove("a whole number")
        return " or ".join(told)


@cache
def fields(config: ConfigName) -> Mapping[str, TrlField]:
    """Every setting of the class and its bases; empty where TRL is not installed or reads otherwise."""
    root = _package(FILES[config])
    if root is None:
        return {}
    found: dict[str, TrlField] = {}
    for source, name in reversed(_ancestry(root, config)):
        for field in source.fields(name):
            prose = IN_PROSE.get((config, field.name))
            found[field.name] = TrlField(field.name, field.types, prose or field.choices, field.default)
    return found


def _package(relative: str) -> Path | None:
    """A file of a package that is found, and never imported."""
    top, _, rest = relative.partition("/")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(next(iter(spec.submodule_search_locations))) / rest
    return file if file.is_file() else None


def _ancestry(file: Path, name: str) -> list[tuple[_Source, str]]:
    """The class and the bases that can be followed, nearest first."""
    source = _source(file)
    where = source.find(name)
    if where is None:
        return []
    source, node = where
    line = [(source, node.name)]
    for base in node.bases:
        if isinstance(base, ast.Name):
            line += _ancestry(source.file, base.id)
    return line


@cache
def _source(file: Path) -> _Source:
    return _Source(file)


class _Source:
    """The classes and imports of one file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):  # A file this Python cannot read tells nothing.
            tree = ast.Module([], [])
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self.imports = {
            (alias.asname or alias.name): (node.level, node.module or "", alias.name)
            for node in ast.walk(ast.Module([n for n in tree.body if not isinstance(n, ast.ClassDef)], []))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    def find(self, name: str) -> tuple[_Source, ast.ClassDef] | None:
        """A class by the name it has in this file, followed through the imports."""
        if name in self.classes:
            return self, self.classes[name]
        if name not in self.imports:
            return None
        level, module, original = self.imports[name]
        if level:
            file: Path | None = self.file.parents[level - 1].joinpath(*module.split(".")).with_suffix(".py")
        else:
            file = _package(_LAZY.get((module, original), module.replace(".", "/") + ".py"))
        if file is None or not file.is_file() or file == self.file:
            return None
        return _source(file).find(original)

    def fields(self, name: str) -> list[TrlField]:
        """The dataclass fields of one class, as its body declares them."""
        found: list[TrlField] = []
        for node in self.classes[name].body:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            if _called(node.annotation, "ClassVar") or _keyword(node.value, "init") is False:
                continue
            types, choices = self._allowed(node.annotation)
            default = _default(node.value)
            if types is not None and default is None:
                types |= {"None"}  # `x: int = None` is written, and means it.
            if choices is None and isinstance(told := _keyword(node.value, "metadata", "choices"), list):
                choices = tuple(str(choice) for choice in told)
            found.append(TrlField(node.target.id, types, choices, default))
        return found

    def _allowed(self, node: ast.expr) -> tuple[frozenset[str] | None, tuple[str, ...] | None]:
        """Python types and, for text, the choices. (None, None) where the annotation cannot be read."""
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):  # An annotation in quotes.
                try:
                    return self._allowed(ast.parse(node.value, mode="eval").body)
                except SyntaxError:
                    return None, None
            return (frozenset({"None"}), None) if node.value is None else (None, None)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self._either([node.left, node.right])
        if isinstance(node, ast.Subscript):
            outer = _name(node.value)
            inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
            if outer == "Optional":
                return self._either([*inner, ast.Constant(None)])
            if outer == "Union":
                return self._either(inner)
            if outer == "Literal":
                values = [item.value for item in inner if isinstance(item, ast.Constant)]
                texts = tuple(value for value in values if isinstance(value, str))
                kinds = frozenset("None" if v is None else type(v).__name__ for v in values)
                return (kinds, texts or None) if len(values) == len(inner) else (None, None)
            return self._allowed(node.value)
        name = _name(node).removeprefix("typing.")
        plain = {"List": "list", "Dict": "dict", "list": "list", "dict": "dict"}.get(name, name)
        if plain in _PLAIN:
            return frozenset({plain}), None
        members = self._members(name)
        return (frozenset({"str"}), members) if members else (None, None)

    def _either(self, nodes: list[ast.expr]) -> tuple[frozenset[str] | None, tuple[str, ...] | None]:
        types: frozenset[str] = frozenset()
        choices: tuple[str, ...] | None = None
        for node in nodes:
            more, told = self._allowed(node)
            if more is None:
                return None, None
            types |= more
            # `SchedulerType | str`: the class turns the text into the enum, so only its values pass.
            choices = told if choices is None else choices
        return types, choices

    def _members(self, name: str) -> tuple[str, ...]:
        """The texts of an enum."""
        where = self.find(name)
        if where is None or not any("Enum" in _name(base) for base in where[1].bases):
            return ()
        values = [node.value for node in where[1].body if isinstance(node, ast.Assign)]
        texts = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
        return tuple(texts) if len(texts) == len(values) else ()


def _name(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""


def _called(node: ast.expr, name: str) -> bool:
    return _name(node.value if isinstance(node, ast.Subscript) else node).split(".")[-1] == name


def _default(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Call):
        return _keyword(node, "default")
    return UNKNOWN if node is None else _literal(node)


def _keyword(node: ast.expr | None, *names: str) -> Any:
    """A keyword of `field(…)`, and below it a key of a dict; UNKNOWN where it is not written out."""
    if not isinstance(node, ast.Call):
        return UNKNOWN
    value = next((word.value for word in node.keywords if word.arg == names[0]), None)
    for name in names[1:]:
        if not isinstance(value, ast.Dict):
            return UNKNOWN
        pairs = zip(value.keys, value.values, strict=True)
        value = next((v for k, v in pairs if isinstance(k, ast.Constant) and k.value == name), None)
    return UNKNOWN if value is None else _literal(value)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN
