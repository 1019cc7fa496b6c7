"""Short names for cross-encoders that need no hub: encoders that a reranker can start from, and one built on the spot.

Importing this module imports no torch.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from trainers import aliases
from trainers.radio.encoders import encoder_folder, is_encoder_alias

TINY = "tiny-reranker"
"""Two small layers over the closed list of words of the invented world: `recipes/data/places`."""
# Part of the folder's name: raise it when the builder writes something else than before.
EDITION = 2


def is_reranker_alias(name: str) -> bool:
    return name == TINY or is_encoder_alias(name)


def reranker_folder(name: str) -> str:
    """The folder of an alias; every other name, a folder or a hub id, as it is."""
    return str(_tiny()) if name == TINY else encoder_folder(name)


def _tiny() -> Path:
    folder = aliases.cache_folder() / "models" / f"{TINY}-{EDITION}"
    if folder.is_dir():
        return folder
    from data.radio.world import syllables, words
    from trainers.radio.tiny import build_tiny_reranker

    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp-", dir=folder.parent))
    try:
        build_tiny_reranker(aside, [*words(), *syllables()], max_length=64, seed=0)
        aside.chmod(0o755)
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process built it meanwhile
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder
