"""The settings read off TRL's source are those its classes have, and refuse what these would choke on."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types
import typing
from enum import Enum

import pytest

from trainers.training.trl_fields import CONFIGS, UNKNOWN, ConfigName, TrlField, fields


@pytest.mark.parametrize("config", sorted(CONFIGS.values()))
def test_against_the_real_classes(config: ConfigName) -> None:
    import trl  # 18 seconds, once for the whole run

    real = {field.name: field for field in dataclasses.fields(getattr(trl, config)) if field.init}
    read = fields(config)
    assert set(read) == set(real)
    hints = typing.get_type_hints(getattr(trl, config))
    for name, field in read.items():
        default = real[name].default
        if field.default is not UNKNOWN and default is not dataclasses.MISSING:
            assert field.default == getattr(default, "value", default), name
        if field.types is not None and default is not dataclasses.MISSING:
            assert field.refusal(getattr(default, "value", default)) is None, name
        if field.types is not None:
            assert field.types == _types(hints[name]) | ({"None"} if default is None else set()), name
        for enum in _enums(hints[name]):
            if field.types is not None and "list" not in field.types:
                assert field.choices == tuple(member.value for member in enum), name


def _types(hint: object) -> set[str]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return {name for part in typing.get_args(hint) for name in _types(part)}
    if origin is typing.Literal:
        return {type(value).__name__ for value in typing.get_args(hint)}
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"str"}
    return {"None" if kind is type(None) else getattr(kind, "__name__", "")}


def _enums(hint: object) -> list[type[Enum]]:
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return [part for part in parts if isinstance(part, type) and issubclass(part, Enum)]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("adam_beta2", [0.9, 1], ["0.9", True, None, [0.9]]),
        ("optim", ["adamw_torch", "sgd"], ["adamw_troch", 3, None]),
        ("eval_strategy", ["no", "steps", "epoch"], ["sometimes", False]),
        ("eval_steps", [None, 10, 0.1], ["ten", True]),
        ("lr_scheduler_kwargs", [None, {"num_cycles": 2}, "{}"], [3, [1]]),
        ("gradient_checkpointing_kwargs", [{"use_reentrant": False}], [True]),
        ("debug", ["", ["underflow_overflow"]], [3]),
        ("dataloader_num_workers", [0, 4], [1.5, "4"]),
        ("truncation_mode", ["keep_start"], ["keep_middle"]),
        ("f_divergence_type", ["reverse_kl", "js_divergence"], ["reverse", None]),
        ("pad_to_multiple_of", ["auto", 8, None], [1.5]),
        ("parallelism_config", [None, {"any": "thing"}], []),
    ],
)
def test_values(name: str, good: list[object], bad: list[object]) -> None:
    field = fields("DPOConfig")[name]
    assert [value for value in good if field.refusal(value) is not None] == []
    assert [value for value in bad if field.refusal(value) is None] == []


def test_the_choices_told_in_prose_are_still_told() -> None:
    import importlib.util
    from pathlib import Path

    from trainers.training.trl_fields import FILES, IN_PROSE

    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0]).parent
    for (config, name), choices in IN_PROSE.items():
        text = (root / FILES[config]).read_text(encoding="utf-8")
        assert all(f"`{choice}`" in text for choice in choices), name


def test_refusals_say_what_is_allowed() -> None:
    known = fields("SFTConfig")
    assert known["adam_beta2"].refusal("x") == "a number"
    assert known["eval_steps"].refusal("x") == "a number or null"
    assert known["packing_strategy"].refusal("x") == "one of bfd, bfd_split, wrapped"
    assert known["report_to"].refusal(3) == "text or a list or null"
    assert TrlField("x").refusal(object()) is None


def test_nothing_heavy_is_imported_and_it_is_fast() -> None:
    code = (
        "import sys, time; began = time.perf_counter()\n"
        "from trainers.training.trl_fields import fields\n"
        "assert len(fields('SFTConfig')) > 100 and len(fields('DPOConfig')) > 100\n"
        "assert not {'torch', 'trl', 'transformers', 'numpy'} & set(sys.modules)\n"
        "print(time.perf_counter() - began)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1


def test_without_trl_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    fields.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert fields("SFTConfig") == {}
    fields.cache_clear()
