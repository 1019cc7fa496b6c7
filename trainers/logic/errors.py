"""What can be wrong with a formula, a structure, an equation or the name of a loss."""

from __future__ import annotations

from data.errors import RecipeError

_WIDTH = 96


class FormulaError(RecipeError):
    """The text of a formula or an equation cannot be read.

    `column` counts from 1 within its line; `position` from 0 within the whole text.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        way_out: str | None = None,
        column: int = 0,
        position: int = 0,
        hint: str = "",
    ) -> None:
        self.column = column
        self.position = position
        self.hint = hint
        super().__init__(what, where=where, way_out=way_out)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.what, self.where, self.way_out, self.column, self.position, self.hint)


def _rebuild(
    what: str, where: str | None, way_out: str | None, column: int, position: int, hint: str
) -> FormulaError:
    return FormulaError(what, where=where, way_out=way_out, column=column, position=position, hint=hint)


class StructureError(RecipeError):
    """The formulas can be read, but no loss can be made of them."""


class DecompileError(RecipeError):
    """The equation can be read, but it is not a log ratio of disjoint multilinear polynomials."""


class UnknownLossError(RecipeError):
    """No loss has this name."""


def at(text: str, position: int, what: str, *, kind: str, hint: str = "") -> FormulaError:
    """An error that points at one character of the text, counted within its own line."""
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : end if end >= 0 else len(text)]
    offset = position - start
    row = text.count("\n", 0, start) + 1
    where = f"{kind}, line {row}, column {offset + 1}" if "\n" in text else f"{kind}, column {offset + 1}"
    # A caret below a line that the terminal wraps points nowhere, so long lines are cut around it.
    left = max(0, offset - _WIDTH // 2)
    shown = "".join(c if c.isprintable() else " " for c in line[left : left + _WIDTH])
    if left:
        shown = "..." + shown[3:]
    way_out = f"{shown}\n  {' ' * (offset - left)}^" + (f"\n  {hint}" if hint else "")
    return FormulaError(what, where=where, way_out=way_out, column=offset + 1, position=position, hint=hint)
