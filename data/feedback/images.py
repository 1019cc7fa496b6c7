"""Pictures that a stage of labelling names, and that are not where the page would serve them from."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from data.errors import DataError
from data.feedback.store import Store
from data.feedback.tables import items
from data.pictures import find


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
