"""What a stage needs of a cluster, in a recipe's words."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainers.config import Closed


class Resources(Closed):
    """A job's size. On a laptop it says nothing."""

    gpus: Annotated[int, Field(ge=0, le=65536)] | None = None
    """GPUs in all. Left out: one for a stage that runs a model, none for any other."""
    nodes: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Nodes they lie on. Left out: as few as the cluster's nodes allow."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Time limit of its job, after which it saves and goes on in the queue. Left out: the cluster's longest."""
    shards: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Jobs that make it in parts, side by side; the rows are joined in order, and are those of one job exactly. For
    `sample` with a `model`. Without a cluster the parts are made one after another."""
    accelerate_config: Annotated[str, Field(min_length=1)] | None = None
    """How several processes share a model that is trained: `single_gpu`, `multi_gpu`, `zero2`, `zero3` or `fsdp2`, or a
    file that `accelerate config` wrote. Left out: each GPU has the whole model."""
