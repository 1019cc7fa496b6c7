"""Peak memory of one side's training steps, over what it holds once it is built: one process for each side."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SIDES = ("trl", "trl(c)", "ours")


def growth(side: str, model: Path, pairs: int, *, bf16: bool, prompt: int, completion: int) -> float:
    """Megabytes, measured in a process of its own."""
    asked = {
        "side": side,
        "model": str(model),
        "pairs": pairs,
        "bf16": bf16,
        "prompt": prompt,
        "completion": completion,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.dpo.memory", json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {side} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    import torch

    from benchmarks.dpo import rows, sides

    torch.set_num_threads(1)
    asked = json.loads(sys.argv[1])
    data = rows.pairs(asked["pairs"], asked["prompt"], asked["completion"])
    model, bf16, side = Path(asked["model"]), asked["bf16"], asked["side"]
    with tempfile.TemporaryDirectory() as place:
        if side == "ours":
            trainer = sides.our_trainer(model, data, Path(place), lora=True, bf16=bf16)
            step = sides.our_step(trainer, [data], stored=False)
        else:
            trainer = sides.trl_trainer(model, data, Path(place), lora=True, bf16=bf16, precomputed=False)
            step = sides.trl_step(trainer, [data], only_answers=side == "trl(c)")
        before = _kilobytes("VmRSS")
        # The peak so far is that of building; and ru_maxrss would hold the peak of the process that started this one.
        Path("/proc/self/clear_refs").write_text("5")
        for _ in range(2):
            step()
        print((_kilobytes("VmHWM") - before) / 1024)


def _kilobytes(which: str) -> int:
    """VmRSS: in memory now; VmHWM: the most there was since it was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {which}: this measurement needs Linux")


if __name__ == "__main__":
    main()
