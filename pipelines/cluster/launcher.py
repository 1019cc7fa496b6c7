"""The words that start several processes of a stage: torchrun's, or accelerate's where a stage names a launcher config.

Both meet at a fixed place, the first node of the job, so that ranks follow nodes, and a node that is missing is an
error instead of a smaller group.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from data.errors import RunError
from pipelines.stage import Stage

NAMES = ("single_gpu", "multi_gpu", "zero2", "zero3", "fsdp2")
"""TRL's names."""
_TREE, _PACKAGE = Path(__file__).parents[2] / "recipes" / "accelerate", Path(__file__).parent / "accelerate"
FOLDER = _TREE if _TREE.is_dir() else _PACKAGE


@dataclass(frozen=True)
class Group:
    """The processes of a job, seen from one of its nodes."""

    nodes: int
    node_rank: int
    processes: int
    """On each node."""
    master: str
    """HOST:PORT on the first node."""


def config_file(stage: Stage, base: Path, processes: int) -> Path | None:
    """Accelerate's file that the stage names: one of ours by its name, or a path seen from the recipe."""
    given = stage.resources.accelerate_config if stage.resources else None
    if given is None:
        return None
    path = FOLDER / f"{given}.yaml" if given in NAMES else base / Path(given).expanduser()
    where = f"stages.{stage.name}.resources.accelerate_config"
    way_out = f"Name one of {', '.join(NAMES)}, or a file that `accelerate config` wrote."
    try:
        found: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise RunError(f"{given} cannot be read: {fault}", where=where, way_out=way_out) from fault
    kind = cast("dict[str, object]", found).get("distributed_type") if isinstance(found, dict) else None
    if not isinstance(kind, str):
        raise RunError(f"{path} names no `distributed_type`", where=where, way_out=way_out)
    if kind == "NO" and processes > 1:  # accelerate would start as many lone runs.
        raise RunError(
            f"{given} is for one process, and the stage asks for {processes}",
            where=where,
            way_out="Write multi_gpu, or leave it out.",
        )
    return path


def words(group: Group, config: Path | None) -> tuple[str, ...]:
    """Python's arguments before `-m pipelines.worker`; none for one process alone."""
    host, _, port = group.master.rpartition(":")
    total = group.nodes * group.processes
    if config is not None:
        where = ("--main_process_ip", host, "--main_process_port", port) if total > 1 else ()
        return (
            "-m", "accelerate.commands.launch", "--config_file", str(config), "--num_machines", str(group.nodes),
            "--machine_rank", str(group.node_rank), "--num_processes", str(total), *where,
        )  # fmt: skip
    if total == 1:
        return ()
    return (
        "-m", "torch.distributed.run", f"--nnodes={group.nodes}", f"--node-rank={group.node_rank}",
        f"--nproc-per-node={group.processes}", f"--master-addr={host}", f"--master-port={port}",
    )  # fmt: skip
