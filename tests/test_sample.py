"""Candidates: their rows and figures, what is left out, and that a kill loses and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import trainers.sampling.sample
from data.errors import DataError
from data.jsonl import read_jsonl
from data.sources import Mixture
from trainers.config import ModelOptions, SamplingOptions
from trainers.sampling.sample import sample
from trainers.work import Work

KEYS = {"text", "index", "finished", "ended_by", "logprob", "tokens"}
TINY = ModelOptions(model="tiny")
OPTIONS = SamplingOptions(max_new_tokens=6, num_return_sequences=3, batch_size=6)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "The signal is", "facts": ["x"]},
    {"id": 7, "prompt": [{"role": "user", "content": "Where is the mirror?"}]},
    {"prompt": "Yes, lamp and valley;"},
    {"prompt": "Yes, lamp and valley;"},
    {"prompt": "The mountain counts the sun, and the cloud", "completion": " waits."},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Mixture:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Mixture.model_validate(path.name)


def run(folder: Path, rows: list[dict[str, Any]], options: SamplingOptions = OPTIONS) -> Any:
    said: list[str] = []
    mixture = write(folder / "prompts.jsonl", rows)
    out = folder / "rows.jsonl"
    figures = sample(options, TINY, "tiny", mixture, folder, out, Work(folder, say=said.append))
    return figures, read_jsonl(out), said


def test_rows_are_in_order_with_their_columns_and_figures(tmp_path: Path) -> None:
    figures, rows, said = run(tmp_path, ROWS)
    made = hashlib.sha256(b'"Yes, lamp and valley;"').hexdigest()[:12]
    assert [row["id"] for row in rows[:4]] == ["a", "7", made, f"{made}-2"]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in ROWS]
    assert rows[0]["facts"] == ["x"]
    assert rows[4]["completion"] == " waits."
    assert "prompts: 1 rows have a 'completion' already; the model answers without it" in said
    for row in rows:
        assert [candidate["index"] for candidate in row["candidates"]] == [0, 1, 2]
        assert all(set(c) == KEYS for c in row["candidates"])
    # Same prompt, other key: other samples.
    assert rows[2]["candidates"] != rows[3]["candidates"]
    candidates = [c for row in rows for c in row["candidates"]]
    assert figures["prompts"] == 5
    assert figures["candidates"] == 5 * 3
    assert figures["tokens"] == sum(c["tokens"] for c in candidates)
    assert figures["cut"] == sum(not c["finished"] for c in candidates)
    assert figures["ended_by_eos"] + figures["ended_by_stop"] + figures["cut"] == 15
    assert figures["ended_by_stop"] == 0
    assert all(c["finished"] or c["tokens"] == 6 for c in candidates)
    # A thousand nearly equal tokens, six draws: no two samples are alike.
    assert figures["distinct"] == 1.0
    assert not list(tmp_path.glob("*.part*"))


def test_an_answer_is_what_the_model_says_after_the_rendered_prompt(tmp_path: Path) -> None:
    import torch

    from trainers.models import load_policy

    _, rows, _ = run(tmp_path, ROWS)
    loaded = load_policy("tiny", TINY, Work(tmp_path, say=lambda _: None))
    tokenizer: Any = loaded.tokenizer
    for row, text in (
        (rows[0], "The signal is"),
        (rows[1], "<|im_start|>user\nWhere is the mirror?<|im_end|>\n<|im_start|>assistant\n"),
    ):
        start = tokenizer(text)["input_ids"]
        for candidate in row["candidates"]:
            ids = tokenizer(candidate["text"])["input_ids"]
            if len(ids) != candidate["tokens"] or candidate["finished"]:
                continue  # text that tokenises otherwise than it was drawn
            logprobs = loaded.model(torch.tensor([start + ids])).logits[0].log_softmax(-1)
            whole = sum(logprobs[len(start) + i - 1, token].item() for i, token in enumerate(ids))
            assert candidate["logprob"] == pytest.approx(whole, abs=2e-4)


def test_stop_strings_cut_the_text_and_are_counted(tmp_path: Path) -> None:
    _, plain, _ = run(tmp_path / "plain", ROWS)
    # Three characters from the middle of two answers: they keep to no token's boundaries.
    stops = tuple(plain[row]["candidates"][0]["text"][5:8] for row in (0, 4))
    figures, rows, _ = run(tmp_path / "cut", ROWS, OPTIONS.model_copy(update={"stop_strings": stops}))
    stopped = 0
    for row, whole in zip(rows, plain, strict=True):
        for candidate, uncut in zip(row["candidates"], whole["candidates"], strict=True):
            starts = [uncut["text"].index(stop) for stop in stops if stop in uncut["text"]]
            if starts:
                stopped += 1
                assert candidate["text"] == uncut["text"][: min(starts)]
                assert (candidate["ended_by"], candidate["finished"]) == ("stop", True)
                assert candidate["tokens"] <= uncut["tokens"]
            else:
                assert candidate == uncut
    assert 0 < stopped < 15
    assert (figures["ended_by_stop"], figures["cut"]) == (stopped, 15 - stopped - figures["ended_by_eos"])


def test_empty_and_overlong_prompts_are_counted_with_their_place(tmp_path: Path) -> None:
    long = {"prompt": "sun " * 1024}  # the tiny model's context is 512 tokens
    figures, rows, said = run(tmp_path, [ROWS[0], {"prompt": "  "}, long, {"prompt": []}])
    assert (figures["prompts"], figures["dropped"], len(rows)) == (1, 3, 1)
    told = "\n".join(said)
    assert "dropped 2: the prompt is empty (" in told
    assert "prompts.jsonl:2, " in told
    assert "dropped 1: with 6 new tokens the prompt is longer than the model's context (512) (" in told
    with pytest.raises(DataError, match=r"no prompt is left to answer .*the prompt is empty: 1"):
        run(tmp_path, [{"prompt": ""}])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], "stands twice, first at"),
        ([{"id": 1.5, "prompt": "x"}], "`id` is 1.5"),
        ([{"prompt": "x", "candidates": []}], "'candidates' is one that this stage writes"),
        ([{"text": "x"}], "the column 'prompt' is missing"),
    ],
)
def test_rows_that_cannot_be_used_are_errors_with_file_and_line(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message) as fault:
        run(tmp_path, rows)
    assert f"prompts.jsonl:{len(rows)}" in str(fault.value)


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", ROWS)
    written: list[int] = []
    append = trainers.sampling.sample.append_jsonl

    def dies_after_one_batch(path: Path, rows: list[dict[str, Any]]) -> int:
        written.append(len(rows))
        if (
            len(written) == 3
        ):  # the mark, the first batch, and now the second: half a line of it reaches the disk
            with path.open("ab") as file:
                file.write(json.dumps(rows[0]).encode() + b"\n" + json.dumps(rows[1]).encode()[:20])
            raise KeyboardInterrupt
        return append(path, rows)

    monkeypatch.setattr(trainers.sampling.sample, "append_jsonl", dies_after_one_batch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", ROWS)
    monkeypatch.undo()
    assert not (tmp_path / "cut" / "rows.jsonl").exists()
    figures, _, said = run(tmp_path / "cut", ROWS)
    assert "goes on: 3 of 5 prompts have their candidates" in said
    assert figures["candidates"] == 15
    names = {path.name for path in (tmp_path / "cut").iterdir()}
    assert names == {"ledger.json", "prompts.jsonl", "rows.jsonl", "sampling.json"}
    assert (tmp_path / "cut" / "rows.jsonl").read_bytes() == (tmp_path / "whole" / "rows.jsonl").read_bytes()


def test_leftovers_of_other_settings_are_put_aside(tmp_path: Path) -> None:
    _, rows, _ = run(tmp_path / "whole", ROWS)
    folder = tmp_path / "again"
    folder.mkdir()
    part = folder / "rows.jsonl.part"
    part.write_text('{"fingerprint": "of something else"}\n{"id": "a", "candidates": []}\n')
    figures, again, said = run(folder, ROWS)
    assert again == rows
    assert any("rows.jsonl.part.old was sampled with other settings" in line for line in said)
    # Finished: the same call answers from the file; the batch size does not change what a stage makes.
    wider = OPTIONS.model_copy(update={"batch_size": 3})
    assert run(folder, ROWS, wider)[0] == figures
    assert run(folder, ROWS, OPTIONS.model_copy(update={"seed": 1}))[1] != rows


CHILD = """
import sys
from pathlib import Path
from data.sources import Mixture
from trainers.config import ModelOptions, SamplingOptions
from trainers.sampling.sample import sample
from trainers.work import Work
folder = Path(sys.argv[1])
options = SamplingOptions.model_validate_json(sys.argv[2])
sample(options, ModelOptions(model="tiny"), "tiny", Mixture.model_validate("prompts.jsonl"), folder,
       folder / "rows.jsonl", Work(folder))
"""


def test_kill_9_loses_at_most_a_batch_and_changes_nothing(tmp_path: Path) -> None:
    rows = [{"id": str(i), "prompt": f"The signal {i} is" + " sun" * i} for i in range(24)]
    options = SamplingOptions(max_new_tokens=200, num_return_sequences=4, batch_size=8)  # twelve batches
    cut = tmp_path / "cut"
    write(cut / "prompts.jsonl", rows)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(cut), options.model_dump_json()],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.DEVNULL,
    )
    part = cut / "rows.jsonl.part"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (part.is_file() and part.read_bytes().count(b"\n") > 6):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait(30) == -signal.SIGKILL
    left = part.read_bytes().count(b"\n") - 1
    assert 6 <= left < 24
    said = run(cut, rows, options)[2]
    assert f"goes on: {left} of 24 prompts have their candidates" in said
    run(tmp_path / "whole", rows, options)
    assert (cut / "rows.jsonl").read_bytes() == (tmp_path / "whole" / "rows.jsonl").read_bytes()
    assert not part.exists()
