"""What a site's administrators decide: partitions, accounts, GPUs, time limits, and how Python is found on a node."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,:@/+-]*$")]
"""Something sbatch takes as one value."""


class Site(BaseModel):
    """A cluster file, with every default in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    partition: Word
    """For stages that need GPUs, and for all others where there is no `cpu_partition`. Several: `a,b`."""
    cpu_partition: Word | None = None
    """For stages that need no GPU."""
    account: Word | None = None
    """Whom the time is charged to."""
    qos: Word | None = None
    """Quality of service."""
    gpus_per_node: Annotated[int, Field(ge=0, le=1024)] = 0
    """GPUs of a node; 0: this cluster has none, and every stage runs on CPUs."""
    gpu_type: Word | None = None
    """As in `--gres=gpu:TYPE:4`; left out: any."""
    cpus_per_gpu: Annotated[int, Field(ge=1)] = 8
    """CPU cores that come with each GPU."""
    cpus: Annotated[int, Field(ge=1)] = 4
    """CPU cores of each node of a stage without GPUs."""
    mem_per_gpu: Annotated[int, Field(ge=1)] | None = None
    """GB of memory that come with each GPU; left out: the site's default."""
    mem: Annotated[int, Field(ge=1)] | None = None
    """GB of memory of each node of a stage without GPUs; left out: the site's default."""
    exclusive: bool = False
    """Take whole nodes for a stage on several nodes."""
    max_hours: Annotated[float, Field(gt=0)] | None = None
    """Longest time limit of one job. A stage that asks for more saves, and goes on in the next. Left out: the
    partition's own limit."""
    warning_seconds: Annotated[int, Field(ge=20, le=65535)] = 180
    """How long before the time limit a stage is told to save; SLURM may be a minute early."""
    attempts: Annotated[int, Field(ge=1)] = 3
    """Attempts in a row that may end badly without getting further, before a job is left as failed."""
    python: Annotated[str, Field(min_length=1)] | None = None
    """Python on the nodes, or in the container; left out: the one that submits."""
    container: tuple[str, ...] = ()
    """Words before Python, such as `[apptainer, exec, --nv, image.sif]`; environment variables are filled in."""
    setup: str = ""
    """Lines of bash that run on every node before the stage, such as `module load cuda`."""
    scratch: Annotated[str, Field(min_length=1)] | None = None
    """Fast folder on the node for temporary files; environment variables are filled in."""
    sbatch: tuple[Annotated[str, Field(pattern=r"^-")], ...] = ()
    """Any other flags of sbatch; they come last, and so win."""
