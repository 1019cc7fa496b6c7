"""Errors of the machine as errors a person can act on: memory and disks that ran out, folders that refuse."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from data.errors import RunError, TrainingError, UserError
from pipelines.stage import Stage

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
# safetensors, tokenizers and arrow give the system's words, torch.save only that its own writer lost count.
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "(os error 28)", "(os error 122)")
TORCH_SAVE_TEXTS = ("PytorchStreamWriter failed writing", "inline_container.cc")
TORCH_SAVE_FAULTS = ("unexpected pos", "file write failed", "PytorchStreamWriter failed writing")
REFUSED_TEXTS = (
    "Read-only file system",
    "Permission denied (os error 13)",
    "File too large",
    "(os error 30)",
    "(os error 27)",
)
MEMORY_TEXTS = (
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Cannot allocate memory",
)


def told(error: BaseException, stage: Stage, folder: Path) -> UserError | None:
    """The error in a person's terms; None when it is a crash. `folder` is where the stage writes."""
    if isinstance(error, UserError):
        return error
    for fault, handled in _chain(error):
        if isinstance(fault, UserError) and not handled:
            return fault
        if _is_full(fault):
            return _full(fault, folder)
        if handled:  # It was met and dealt with before the error that counts.
            continue
        if _is_memory(fault):
            return out_of_memory(stage, _first_line(fault))
        if _is_refused(fault):
            return RunError(
                f"cannot be written or read: {_first_line(fault)}",
                where=_place(fault, folder),
                way_out="Mend the permissions, or choose another place with --runs-dir DIR; "
                "the same command then goes on.",
            )
    return None


def _chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """The error and what caused it, with whether it had been handled when the next one came."""
    seen: set[int] = set()
    fault: BaseException | None = error
    handled = False
    while fault is not None and id(fault) not in seen:
        seen.add(id(fault))
        yield fault, handled
        if fault.__cause__ is not None:
            fault = fault.__cause__
        else:
            handled = True
            fault = None if fault.__suppress_context__ else fault.__context__


def _is_full(fault: BaseException) -> bool:
    if isinstance(fault, OSError) and fault.errno in FULL:
        return True
    text = str(fault)
    if any(part in text for part in FULL_TEXTS):
        return True
    return any(part in text for part in TORCH_SAVE_TEXTS) and any(part in text for part in TORCH_SAVE_FAULTS)


def _full(fault: BaseException, folder: Path) -> RunError:
    place = _place(fault, folder)
    try:
        free = f", {shutil.disk_usage(folder).free / 1e6:,.0f} MB free"
    except OSError:
        free = ""
    return RunError(
        f"the disk is full{free} ({_first_line(fault)})",
        where=place,
        way_out=f"Free some space there (df -h {folder}), or choose another place with --runs-dir DIR; "
        "the same command then goes on, and what was finished stays.",
    )


def _is_memory(fault: BaseException) -> bool:
    if isinstance(fault, MemoryError) or (isinstance(fault, OSError) and fault.errno == errno.ENOMEM):
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(fault).__mro__):
        return True
    return isinstance(fault, RuntimeError) and any(part in str(fault) for part in MEMORY_TEXTS)


def _is_refused(fault: BaseException) -> bool:
    if isinstance(fault, OSError):
        return fault.errno in REFUSED
    return any(part in str(fault) for part in REFUSED_TEXTS)


def out_of_memory(stage: Stage, why: str) -> TrainingError:
    return TrainingError(
        f"out of memory ({why})",
        where=f"stages.{stage.name}",
        way_out=relief(stage),
    )


def relief(stage: Stage) -> str:
    """What to turn down, with its value now. Values that shape the result need the stage to be begun anew."""
    lower = [
        f"{key} (now {value})"
        for key in ("batch_size", "per_device_train_batch_size", "max_length", "max_new_tokens")
        if (value := getattr(stage, key, None)) is not None
    ]
    advice: list[str] = []
    if lower:
        advice.append(f"lower {' or '.join(lower)}")
    if hasattr(stage, "gradient_accumulation_steps"):
        advice.append("raise gradient_accumulation_steps instead of the batch")
    if (
        hasattr(stage, "gradient_checkpointing")
        and getattr(stage, "gradient_checkpointing", None) is not True
    ):
        advice.append("set gradient_checkpointing: true")
    if hasattr(stage, "load_in_4bit") and not getattr(stage, "load_in_4bit", None):
        advice.append("set load_in_4bit: true")
    begin = f"With such a change run it with `--from {stage.name}`. " if advice else ""
    advice = advice or ["use a smaller model"]
    return (
        f"Free memory, and the same command goes on from where the stage was; or {', '.join(advice)}. {begin}"
    ).strip()


def _place(fault: BaseException, folder: Path) -> str:
    name: object = getattr(fault, "filename", None)
    return str(name) if isinstance(name, str | bytes | Path) and name else str(folder)


def _first_line(fault: BaseException) -> str:
    lines = str(fault).strip().splitlines()
    text = lines[0] if lines else type(fault).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"
