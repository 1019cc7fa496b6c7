"""The records of a run folder, and what counts as a difference."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from data.errors import RunError
from data.sources import Mixture
from pipelines import state
from pipelines.recipe import resolved
from pipelines.stage import Built, Stage, StageRef
from pipelines.staleness import differences, input_files
from trainers.config import COSMETIC


class Limits(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float | None = None
    cut: float = 0.5


class Toy(Stage):
    kind: Literal["toy"] = "toy"
    model: Annotated[str, StageRef("model")] = "base"
    data: Annotated[Mixture | None, StageRef("rows")] = None
    beta: float = 0.1
    flag: bool = True
    size: Annotated[int, Field(json_schema_extra=COSMETIC)] = 8
    limits: Limits = Limits()
    weights: tuple[float, ...] = ()
    training: dict[str, Any] = Field(default_factory=dict)


def begun(stage: Stage, base: Path = Path(), **more: Any) -> state.Started:
    config = state.plain(resolved(stage))
    files = input_files(stage, base, set(more.get("inputs", {})))
    return state.Started(
        name=stage.name,
        kind="toy",
        build="aaaabbbbcccc",
        config=config,
        files=files,
        started=state.now(),
        **more,
    )


def done(path: Path) -> state.Done:
    record = state.Done(
        **begun(Toy(name="dpo")).model_dump(), metrics={"loss": 0.25}, finished=state.now(), seconds=3
    )
    state.write(path, record)
    return record


def told(then: Stage, now: Stage, base: Path = Path()) -> list[str]:
    return differences(now, begun(then, base), {}, base, set())


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = done(tmp_path / "done.json")
    assert state.read(tmp_path / "done.json", state.Done) == written
    assert os.listdir(tmp_path) == ["done.json"]


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert state.read(tmp_path / "done.json", state.Done) is None
    assert state.read(tmp_path / "no" / "folder.json", state.Done) is None


def test_every_half_of_a_record_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dpo" / "done.json"
    path.parent.mkdir()
    done(path)
    whole = path.read_bytes()
    for end in range(len(whole) - 2):
        path.write_bytes(whole[:end])
        with pytest.raises(RunError) as caught:
            state.read(path, state.Done)
        assert caught.value.where == str(path)
    assert "corrupt or half-written" in caught.value.what
    assert "--from dpo" in (caught.value.way_out or "")
    assert "Delete that file" in (caught.value.way_out or "")


@pytest.mark.parametrize(
    "content", [b"null", b"[]", b"3", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"name": 1}']
)
def test_what_is_json_but_no_record_is_an_error_too(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "done.json").write_bytes(content)
    with pytest.raises(RunError, match="corrupt or half-written"):
        state.read(tmp_path / "done.json", state.Done)


def test_a_later_format_is_refused_and_later_keys_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "done.json"
    done(path)
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"carbon": 3}))
    record = state.read(path, state.Done)
    assert record is not None
    assert record.model_dump()["carbon"] == 3
    path.write_text(json.dumps(value | {"format": 2}))
    with pytest.raises(RunError, match="written by a later version"):
        state.read(path, state.Done)


def test_a_disk_that_fills_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "done.json"
    written = done(path)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        done(path)
    monkeypatch.undo()
    assert state.read(path, state.Done) == written
    assert os.listdir(tmp_path) == ["done.json"]


def test_figures_become_what_json_can_hold() -> None:
    import numpy as np

    value = {
        "a": float("nan"),
        "b": np.float32(0.5),
        "c": np.arange(2),
        "d": (Path("x"), {3}),
        4: float("-inf"),
        "e": True,
    }
    assert state.plain(value) == {"a": None, "b": 0.5, "c": [0, 1], "d": ["x", [3]], "4": None, "e": True}
    assert state.plain(True) is True


def test_no_two_builds_have_one_name() -> None:
    names = {state.new_build({"beta": 0.1}, {}, {}) for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) == 12 and int(name, 16) >= 0 for name in names)


def test_an_equal_stage_has_no_differences() -> None:
    assert told(Toy(name="dpo"), Toy(name="dpo")) == []


@pytest.mark.parametrize(
    ("then", "now", "lines"),
    [
        ({}, {"beta": 0.2}, ["stages.dpo.beta: 0.1 -> 0.2"]),
        ({}, {"model": "sft"}, ["stages.dpo.model: base -> sft"]),
        ({}, {"size": 2}, []),
        ({}, {"limits": Limits(share=0.25)}, ["stages.dpo.limits.share: null -> 0.25"]),
        ({}, {"training": {"optim": "sgd"}}, ["stages.dpo.training.optim: (not set) -> sgd"]),
        ({"training": {"optim": "sgd"}}, {}, ["stages.dpo.training.optim: sgd -> (not set)"]),
        ({"weights": (1.0,)}, {"weights": (1.0, 2.0)}, ["stages.dpo.weights: [1.0] -> [1.0, 2.0]"]),
        (
            {"beta": 1.0, "flag": True},
            {"beta": 0.5, "flag": False},
            ["stages.dpo.beta: 1.0 -> 0.5", "stages.dpo.flag: true -> false"],
        ),
    ],
)  # fmt: skip
def test_a_changed_value_is_told_as_a_difference(
    then: dict[str, Any], now: dict[str, Any], lines: list[str]
) -> None:
    assert told(Toy(name="dpo", **then), Toy(name="dpo", **now)) == lines


def test_a_key_that_came_later_counts_only_when_it_is_used() -> None:
    old = begun(Toy(name="dpo"))
    for key in ("beta", "training"):
        del old.config[key]
    del old.config["limits"]["cut"]
    assert differences(Toy(name="dpo"), old, {}, Path(), set()) == []
    used = differences(Toy(name="dpo", beta=0.3, limits=Limits(cut=0.1)), old, {}, Path(), set())
    assert used == ["stages.dpo.limits.cut: (not set) -> 0.1", "stages.dpo.beta: (not set) -> 0.3"]


def test_a_key_that_is_gone_is_told() -> None:
    old = begun(Toy(name="dpo"))
    old.config["gamma"] = 3
    assert differences(Toy(name="dpo"), old, {}, Path(), set()) == ["stages.dpo.gamma: 3 -> (not set)"]


def test_a_rebuilt_and_a_missing_input_are_told() -> None:
    stage = Toy(name="dpo", model="sft")
    record = begun(stage, inputs={"sft": "aaaa"})

    def inputs(build: str) -> dict[str, Built | None]:
        return {"sft": Built("sft", "toy", Path(), build, {}, {})}

    assert differences(stage, record, inputs("aaaa"), Path(), {"sft"}) == []
    assert differences(stage, record, inputs("bbbb"), Path(), {"sft"}) == [
        "stages.dpo: its input sft was rebuilt"
    ]
    assert differences(stage, record, {"sft": None}, Path(), {"sft"}) == [
        "stages.dpo: its input sft is not finished"
    ]


def test_input_files_count_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "recipes"
    base.mkdir()
    file = base / "x.jsonl"
    file.write_text('{"prompt": "a"}\n')
    stage = Toy(name="dpo", data=Mixture.model_validate("x.jsonl"))
    record = begun(stage, base)
    assert list(record.files) == ["x.jsonl"]

    def now() -> list[str]:
        return differences(stage, record, {}, base, set())

    assert now() == []
    os.utime(file, ns=(1, 1))
    assert now() == []  # Another time, the same content.
    file.write_text('{"prompt": "b"}\n')
    os.utime(file, ns=(2, 2))
    assert now() == ["recipes/x.jsonl: content changed"]
    file.unlink()
    assert len(now()) == 1
    assert "x.jsonl" in now()[0]


def test_a_file_that_looks_as_before_is_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a"}\n')
    stage = Toy(name="dpo", data=Mixture.model_validate("x.jsonl"))
    marks = input_files(stage, tmp_path, set())
    marked = {"x.jsonl": marks["x.jsonl"].model_copy(update={"sha256": "as recorded"})}
    assert input_files(stage, tmp_path, set(), marked)["x.jsonl"].sha256 == "as recorded"
