"""`python -m benchmarks.dpo [--model tiny|smollm2-135m] [--smoke] [--json FILE]`: a step of DPO, TRL's beside ours.

Gradients of both sides are compared with a naive computation in double precision first: a fast wrong step is no step.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before torch: glibc gives large blocks back at every free and faults them in again; the same for both sides.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from benchmarks.dpo import limits, memory, rows, sides, timing
from pipelines import provenance

PARTS = ("pair", "tree4", "ragged", "memory")
NEAR = 2e-5
"""Relative distance from the double-precision gradient beyond which nothing is timed, in float32."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dpo", description=__doc__)
    parser.add_argument("--model", choices=("tiny", "smollm2-135m"), default="tiny")
    parser.add_argument("--smoke", action="store_true", help="few rounds, short rows, no memory: a minute")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="some of them; all, if left out")
    asked = parser.parse_args(arguments)
    parts = asked.parts or (PARTS[:2] if asked.smoke else PARTS)
    torch.set_num_threads(asked.threads)
    rounds = asked.rounds or (2 if asked.smoke else 5)
    prompt, completion = (96, 32) if asked.smoke else (384, 128)
    found: dict[str, Any] = {
        "model": asked.model,
        "prompt": prompt,
        "completion": completion,
        "rounds": rounds,
        "threads": asked.threads,
        "ratios": {},
        "limits": {},
        "gradient_error": {},
        "milliseconds": {},
        "versions": provenance.versions(),
        "device": _device(),
        "commit": provenance.commit(Path(__file__).parent),
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = rows.model_folder(asked.model, folder)
        for name, measure in (("pair", _pair), ("tree4", _tree), ("ragged", _ragged)):
            if name in parts:
                measure(found, model, folder, rounds, prompt, completion)
                gc.collect()  # the trainers of one part are too large to stand beside those of the next
        if "memory" in parts:
            _memory(found, model, asked.model, prompt, completion)
    _print(found)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else str(provenance.cpu_model())


def _pair(
    found: dict[str, Any], model: Path, folder: Path, rounds: int, prompt: int, completion: int
) -> None:
    """One pair: what sharing the prompt, the head and the store give."""
    data = rows.pairs(1, prompt, completion)
    trl = sides.trl_trainer(model, data, folder, lora=True, bf16=False, precomputed=False)
    stored = sides.trl_trainer(model, data, folder, lora=True, bf16=False, precomputed=True)
    ours = sides.our_trainer(model, data, folder / "pair", lora=True, bf16=False)
    _check(found, model, "pair", {"trl": trl, "ours": ours}, data)
    timed = timing.alternate(
        {
            "trl": sides.trl_step(trl, [data], only_answers=False),
            "trl(c)": sides.trl_step(trl, [data], only_answers=True),
            "trl(c)+precomputed": sides.trl_step(stored, [data], only_answers=True),
            "ours": sides.our_step(ours, [data], stored=False),
            "ours+store": sides.our_step(ours, [data], stored=True),
        },
        rounds,
    )
    shape = rows.shape_of(ours.model)
    groups = [(prompt, [completion, completion])]
    cost = {
        "trl": limits.operations(limits.padded([data], only_answers=False), shape, reference=True),
        "trl(c)": limits.operations(limits.padded([data], only_answers=True), shape, reference=True),
        "trl(c)+precomputed": limits.operations(
            limits.padded([data], only_answers=True), shape, reference=False
        ),
        "ours": limits.operations(limits.tree(groups), shape, reference=True),
        "ours+store": limits.operations(limits.tree(groups), shape, reference=False),
    }
    found["milliseconds"]["pair"] = timing.summary(timed)
    for fast, slow in (
        ("ours", "trl"),
        ("ours", "trl(c)"),
        ("ours+store", "trl"),
        ("ours+store", "trl(c)"),
        ("ours+store", "trl(c)+precomputed"),
    ):
        _ratio(found, f"{fast}/{slow}", timing.ratio(timed, slow, fast), cost[slow] / cost[fast])


def _tree(
    found: dict[str, Any], model: Path, folder: Path, rounds: int, prompt: int, completion: int
) -> None:
    """Four ranked candidates: all six pairs."""
    together, apart = rows.ranked(4, prompt, completion)
    trl = sides.trl_trainer(model, apart, folder, lora=True, bf16=False, precomputed=False)
    ours = sides.our_trainer(model, [together], folder / "tree", lora=True, bf16=False)
    _check(found, model, "tree4", {"trl": trl, "ours": ours}, apart, [together])
    timed = timing.alternate(
        {
            "trl(c)": sides.trl_step(trl, [apart], only_answers=True),
            "ours": sides.our_step(ours, [[together]], stored=False),
            "ours+store": sides.our_step(ours, [[together]], stored=True),
        },
        max(2, rounds // 2),
    )
    shape = rows.shape_of(ours.model)
    run = limits.tree([(prompt, [completion] * 4)])
    slow = limits.operations(limits.padded([apart], only_answers=True), shape, reference=True)
    found["milliseconds"]["tree4"] = timing.summary(timed)
    fast = limits.operations(run, shape, reference=True)
    _ratio(found, "tree4/trl(c)", timing.ratio(timed, "trl(c)", "ours"), slow / fast)
    fast = limits.operations(run, shape, reference=False)
    _ratio(found, "tree4+store/trl(c)", timing.ratio(timed, "trl(c)", "ours+store"), slow / fast)


def _ragged(
    found: dict[str, Any], model: Path, folder: Path, rounds: int, prompt: int, completion: int
) -> None:
    """Eight pairs of unlike lengths: TRL in batches of two of like length, ours as they come."""
    data = rows.ragged(8, prompt, completion)
    by_length = sorted(data, key=rows.length)
    batches = [by_length[i : i + 2] for i in range(0, 8, 2)]
    trl = sides.trl_trainer(model, data, folder, lora=True, bf16=False, precomputed=False)
    ours = sides.our_trainer(model, data, folder / "ragged", lora=True, bf16=False)
    timed = timing.alternate(
        {
            "trl(c) grouped": sides.trl_step(trl, batches, only_answers=True),
            "ours": sides.our_step(ours, [data], stored=False),
        },
        max(2, rounds // 2),
    )
    shape = rows.shape_of(ours.model)
    run = limits.tree([(len(r["prompt_ids"]), [len(r["chosen_ids"]), len(r["rejected_ids"])]) for r in data])
    slow = limits.operations(limits.padded(batches, only_answers=True), shape, reference=True)
    found["milliseconds"]["ragged"] = timing.summary(timed)
    limit = slow / limits.operations(run, shape, reference=True)
    _ratio(found, "ragged/trl(c) grouped", timing.ratio(timed, "trl(c) grouped", "ours"), limit)


def _memory(found: dict[str, Any], model: Path, name: str, prompt: int, completion: int) -> None:
    pairs, bf16 = (4, False) if name == "tiny" else (2, True)
    grown = {
        side: round(memory.growth(side, model, pairs, bf16=bf16, prompt=prompt, completion=completion))
        for side in memory.SIDES
    }
    found["memory"] = {
        "pairs": pairs,
        "bf16": bf16,
        "megabytes": grown,
        "trl/ours": round(grown["trl"] / grown["ours"], 2),
        "trl(c)/ours": round(grown["trl(c)"] / grown["ours"], 2),
    }


def _check(
    found: dict[str, Any],
    model: Path,
    name: str,
    trainers: dict[str, Any],
    data: Sequence[rows.Row],
    grouped: Sequence[rows.Row] | None = None,
) -> None:
    """The gradients of one step against the definition; raises where one is wrong."""
    exact = sides.naive_gradients(model, trainers["ours"], data)
    for side, trainer in trainers.items():
        batch = list(grouped or data) if side == "ours" else list(data)
        inputs = trainer.data_collator(batch)
        if side == "ours":
            (inputs,), _ = trainer.get_batch_samples(iter([inputs]), 1, trainer.accelerator.device)
        trainer.training_step(trainer.model, inputs, None)
        error = sides.apart(sides.gradients(trainer), exact)
        found["gradient_error"][f"{name}: {side}"] = float(f"{error:.2e}")
        if not error <= NEAR:
            raise SystemExit(
                f"{side}, {name}: the gradient is {error:.2e} from the exact one; nothing was timed"
            )


def _ratio(found: dict[str, Any], name: str, measured: dict[str, float], limit: float) -> None:
    found["ratios"][name] = measured["ratio"]
    found["limits"][name] = round(limit, 2)
    found.setdefault("rounds_between", {})[name] = [measured["least"], measured["greatest"]]


def _print(found: dict[str, Any]) -> None:
    print(f"{found['model']}, prompt {found['prompt']}, 2 x {found['completion']}, LoRA, float32, CPU time")
    for name, error in found["gradient_error"].items():
        print(f"  gradient of {name:12} {error:.1e} from double precision")
    for name, value in found["ratios"].items():
        least, greatest = found["rounds_between"][name]
        print(
            f"  {name:32} {value:6.2f}x   rounds {least:.2f} to {greatest:.2f}   arithmetic {found['limits'][name]:.2f}"
        )
    if "memory" in found:
        kept = found["memory"]
        print(f"  peak growth, {kept['pairs']} pairs: {kept['megabytes']} MB, trl/ours {kept['trl/ours']}")


if __name__ == "__main__":
    main()
