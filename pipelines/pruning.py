"""`heliograph prune`: what is kept beside the runs to be used again, made smaller."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from data.errors import RunError
from pipelines.attempt import STORE
from pipelines.summary import plural, size
from trainers.store.folders import prune, size_on_disk
from trainers.work import REFERENCES

Show = Callable[[str], None]
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)B?\s*", re.IGNORECASE)


def prune_runs(runs_dir: Path, keep: str, show: Show) -> None:
    """Remove reference log-probabilities that were not used for longest, until `keep` is not exceeded.

    What was paid for (rationales, a reader's replies) stays, whatever its size.
    """
    limit, store = bytes_of(keep), runs_dir / STORE
    if not store.is_dir():
        raise RunError(
            "nothing is kept here to be used again",
            where=str(store),
            way_out="Name the folder of the runs: --runs-dir.",
        )
    references = store / REFERENCES
    before = size_on_disk(references)
    removed = prune(references, limit) if references.is_dir() else []
    after = size_on_disk(references)
    show(
        f"{references}: {plural(len(removed), 'folder')} removed, {size(before)} -> {size(after)}"
        + (
            f"; what was used within the hour stays, {size(after - limit)} above --keep"
            if after > limit
            else ""
        )
    )
    for other in sorted(store.iterdir()):
        if other.is_dir() and other != references:
            show(f"{other}: {size(size_on_disk(other))}, never removed by this: it was paid for")


def bytes_of(text: str) -> int:
    """`2GB`, `500M`, `0` as bytes; a kilobyte has a thousand."""
    found = SIZE.fullmatch(text)
    if found is None:
        raise RunError(
            f"--keep {text} is no size", way_out="Write a number with MB, GB or TB, as in --keep 2GB."
        )
    return int(float(found[1]) * UNITS[found[2].upper()])
