"""Everything there is to say about a loss before training with it, as one dictionary for people and programs."""

from __future__ import annotations

from typing import Any

from trainers.logic import links, measure, render, signs, tables
from trainers.logic.expansion import expand
from trainers.logic.formula import ATOMS, nearest_atom, prediction
from trainers.logic.links import Link
from trainers.logic.named import NamedLoss, names_of, sft_weight_of
from trainers.logic.polynomial import starts_at_zero
from trainers.logic.structure import Structure, is_policy

# Per-token averages of a small model near the start: where no lattice loss is dead.
EXAMPLE = {"Winner": -1.3, "Loser": -1.5}


def summary(structure: Structure, loss: NamedLoss | None = None) -> dict[str, Any]:
    """One row of the table of losses."""
    same = names_of(structure)
    return {
        "name": loss.name if loss else None,
        "aliases": list(loss.aliases) if loss else [],
        "same_structure": [name for name in same if loss is None or name != loss.name],
        **structure.core().texts(),
        "closed_form": render.closed_form(structure),
        "link": loss.link if loss else "logistic",
        "beta": loss.beta if loss else None,
        "sft_weight": loss.sft_weight if loss else sft_weight_of(structure),
        "needs": {
            "reference": loss.needs_reference if loss else structure.needs_reference,
            "length_normalisation": loss.needs_length_normalisation
            if loss
            else expand(structure).needs_length_normalisation,
        },
        "collapses": structure.collapses,
    }


def description(
    structure: Structure,
    loss: NamedLoss | None = None,
    *,
    link: Link | None = None,
    beta: float | None = None,
) -> dict[str, Any]:
    """`summary`, the truth table, the ways to write rho, the value at step 0, signs and warnings."""
    told = summary(structure, loss)
    link = link or (loss.link if loss else "logistic")
    beta = beta if beta is not None else loss.beta if loss else 1.0
    atoms = structure.columns
    told |= {
        "link": link,
        "beta": beta,
        "loss": _loss_text(link, loss),
        "atoms": list(atoms),
        "table": [
            {"row": tables.row_values(row, atoms), "mark": mark}
            for row, mark in reversed(list(enumerate(structure.marks(atoms))))
        ],
        "stable": render.log_space(structure),
        "latex": {"rho": render.latex(structure), "loss": links.LATEX[link]},
        "step0": _step0(structure, loss, link, beta),
        "gradient": {
            "w": signs.sign(structure, "Winner"),
            "l": signs.sign(structure, "Loser"),
        },
        "warnings": _warnings(structure, loss, link),
        "notes": list(loss.notes) if loss else _foreign(structure),
    }
    return told


def _loss_text(link: Link, loss: NamedLoss | None) -> str:
    return f"(2/beta) * ({links.FORMS[link]})" if loss and loss.scaled == "2/beta" else links.FORMS[link]


def _step0(structure: Structure, loss: NamedLoss | None, link: Link, beta: float) -> dict[str, Any]:
    """The value while policy and reference are one model: a constant, or one example of it."""
    scale = loss.scale(beta) if loss else 1.0
    made = measure.constants(loss.constant, loss.offset) if loss and loss.constant else {}
    if not made and starts_at_zero(structure):
        return {"constant": True, "value": scale * links.value(link, 0.0, beta), "at": None}
    if any(
        name not in made and prediction(name.removeprefix("Ref.")) not in EXAMPLE for name in structure.atoms
    ):
        return {"constant": False, "value": None, "at": None}
    logps = {name: EXAMPLE.get(prediction(name.removeprefix("Ref.")), 0.0) for name in structure.atoms} | made
    value = measure.measure(structure, logps, link=link, beta=beta, scale=scale).loss
    return {"constant": False, "value": value, "at": {"w": EXAMPLE["Winner"], "l": EXAMPLE["Loser"]}}


def _warnings(structure: Structure, loss: NamedLoss | None, link: Link) -> list[str]:
    found: list[str] = []
    winner, loser = signs.sign(structure, "Winner"), signs.sign(structure, "Loser")
    pairs = "Winner" in structure.columns
    if structure.collapses:
        found.append(
            "satisfied by making both answers improbable: keep sft_weight above 0 and watch the winner's log-prob"
            if pairs
            else "rho grows without bound as the answer becomes improbable: add a retain or SFT term"
        )
    if winner == "0" and pairs:
        found.append("the chosen answer has no gradient")
    if loser == "0":
        found.append("the rejected answer has no gradient")
    if winner in ("-", "mixed"):
        found.append("rho falls in places where the chosen answer becomes more probable")
    if loser in ("+", "mixed"):
        found.append("rho rises in places where the rejected answer becomes more probable")
    if expand(structure).needs_length_normalisation:
        found.append("needs per-token averages: with summed log-probs 1 - p is 1 and the loss degenerates")
    if link not in links.MONOTONE:
        found.append("the squared link is not monotone in rho: entailment orders rho but not this loss")
    if not any(is_policy(name) for name in structure.atoms):
        found.append("no atom belongs to the model in training, so nothing would be learned")
    return found


def _foreign(structure: Structure) -> list[str]:
    """Atoms that may be misspelt: a truth table takes any name, a recipe does not."""
    names = dict.fromkeys(prediction(atom) for atom in structure.atoms)
    return [
        f"`{name}` is no prediction of a row, and a recipe refuses it unless `offset:` makes its model"
        f"{nearest_atom(name)}"
        for name in names
        if name not in ATOMS
    ]
