"""How much faster candidates are drawn when a prompt is read once: `python -m benchmarks.sampling`.

Both samplers draw eight answers to each prompt on one thread. Greedy answers must be equal, or nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Before torch is imported: one thread, because a second one on a shared machine measures the neighbours.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

RESULTS = Path(__file__).parent.parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--model", choices=("tiny", "smollm2-135m"), default="tiny")
    parser.add_argument(
        "--smoke", action="store_true", help="one prompt, three rounds: seconds, for the tests"
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of each sampler (default 5)")
    parser.add_argument("--json", type=Path, help="where the figures go (default: benchmarks/results)")
    given = parser.parse_args(arguments)

    import torch

    from benchmarks.sampling.measure import Setting, measure
    from pipelines import provenance

    torch.set_num_threads(1)
    setting = Setting(
        model=given.model,
        prompts=1 if given.smoke else 2,
        prompt_tokens=384,
        num_return_sequences=8,
        max_new_tokens=16 if given.smoke else 32,
        rounds=3 if given.smoke else given.rounds,
    )
    result = measure(setting, lambda line: print(line, flush=True))
    result |= {
        "threads": torch.get_num_threads(),
        "cpu": provenance.cpu_model(),
        "versions": provenance.versions(),
        "commit": provenance.commit(Path(__file__).parent),
    }
    target = given.json or (None if given.smoke else RESULTS / f"sampling-{given.model}.json")
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(result, indent=2) + "\n")
        print(f"written to {target}")
    if not result["greedy_equal"]:
        print("the greedy answers differ: nothing was timed", file=sys.stderr)
        return 1
    ratio, wall = result["ratio_cpu"], result["ratio_wall"]
    print(
        f"{given.model}: {ratio['median']:.2f}x the speed of generate(num_return_sequences=8) by CPU time "
        f"({ratio['min']:.2f} to {ratio['max']:.2f}), {wall['median']:.2f}x by wall time; "
        f"reading a prompt once saves at most {result['token_limit']:.2f}x of the tokens"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
