"""What the start's distributions cost in memory: the adapter switched off, against a frozen copy of the model.

python -m benchmarks.unlearning.reference_memory smollm2-135m
"""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from trainers.config import AdapterOptions, ModelOptions
from trainers.forgetting.retain_kl import Start
from trainers.models import load_policy
from trainers.work import Work


def resident(device: torch.device) -> float:
    """MiB that this process holds: of the GPU where there is one, else of main memory."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated() / 2**20
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmRSS")


def measure(alias: str, *, use_peft: bool) -> tuple[float, float]:
    """MiB of the model, and what the reference adds."""
    work = Work(out=Path(tempfile.mkdtemp()), say=lambda _: None)
    train = AdapterOptions(use_peft=use_peft)
    loaded = load_policy(alias, ModelOptions(model=alias), work, train=train, seed=0)
    model: Any = loaded.model
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # out of the mapped file, which counts only as it is read
    trainer: Any = SimpleNamespace(model=model, is_fsdp_enabled=False, is_deepspeed_enabled=False)
    before = resident(loaded.device)
    start = Start(trainer, [], work)
    after = resident(loaded.device)
    assert (start.copy is None) == use_peft
    return size, after - before


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
    for use_peft, how in ((True, "adapter off"), (False, "frozen copy")):
        weights, added = measure(name, use_peft=use_peft)
        print(f"{name}, {how}: the model's weights {weights:.1f} MiB, the reference adds {added:.1f} MiB")
