"""What a half-finished piece of work was made from, so that it goes on only where nothing has changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from trainers.config import COSMETIC

Options = TypeVar("Options", bound=BaseModel)
WEIGHTS = ("*.safetensors", "*.json", "adapters/*/*.safetensors")


def fingerprint(*parts: object) -> str:
    """Sixteen hex digits of the parts; a pydantic value counts without its cosmetic fields."""
    digest = hashlib.sha256()
    for part in parts:
        plain: Any = part
        if isinstance(part, BaseModel):
            fields = type(part).model_fields
            cosmetic = {name for name, info in fields.items() if info.json_schema_extra == COSMETIC}
            plain = part.model_dump(mode="json", exclude=cosmetic)
        digest.update(json.dumps(plain, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\0")
    return digest.hexdigest()[:16]


def only(kind: type[Options], value: BaseModel) -> Options:
    """The part of a stage that these options are: its name and the rest of it do not change what they do."""
    return kind.model_validate({name: getattr(value, name) for name in kind.model_fields})


def start_identity(start: str) -> object:
    """An alias or hub id as it is; of a folder, the size and time of everything that makes the model."""
    folder = Path(start)
    if not folder.is_dir():
        return start
    files = sorted({file for pattern in WEIGHTS for file in folder.glob(pattern)})
    return [[str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
