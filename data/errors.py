"""The errors a person can act on. Each says what is wrong, where, and the way out."""

from __future__ import annotations


class UserError(Exception):
    """Printed without a traceback; the command exits 2."""

    def __init__(self, what: str, *, where: str | None = None, way_out: str | None = None) -> None:
        self.what = what
        self.where = where
        self.way_out = way_out
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        out = f"\n  {self.way_out}" if self.way_out else ""
        return f"{place}{self.what}{out}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only fields do not survive the default pickling between processes.
        return _rebuild, (type(self), self.what, self.where, self.way_out)


def _rebuild(kind: type[UserError], what: str, where: str | None, way_out: str | None) -> UserError:
    return kind(what, where=where, way_out=way_out)


class RecipeError(UserError):
    """The recipe file, or an override of it, is wrong."""


class DataError(UserError):
    """A data file or one of its rows is wrong."""


class ModelError(UserError):
    """A model, adapter or kernel cannot be had as asked, or would break the chain of policies."""


class RunError(UserError):
    """The run directory, a finished stage or a checkpoint stands in the way."""


class TrainingError(UserError):
    """Training cannot go on: a loss that is not finite, memory or disk that ran out."""
