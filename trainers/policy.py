"""Which weights a policy is: a base and the adapters on top of it, as `policy.json` beside them says.

Torch-free, so that a plan can follow the chain without loading anything.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import ModelError

FILE = "policy.json"
FORMAT = 1


@dataclass(frozen=True)
class Policy:
    """A base, how it is held in memory, and the adapters that are active on it, lowest first."""

    base: str
    """An alias, a hub id, or an absolute folder that holds full weights."""
    revision: str | None = None
    dtype: str = "auto"
    quantization: dict[str, object] | None = None
    """The bitsandbytes settings the adapters were trained under; None: plain weights."""
    adapters: tuple[Path, ...] = ()
    """Absolute folders, each a PEFT adapter."""
    home: Path | None = None
    """The folder this policy was read from; None: a model that no stage made."""

    @property
    def tokenizer(self) -> str:
        """Where its tokenizer is: beside the policy when a stage made it, else with the base."""
        return str(self.home) if self.home is not None else self.base


def read(start: str, *, revision: str | None = None) -> Policy:
    """The policy in a stage's model folder; anything else is a base with nothing on it."""
    folder = Path(start)
    if not folder.is_absolute() or not folder.is_dir():
        # An alias or hub id, whatever folders of that name the command happens to run beside.
        return Policy(base=start, revision=revision)
    file = folder / FILE
    if not file.is_file():
        return Policy(base=str(folder.resolve()), revision=revision)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ModelError(
                f"policy format {found['format']} is not the {FORMAT} this version reads",
                where=str(file),
                way_out="Rebuild the stage that wrote it, or use the version that did.",
            )
        base = str(found["base"])
        return Policy(
            base=str((folder / base).resolve()) if base.startswith(".") else base,
            revision=found["revision"],
            dtype=found["dtype"],
            quantization=found["quantization"],
            adapters=tuple((folder / name).resolve() for name in found["adapters"]),
            home=folder.resolve(),
        )
    except (json.JSONDecodeError, KeyError, TypeError) as broken:
        raise ModelError(
            f"not a policy file ({type(broken).__name__}: {broken})",
            where=str(file),
            way_out="Rebuild the stage that wrote it: `heliograph run RECIPE --from STAGE`.",
        ) from broken


def write(policy: Policy, folder: Path) -> None:
    """Put `policy.json` into the folder; what lies on this disk is written relative, so that a run can move."""
    base = policy.base
    if os.path.isabs(base):
        base = "./" + os.path.relpath(base, folder.resolve())
    content = asdict(policy) | {
        "format": FORMAT,
        "base": base,
        "adapters": [os.path.relpath(path, folder.resolve()) for path in policy.adapters],
    }
    del content["home"]
    aside = folder / (FILE + ".tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, folder / FILE)
