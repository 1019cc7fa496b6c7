"""Runs prepared training stages as one process and as two over gloo: `python -m tests.two_processes JOB.json`.

The libraries are imported once and every process is forked from here, before any of them computes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

import trainers.preference as preference
import trainers.sft as sft
from trainers.config import PreferOptions, SftOptions
from trainers.training.ranks import wait_for_everyone
from trainers.work import Work


def run(rank: int, world: int, port: int, stages: list[dict[str, Any]]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    for stage in stages:
        out, lines = Path(stage["out"]), []
        work = Work(out=out, store=Path(stage["store"]), say=lambda _: None, log=lines.append)
        if stage["kind"] == "sft":
            options = SftOptions.model_validate_json(json.dumps(stage["options"]))
            figures = sft.train_sft(options, "tiny", work, name="sft")
        else:
            options = PreferOptions.model_validate_json(json.dumps(stage["options"]))
            figures = preference.train_preference(options, "tiny", work, name="prefer")
        (out / f"told-{rank}.json").write_text(json.dumps({"figures": figures, "lines": lines}))
    wait_for_everyone()  # as a stage does at its end: who is done first must not hang up on the other


def main(file: str) -> None:
    jobs = json.loads(Path(file).read_text(encoding="utf-8"))
    fork = multiprocessing.get_context("fork")
    for job in jobs:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        world = job["world"]
        several = [fork.Process(target=run, args=(rank, world, port, job["stages"])) for rank in range(world)]
        for process in several:
            process.start()
        for process in several:
            process.join()
        if any(process.exitcode for process in several):
            sys.exit(f"of {world} processes some failed: {[process.exitcode for process in several]}")


if __name__ == "__main__":
    main(sys.argv[1])
