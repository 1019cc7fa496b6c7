"""The JSON schema that editors read: accepts the recipes that stand here, and refuses what is misspelt."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.recipe import json_schema
from pipelines.stages import KINDS

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
SCHEMA = json_schema()


def holds(schema: Any, value: Any) -> bool:
    """As much of JSON schema as ours uses."""
    if schema is True or schema == {}:
        return True
    if "$ref" in schema:
        return holds(SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], value)
    checks = [
        "enum" not in schema or value in schema["enum"],
        "const" not in schema or value == schema["const"],
        "type" not in schema or any(_is(name, value) for name in _list(schema["type"])),
        "anyOf" not in schema or any(holds(s, value) for s in schema["anyOf"]),
        "oneOf" not in schema or sum(holds(s, value) for s in schema["oneOf"]) == 1,
    ]
    if isinstance(value, str):
        checks.append(len(value) >= schema.get("minLength", 0))
        checks.append("pattern" not in schema or re.search(schema["pattern"], value) is not None)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        checks += [
            value >= schema.get("minimum", value),
            value <= schema.get("maximum", value),
            "exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"],
            "exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"],
        ]
    if isinstance(value, list):
        checks.append(len(value) >= schema.get("minItems", 0))
        checks.append(all(holds(schema.get("items", True), item) for item in value))
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        checks.append(all(key in value for key in schema.get("required", [])))
        checks.append(len(value) >= schema.get("minProperties", 0))
        for key, inner in value.items():
            checks.append(holds(properties[key], inner) if key in properties else more is not False)
    return all(checks)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is(name: str, value: object) -> bool:
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    if name in ("integer", "number"):
        allowed = int if name == "integer" else (int, float)
        return isinstance(value, allowed) and not isinstance(value, bool)
    return isinstance(value, kinds[name])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_recipes_here_hold(path: Path) -> None:
    # PyYAML reads 1e-3 as text, so the numbers come through our own reader.
    from pipelines.reading.yaml_source import read

    assert holds(SCHEMA, read(path.read_bytes()).value)


GOOD = """
recipe: good
defaults: {seed: 1, training: {adam_beta2: 0.99}}
stages:
  - {name: a, kind: sft, data: x.jsonl}
  - {name: b, kind: prefer, model: a, pairs: [o/n, {path: x, weight: 2}], training: {optim: sgd}}
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("kind: sft", "kind: stf"),
        ("kind: sft, ", ""),
        ("name: a, ", ""),
        ("seed: 1", "sead: 1"),
        ("recipe: good", "recipe: good\nmore: 1"),
        ("model: a", "modle: a"),
        ("optim: sgd", "optim: sdg"),
        ("optim: sgd", "seed: 3"),
        ("optim: sgd", "output_dir: x"),
        ("weight: 2", "wight: 2"),
        ("pairs: [o/n", "pairs: [3"),
    ],
)
def test_good_holds_and_bad_does_not(old: str, new: str) -> None:
    assert old in GOOD
    assert holds(SCHEMA, yaml.safe_load(GOOD.replace(old, new, 1))) == (old == "")


def test_every_key_says_what_it_means() -> None:
    for kind in KINDS.values():
        properties = SCHEMA["$defs"][kind.__name__]["properties"]
        silent = [key for key, value in properties.items() if key != "kind" and not value.get("description")]
        assert silent == [], kind.__name__
    assert {"seed", "critic", "training", "max_new_tokens"} <= set(
        SCHEMA["properties"]["defaults"]["properties"]
    )
    assert "name" not in SCHEMA["properties"]["defaults"]["properties"]


def test_every_reference_leads_somewhere_and_it_is_json() -> None:
    text = json.dumps(SCHEMA)
    assert set(re.findall(r'"#/\$defs/([^"]+)"', text)) <= set(SCHEMA["$defs"])
