"""The picture that a row names: a file below the folder of the row's own data file, and nothing outside it."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import DataError

COLUMN = "image"
LARGEST = 32 * 2**20
# What a browser may be told, by the first bytes. SVG is left out: it is a document that can hold scripts.
SIGNS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def find(folder: Path, name: str) -> Path:
    """The file below the folder that `name` means, links followed; raises DataError if it leads out."""
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        inside = path.is_relative_to(root) and stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError, RuntimeError):  # not there; a NUL; links in a circle
        inside = False
        path = root
    if not inside:
        raise DataError(
            "the image is not a file in the folder of images",
            where=name,
            way_out=f"put it below {folder}, and write its path relative to that folder",
        )
    return path


def picture_of(row: Mapping[str, Any], where: str) -> Path | None:
    """The file that the row's `image` means, relative to the file the row stands in; None where it names none."""
    name = row.get(COLUMN)
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise DataError(
            f"`{COLUMN}` is a {type(name).__name__}, not the path of a file",
            where=where,
            way_out="write the picture beside the data file, and its path relative to that file",
        )
    file = Path(where.rpartition(":")[0])
    if not file.is_file():
        raise DataError(
            "pictures are read from beside local data files, and this row comes from elsewhere",
            where=where,
            way_out="write the rows into a .jsonl file and the pictures below its folder",
        )
    try:
        return find(file.absolute().parent, name)
    except DataError as fault:
        raise DataError(f"{fault.what}: {name}", where=where, way_out=fault.way_out) from fault


def read_picture(folder: Path, name: str, largest: int = LARGEST) -> tuple[bytes, str]:
    """The picture and its type, which is taken from the bytes and not from the name."""
    path = find(folder, name)
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise DataError(f"the image is larger than {largest} bytes", where=name, way_out="make it smaller")
    kind = next((kind for sign, kind in SIGNS if data.startswith(sign)), None)
    if kind is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise DataError("the file is no PNG, JPEG, GIF or WebP", where=name, way_out="convert it")
    return data, kind
