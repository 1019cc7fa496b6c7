"""Which local files a path means: itself, the files of one split of a folder, or none for a hub dataset."""

from __future__ import annotations

import re
from pathlib import Path

from data.errors import DataError
from data.formats import Format, format_of
from data.jsonl import missing

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# `train-00000-of-00002.parquet`, `test.jsonl`, `validation_1.csv.gz`: how hub datasets tell their splits.
_SPLIT_FILE = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)
_SAME_SPLIT = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}


def files_of(name: str, base: Path, split: str, format: Format) -> list[Path] | None:
    """The local files that `name` means, starting at `base`; None for a hub dataset."""
    path = Path(base, Path(name).expanduser()).absolute()
    if format == "hub" or (format == "auto" and not path.exists() and _may_be_hub(name)):
        return None
    if not path.exists():
        raise missing(path)
    if path.is_dir():
        return _folder(path, split, format)
    if split != "train":
        raise DataError(
            f"split '{split}' of a single file",
            where=str(path),
            way_out="leave split out, or give the folder",
        )
    return [path]


def _may_be_hub(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and format_of(Path(name)) is None and not name.startswith(".")


def _folder(folder: Path, split: str, format: Format) -> list[Path]:
    usable = [
        entry
        for entry in sorted(folder.rglob("*"))
        if entry.is_file()
        and format_of(entry) is not None
        and format in ("auto", format_of(entry))
        and not any(part.startswith(".") for part in entry.relative_to(folder).parts)
    ]
    if not usable:
        kinds = "JSONL, JSON, CSV or parquet" if format == "auto" else format
        raise DataError("no data files in this folder", where=str(folder), way_out=f"it needs {kinds} files")
    splits = {entry: _split_of(entry) for entry in usable}
    if not any(splits.values()) and split == "train":
        return usable
    # A test file that slides into training spoils every later number, so a folder with splits must be clear.
    wanted = _SAME_SPLIT.get(split.lower(), split.lower())
    unclear = [entry.name for entry in usable if splits[entry] is None]
    chosen = [entry for entry in usable if splits[entry] == wanted]
    if unclear or not chosen:
        there = ", ".join(sorted({told for told in splits.values() if told})) or "none"
        what = f"{unclear[0]} belongs to no split" if unclear else f"no files of split '{split}'"
        raise DataError(
            f"{what}; splits told by file names here: {there}",
            where=str(folder),
            way_out="give one file, or name each file after its split (train-1.jsonl, test.jsonl)",
        )
    return chosen


def _split_of(path: Path) -> str | None:
    found = _SPLIT_FILE.match(path.name)
    told = found.group(1).lower() if found else None
    return _SAME_SPLIT.get(told, told) if told else None
