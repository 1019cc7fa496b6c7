"""`python -m benchmarks.dpo.profile [--model tiny|smollm2-135m]`: where the time of one of our steps goes."""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.dpo import rows, sides

PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::addbmm"}
MOVES = {
    "aten::copy_",
    "aten::cat",
    "aten::index_select",
    "aten::index",
    "aten::fill_",
    "aten::zero_",
    "aten::gather",
}
STEPS = 3


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Shares of the step's own time, which add up to 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dpo.profile", description=__doc__)
    parser.add_argument("--model", choices=("tiny", "smollm2-135m"), default="tiny")
    parser.add_argument("--prompt", type=int, default=384)
    parser.add_argument("--completion", type=int, default=128)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        model = rows.model_folder(asked.model, Path(place))
        data = rows.pairs(1, asked.prompt, asked.completion)
        trainer = sides.our_trainer(model, data, Path(place) / "ours", lora=True, bf16=False)
        step = sides.our_step(trainer, [data], stored=True)
        step()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
            for _ in range(STEPS):
                step()
        shares = _shares(seen, trainer.model.config.vocab_size)
    for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        print(f"  {name:28} {share:6.1%}")
    return shares


def _shares(seen: profile, vocabulary: int) -> dict[str, float]:
    spent: defaultdict[str, float] = defaultdict(float)
    for event in seen.key_averages(group_by_input_shape=True):
        spent[_kind(event.key, event.input_shapes, vocabulary)] += event.self_cpu_time_total
    whole = sum(spent.values())
    return {name: time / whole for name, time in spent.items()}


def _kind(name: str, shapes: Sequence[Sequence[int]], vocabulary: int) -> str:
    of_head = any(vocabulary in shape for shape in shapes)
    if name in PRODUCTS:
        return "head: matrix products" if of_head else "layers: matrix products"
    if of_head:
        return "head: softmax and the rest"
    if "scaled_dot_product" in name or "flash_attention" in name:
        return "attention"
    if "Optimizer" in name or "foreach" in name:
        return "optimiser"
    return "copies and lookups" if name in MOVES else "elementwise, norms, Python"


if __name__ == "__main__":
    main()
