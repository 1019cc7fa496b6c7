"""The pictures of items: found by the item, never by a path that a browser sends, and only below one folder."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.store import Store
from data.feedback.tables import items
from data.pictures import find

LARGEST = 32 * 2**20
# What a browser may be told, by the first bytes. SVG is left out: it is a document that can hold scripts.
SIGNS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def read(folder: Path, name: str) -> tuple[bytes, str]:
    """The picture and its type, which is taken from the bytes and not from the name."""
    path = find(folder, name)
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise DataError(f"the image is larger than {LARGEST} bytes", where=name, way_out="make it smaller")
    kind = next((kind for sign, kind in SIGNS if data.startswith(sign)), None)
    if kind is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise DataError("the file is no PNG, JPEG, GIF or WebP", where=name, way_out="convert it")
    return data, kind


def check_images(store: Store, stage_id: int, folder: Path) -> list[str]:
    """The images of a stage that cannot be served from the folder."""
    with store.read() as connection:
        names = connection.scalars(
            sa.select(items.c.image)
            .where(items.c.stage_id == stage_id, items.c.image.is_not(None))
            .distinct()
        ).all()
    missing: list[str] = []
    for name in names:
        try:
            find(folder, name)
        except DataError:
            missing.append(name)
    return missing
