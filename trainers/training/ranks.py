"""Which of several processes of one stage this is, as torchrun tells it; alone, it is the first of one."""

from __future__ import annotations

import os


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_everyone() -> None:
    """Until every process is here. Puts each on its own GPU, so it comes before any model is loaded."""
    if world_size() == 1:
        return
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def sharded() -> bool:
    """Whether each process is to hold a part of the model only, as accelerate's launcher tells it: FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
