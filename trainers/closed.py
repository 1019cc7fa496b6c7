"""What every class of settings is made of; apart from the settings themselves, so that each of them can import it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

# The cost of a run, never its result: a change of one of these does not make a finished stage stale.
COSMETIC: Any = {"cosmetic": True}


class Closed(BaseModel):
    """A frozen value that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
