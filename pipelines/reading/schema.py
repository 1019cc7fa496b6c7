"""The JSON schema of a recipe file, from which editors complete keys and show what they mean."""

from __future__ import annotations

from typing import Any, cast

from pydantic import TypeAdapter

from data.described import describe
from pipelines.reading import old_names
from pipelines.stage import STAGE_NAME_PATTERN, Stage
from pipelines.stages import KINDS
from trainers.training.trl_fields import CONFIGS, TrlField, fields

Schema = dict[str, Any]


def json_schema() -> Schema:
    """Draft 2020-12. Looser than `validate`: what a stage must have may also come from `defaults:`."""
    describe(*KINDS.values())
    definitions: Schema = {}
    stages: list[Schema] = []
    defaults: Schema = {}
    for name, kind in KINDS.items():
        schema: Schema = TypeAdapter(kind).json_schema(ref_template="#/$defs/{model}")
        definitions |= schema.pop("$defs", {})
        properties: Schema = schema["properties"]
        if name in CONFIGS:
            properties["training"] = _training(name, kind, properties["training"])
        for key, value in properties.items():
            if key not in ("name", "kind"):
                # Kinds may disagree on a type or default, so that editors get the meaning alone.
                defaults.setdefault(key, {"description": value.get("description", "")})
        schema["required"] = ["name", "kind"]
        definitions[kind.__name__] = schema
        stages.append({"$ref": f"#/$defs/{kind.__name__}"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Heliograph recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["stages"],
        "properties": {
            "recipe": {
                "type": "string",
                "pattern": STAGE_NAME_PATTERN,
                "maxLength": 64,
                "description": "The recipe's name, and the run's unless --name says otherwise.",
            },
            "description": {"type": "string", "description": "What the recipe is for."},
            "defaults": {
                "type": "object",
                "additionalProperties": False,
                "properties": defaults,
                "description": "Values for every stage that has the key; a stage's own value wins.",
            },
            "stages": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "oneOf": stages,
                    "type": "object",
                    "required": ["name", "kind"],
                    "discriminator": {"propertyName": "kind"},
                },
                "description": "The steps, in order; a stage refers to an earlier one by its name.",
            },
        },
        "$defs": definitions,
    }


def _training(name: str, kind: type[Stage], schema: Schema) -> Schema:
    known = fields(CONFIGS[name])
    if not known:
        return schema
    free = {
        key: _type(field)
        for key, field in known.items()
        if old_names.modern(key, field.default, kind.model_fields, training=True) is None
    }
    return {**schema, "properties": free, "additionalProperties": False}


_TYPES = {
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "str": "string",
    "list": "array",
    "dict": "object",
}


def _type(field: TrlField) -> Schema:
    if field.types is None:
        return {}
    types = [_TYPES.get(name, "null") for name in sorted(field.types)]
    if field.choices and "string" in types:
        others = [{"type": name} for name in types if name != "string"]
        return (
            {"anyOf": [{"enum": list(field.choices)}, *others]} if others else {"enum": list(field.choices)}
        )
    return cast("Schema", {"type": types if len(types) > 1 else types[0]})
