"""A stage's own training steps over made-up tokens of given lengths, in this process: peak memory and time.

`python -m pipelines.planning.trial`, with what to try as JSON on standard input; the answer is the last line printed.
What a step costs depends on how long its rows are and not on what they say, so the rows need not be at hand.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from data.errors import RunError

WARM = "tiny"
"""The model that the process trains first, so that what is loaded once is there before anything is measured."""
LOOPS = {"sft": "trainers.sft", "prefer": "trainers.preference", "unlearn": "trainers.forgetting.train"}
Row = tuple[int, Sequence[int]]
"""Tokens of a prompt, and of each answer to it."""


def main() -> None:
    """Each trial in a process of its own, forked from this one once everything heavy is loaded."""
    asked = json.loads(sys.stdin.read())
    import torch

    torch.set_num_threads(int(asked.get("threads", 1)))
    for kind in {one["kind"] for one in asked["trials"]}:
        import_module(LOOPS[kind])
    for one in asked["trials"]:
        print(json.dumps(_forked(one)), flush=True)


def _forked(asked: dict[str, Any]) -> dict[str, Any]:
    """What `_measured` finds, or how its process ended instead."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # What goes wrong here ends the process with Python's own words, and its exit code tells.
        os.close(read)
        with os.fdopen(write, "w") as told:
            told.write(json.dumps(_measured(asked)))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        found = told.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(found) if status == 0 else {"failed": status}


def _measured(asked: dict[str, Any]) -> dict[str, Any]:
    import torch

    short: list[Row] = [(3, [3] * len(asked["rows"][0][1]))] * 2
    with tempfile.TemporaryDirectory() as place:
        warm = {**asked["options"], "model": WARM, "per_device_train_batch_size": 2, "max_steps": 1}
        _train(asked["kind"], warm | {"gradient_accumulation_steps": 1}, short, Path(place), Marks())
    gc.collect()
    _give_back()
    marks = Marks()
    with tempfile.TemporaryDirectory() as place:
        idle = _status("VmRSS")
        # The peak so far is that of loading the program.
        Path("/proc/self/clear_refs").write_text("5")
        rows: list[Row] = [(int(prompt), [int(n) for n in answers]) for prompt, answers in asked["rows"]]
        _train(asked["kind"], asked["options"], rows, Path(place), marks)
    found: dict[str, Any] = {
        "program": idle,
        "peak": _status("VmHWM") - idle,
        "marks": [(name, peak - idle) for name, peak in marks.peaks],
        "seconds": marks.seconds(),
        "cpu_seconds": marks.seconds("cpu"),
    }
    if torch.cuda.is_available():
        found["gpu_peak"] = torch.cuda.max_memory_allocated()
    return found


class Marks:
    """The stage's progress, with the clock and the peak so far at each step."""

    def __init__(self) -> None:
        self.peaks: list[tuple[str, int]] = []
        self.times: list[tuple[float, float]] = []

    def __call__(self, *, done: float, total: float | None, unit: str, **figures: float) -> None:
        self.peaks.append((f"{unit} {done:g}", _status("VmHWM")))
        if unit == "steps":
            self.times.append((time.perf_counter(), time.process_time()))

    def seconds(self, clock: str = "wall") -> list[float]:
        """Of each step after the first."""
        place = ("wall", "cpu").index(clock)
        found = [each[place] for each in self.times]
        return [round(b - a, 4) for a, b in itertools.pairwise(found)]


def _train(kind: str, options: dict[str, Any], rows: list[Row], out: Path, marks: Marks) -> None:
    from data.arrow import write_arrow
    from trainers.work import LEDGER, Work

    work = Work(out=out, say=lambda _: None, progress=marks)
    work.scratch.mkdir(parents=True)
    (out / LEDGER).write_text(json.dumps({"train": {"longest": max(p + max(a) for p, a in rows)}}))
    write_arrow(work.scratch / "train.arrow", _made(kind, rows, options))
    given = {"save_steps": 1_000_000, "logging_steps": 1, **options}
    if kind == "sft":
        from trainers.config import SftOptions
        from trainers.sft import train_sft

        train_sft(SftOptions.model_validate(_in_order(given)), options["model"], work, name=kind)
    elif kind == "prefer":
        from trainers.config import PreferOptions
        from trainers.preference import train_preference

        train_preference(
            PreferOptions.model_validate(_in_order({**given, "watch": False})),
            options["model"],
            work,
            name=kind,
        )
    elif kind == "unlearn":
        from trainers.config import UnlearnOptions
        from trainers.forgetting.train import train_unlearn

        if options["method"] not in ("ga", "flat"):
            retain: list[Row] = [(prompt, [answers[0]]) for prompt, answers in rows]
            write_arrow(work.scratch / "retain.arrow", _made("retain", retain, options))
        train_unlearn(
            UnlearnOptions.model_validate({**given, "watch": False}), options["model"], work, name=kind
        )
    else:
        raise RunError(f"no trial of a stage of kind {kind}")


def _in_order(options: dict[str, Any]) -> dict[str, Any]:
    """The rows as they are given, so that a batch holds what it is meant to hold."""
    more = {"train_sampling_strategy": "sequential", **options.get("training", {})}
    return {**options, "training": more}


def _made(kind: str, rows: Sequence[Row], options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Tokenised rows as a stage's `prepare` writes them. No two share a prompt, or the tree would merge them."""
    judged = options.get("loss") is None and options.get("loss_type") in ("kto", "apo_zero_unpaired")
    for place, (prompt, answers) in enumerate(rows):
        ids = _ids(prompt, place)
        texts = [_ids(count, place + 17 * (i + 1)) for i, count in enumerate(answers)]
        if kind == "sft":
            yield {"input_ids": ids + texts[0], "labels": [-100] * prompt + texts[0]}
        elif kind == "retain":
            yield {"prompt_ids": _ids(prompt, place + 7), "completion_ids": texts[0], "label": True}
        elif kind == "unlearn":
            both = {"completions": texts} if len(texts) > 1 else {"completion_ids": texts[0], "label": True}
            yield {"prompt_ids": ids, **both}
        elif judged:
            other = {"mismatched_ids": texts[1]} if len(texts) > 1 else {}
            yield {"prompt_ids": ids, "completion_ids": texts[0], "label": place % 2 == 0, **other}
        elif len(texts) == 2:
            yield {"prompt_ids": ids, "chosen_ids": texts[0], "rejected_ids": texts[1]}
        else:
            pairs = [[i, j] for i in range(len(texts)) for j in range(i + 1, len(texts))]
            yield {"prompt_ids": ids, "completions": texts, "pairs": pairs, "weights": [1.0] * len(pairs)}


def _ids(count: int, seed: int) -> list[int]:
    return [5 + (seed * 131 + 7 * i) % 890 for i in range(count)]


def _status(which: str) -> int:
    """Bytes. VmRSS: in memory now; VmHWM: the most there was since it was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    raise RunError(f"/proc/self/status has no {which}", way_out="this measurement needs Linux")


def _give_back() -> None:
    """What the C library keeps for later: the measurement begins where the program is at its smallest."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


if __name__ == "__main__":
    main()
