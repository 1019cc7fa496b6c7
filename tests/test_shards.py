"""A sampling stage in shards: the rows of one process, whoever makes which shard and in which order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.errors import RunError
from data.jsonl import read_jsonl
from data.sources import Mixture
from pipelines import shards
from pipelines.recipe import check
from tests.handmade import heliograph
from trainers.config import ModelOptions, SamplingOptions
from trainers.sampling.parts import join
from trainers.sampling.sample import sample, sample_shards
from trainers.work import Work

TINY = ModelOptions(model="tiny")
OPTIONS = SamplingOptions(max_new_tokens=6, num_return_sequences=2, batch_size=4)
ROWS: list[dict[str, Any]] = [
    {"prompt": "The lamp" + " and the sun" * (i * 5 % 7), "place": i} for i in range(11)
]
"""Two prompts a batch: six batches, the last of one."""


def prompts(folder: Path) -> Mixture:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Mixture.model_validate("prompts.jsonl")


def make(folder: Path, wanted: list[int], count: int, options: SamplingOptions = OPTIONS) -> dict[int, Any]:
    works = {i: Work(folder / "shards" / str(i), say=lambda _: None) for i in wanted}
    return dict(sample_shards(options, TINY, "tiny", prompts(folder), folder, works, count))


def folders(folder: Path, count: int) -> list[Path]:
    return [folder / "shards" / str(i) for i in range(count)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    figures = sample(
        OPTIONS,
        TINY,
        "tiny",
        prompts(folder),
        folder,
        folder / "rows.jsonl",
        Work(folder, say=lambda _: None),
    )
    return (folder / "rows.jsonl").read_bytes(), figures


@pytest.mark.parametrize("count", [2, 4, 9])
def test_joined_they_are_the_rows_of_one_to_the_last_bit(
    count: int, tmp_path: Path, whole: tuple[bytes, dict[str, Any]]
) -> None:
    made = {}
    for index in reversed(range(count)):  # each as a job of its own, the last first
        made |= make(tmp_path, [index], count)
    # Round robin over six batches; with nine shards three have nothing to do.
    assert sum(metrics["prompts"] for metrics in made.values()) == 11
    assert [made[i]["prompts"] for i in range(count)] in ([6, 5], [4, 3, 2, 2], [2, 2, 2, 2, 2, 1, 0, 0, 0])
    work = Work(tmp_path, say=lambda _: None)
    figures = join(folders(tmp_path, count), OPTIONS, tmp_path / "rows.jsonl", work)
    assert (tmp_path / "rows.jsonl").read_bytes() == whole[0]
    same = whole[1].keys() - {"tokens_per_second"}
    assert {key: figures[key] for key in same} == {key: whole[1][key] for key in same}
    assert figures["shards"] == count
    assert work.resolved["sampler"]["value"] == "prefill once"
    # Killed after the join and before the stage's record: joining again finds it done.
    assert join(folders(tmp_path, count), OPTIONS, tmp_path / "rows.jsonl", work) == figures


def test_an_interrupted_shard_goes_on_from_what_it_has(
    tmp_path: Path, whole: tuple[bytes, dict[str, Any]]
) -> None:
    make(tmp_path, [1], 2)
    part = tmp_path / "shards" / "0" / "rows.jsonl.part"
    make(tmp_path, [0], 2)
    rows = read_jsonl(tmp_path / "shards" / "0" / "rows.jsonl")
    told = json.loads((tmp_path / "shards" / "0" / "part.json").read_text())
    # As a kill after its first batch leaves it, in the middle of a line.
    kept = [{"fingerprint": told["fingerprint"]}, *rows[:2]]
    part.write_text("".join(json.dumps(row) + "\n" for row in kept) + '{"id": "torn')
    for name in ("rows.jsonl", "part.json"):
        (tmp_path / "shards" / "0" / name).unlink()
    assert make(tmp_path, [0], 2)[0]["prompts"] == 6
    join(folders(tmp_path, 2), OPTIONS, tmp_path / "rows.jsonl", Work(tmp_path, say=lambda _: None))
    assert (tmp_path / "rows.jsonl").read_bytes() == whole[0]


def test_shards_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    make(tmp_path, [0], 2)
    with pytest.raises(RunError, match="the shard is not finished"):
        join(folders(tmp_path, 2), OPTIONS, tmp_path / "rows.jsonl", Work(tmp_path, say=lambda _: None))
    make(tmp_path, [1], 2, OPTIONS.model_copy(update={"batch_size": 2}))
    with pytest.raises(RunError, match="they do not fit together"):
        join(folders(tmp_path, 2), OPTIONS, tmp_path / "rows.jsonl", Work(tmp_path, say=lambda _: None))


def test_names_and_folders(tmp_path: Path) -> None:
    assert shards.parsed("answers") == ("answers", None)
    assert shards.parsed("answers.12") == ("answers", 12)
    assert shards.folder(tmp_path, "answers") == tmp_path / "answers"
    assert shards.folder(tmp_path, "answers.12") == tmp_path / "answers" / "shards" / "12"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("kind: sft, model: tiny, data: p.jsonl", "this kind is made whole: leave `shards` out"),
        (
            "kind: sample, model: tiny, prompts: p.jsonl, generation_engine: continuous",
            "which ran side by side",
        ),
        (
            "kind: sample, server: {base_url: 'http://x/v1', model: m}, prompts: p.jsonl",
            "a server is asked side by",
        ),
    ],
)
def test_what_cannot_be_split_is_a_fault_of_the_recipe(more: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"stages:\n  - {{name: a, {more}, resources: {{shards: 2}}}}\n")
    (fault,) = check(recipe).faults
    assert fault.path == "stages.a.resources.shards"
    assert told in fault.message


@pytest.mark.slow
def test_here_they_are_made_one_after_the_other(tmp_path: Path, whole: tuple[bytes, dict[str, Any]]) -> None:
    prompts(tmp_path)
    recipe = tmp_path / "r.yaml"
    stage = "name: a, kind: sample, model: tiny, prompts: prompts.jsonl, max_new_tokens: 6, num_return_sequences: 2"
    recipe.write_text(f"recipe: r\nstages:\n  - {{{stage}, batch_size: 4, resources: {{shards: 3}}}}\n")
    done = heliograph("run", recipe, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 shards are to be made here" in done.stdout
    assert (tmp_path / "runs" / "r" / "a" / "rows.jsonl").read_bytes() == whole[0]
    log = (tmp_path / "runs" / "r" / "a" / "log.txt").read_text()
    assert "shard 2: sampler: prefill once" in log
