"""Where a stage's votes are: the label store in the stage's folder, or the database that a note there names."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from data.errors import DataError
from data.feedback.stages import Stage, get_stage
from data.feedback.store import Store
from data.jsonl import replacing

LABELS = "label.sqlite"
NOTE = "label.json"


@dataclass(frozen=True)
class Place:
    """What a stage's folder means for people's votes."""

    database: str
    """A file (SQLite) or a URL."""
    stage: str
    """The stage's name in it."""
    images: str
    """The folder that holds the images, and beyond which none is served."""


def place_of(folder: Path, database: str | None = None, images: Path | None = None) -> Place:
    """Read from the folder's note, if it has one; what is given goes before."""
    found = _note(folder)
    return Place(
        database or found.get("database") or str(folder / LABELS),
        found.get("stage") or default_name(folder),
        str(images or found.get("images") or folder),
    )


def default_name(folder: Path) -> str:
    """`run/stage`: in a database that runs share, the stage's own name would not tell them apart."""
    whole = folder.absolute()
    return f"{whole.parent.name}/{whole.name}"


def write_note(folder: Path, place: Place) -> None:
    with replacing(folder / NOTE) as file:
        file.write((json.dumps(asdict(place), indent=2, ensure_ascii=False) + "\n").encode())


def open_place(folder: Path, database: str | None = None) -> tuple[Store, Stage, Place]:
    """The store and its stage, which must be there: opening makes no new one."""
    place = place_of(folder, database)
    if "://" not in place.database and not Path(place.database).is_file():
        raise DataError(
            "there is no label store here",
            where=str(folder),
            way_out="Run the recipe, whose judge stage makes one; or import items: heliograph label import "
            f"{folder} ITEMS.jsonl",
        )
    store = Store(place.database)
    try:
        return store, get_stage(store, place.stage), place
    except DataError:
        store.close()
        raise


def _note(folder: Path) -> dict[str, str]:
    try:
        read: object = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as fault:
        raise DataError(
            f"cannot be read: {fault}", where=str(folder / NOTE), way_out="Mend it, or remove it."
        ) from fault
    values = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    if not values or not all(isinstance(value, str) for value in values.values()):
        raise DataError("is no note of a label store", where=str(folder / NOTE), way_out="Remove it.")
    return values
