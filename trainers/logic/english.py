"""A preference structure in English: what it asks for, which cases count, and which count on both sides."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.logic import tables
from trainers.logic.formula import (
    FALSE,
    TRUE,
    And,
    Atom,
    Const,
    Formula,
    Iff,
    Implies,
    Not,
    Or,
    Xor,
    conj,
    prediction,
)
from trainers.logic.structure import Structure

_PAIR = ("Winner", "Loser")
_ANSWERS = {"Winner": "the chosen answer", "Loser": "the rejected answer"}
_MODELS = {"": "the model", "Ref": "the reference"}

# What one model says about the two answers, by truth table: bit 0 neither valid, 1 chosen only, 2 rejected only,
# 3 both. Every formula over one model has its sentence here, however it was written.
_SAYS = {
    0b0001: "deems neither answer valid",
    0b0010: "deems the chosen answer valid and the rejected one not",
    0b0100: "deems the rejected answer valid and the chosen one not",
    0b1000: "deems both answers valid",
    0b0011: "does not deem the rejected answer valid",
    0b0101: "does not deem the chosen answer valid",
    0b1010: "deems the chosen answer valid",
    0b1100: "deems the rejected answer valid",
    0b0110: "deems exactly one of the answers valid",
    0b1001: "deems both answers valid or neither",
    0b0111: "does not deem both answers valid",
    0b1110: "deems at least one of the answers valid",
    0b1011: "deems the chosen answer valid whenever it deems the rejected one valid",
    0b1101: "deems the rejected answer valid whenever it deems the chosen one valid",
}


def reading(structure: Structure) -> list[str]:
    """One sentence for each of P, P_C and P_A; P_A only where it is satisfiable."""
    core = structure.core()
    wish = _comma_after_condition(core.formula) or clause(core.formula)
    told = [f"The loss asks that{',' if wish.startswith('whenever') else ''} {wish}."]
    told.append(
        "Every case counts."
        if core.given == TRUE
        else f"Only those cases count in which {clause(core.given)}."
    )
    if core.also != FALSE:
        told.append(f"Cases in which {clause(core.also)} count on both sides.")
    return told


def clause(formula: Formula) -> str:
    """The formula as a subordinate clause, unambiguous: a compound within a compound is put in parentheses."""
    said = _said_by_one_model(formula)
    if said:
        return said
    match formula:
        case Atom(name):
            model, _, answer = prediction(name).rpartition(".")
            again = ", counted again," if name != prediction(name) else ""
            return f"{_subject(model)} deems {_ANSWERS.get(answer, answer)}{again} valid"
        case Const(value):
            return "anything is the case" if value else "nothing is the case"
        case Not(inner):
            return f"it is not so that {_within(inner)}"
        case And(parts):
            return " and ".join(_within(part) for part in _by_model(parts))
        case Or(parts):
            return ", or ".join(clause(p) if isinstance(p, And) else _within(p) for p in parts)
        case Xor(parts):
            return f"an odd number of these hold: {'; '.join(clause(part) for part in parts)}"
        case Iff(left, right):
            return f"{_within(left)} exactly when {_within(right)}"
        case Implies(left, right):
            return f"{_within(right)} whenever {_within(left)}"


def _comma_after_condition(formula: Formula) -> str | None:
    """A condition over several models reads better in front."""
    if isinstance(formula, Implies) and not _said_by_one_model(formula):
        return f"whenever {clause(formula.left)}, {clause(formula.right)}"
    return None


def _within(formula: Formula) -> str:
    text = clause(formula)
    flat = isinstance(formula, Atom | Const | Not) or _said_by_one_model(formula) is not None
    return text if flat and " whenever " not in text and " or " not in text else f"({text})"


def _subject(model: str) -> str:
    return _MODELS.get(model, model)


def _model(formula: Formula) -> str | None:
    """The one model whose two answers the formula is about, if there is one."""
    names = tables.atoms_of(formula)
    models = {name.rpartition(".")[0] for name in names}
    answers = {name.rpartition(".")[2] for name in names}
    return models.pop() if len(models) == 1 and answers <= set(_PAIR) else None


def _said_by_one_model(formula: Formula) -> str | None:
    model = _model(formula)
    if model is None:
        return None
    prefix = f"{model}." if model else ""
    says = _SAYS.get(tables.table(formula, [prefix + answer for answer in _PAIR]))
    return f"{_subject(model)} {says}" if says else None


def _by_model(parts: Sequence[Formula]) -> list[Formula]:
    """What a conjunction says about one model, in one place."""
    grouped: dict[str | int, Formula] = {}
    for i, part in enumerate(parts):
        model = _model(part)
        key = i if model is None else model
        grouped[key] = conj(grouped[key], part) if key in grouped else part
    return list(grouped.values())
