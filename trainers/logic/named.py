"""Every loss that has a name: its structure, link, defaults, and what to know before training with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from trainers.logic import formula as f
from trainers.logic.expansion import expand
from trainers.logic.language import parse
from trainers.logic.links import Link
from trainers.logic.structure import Structure, from_core, reference_form

Scale = Literal["1", "2/beta"]


def sft_weight_of(structure: Structure) -> float:
    """The `sft` term's default weight: the author's runs kept the losses that collapse without it alive with 0.01."""
    return 0.01 if structure.collapses else 0.0


@dataclass(frozen=True)
class NamedLoss:
    """A structure with its link and defaults.

    `constant` names a model whose two atoms are no model's log-probs but a constant log-ratio, `offset`,
    that is subtracted from rho: SimPO's gamma, ODPO's offset.
    """

    name: str
    structure: Structure
    link: Link = "logistic"
    beta: float = 1.0
    scaled: Scale = "1"
    sft_weight: float = 0.0
    constant: str | None = None
    offset: float = 0.0
    averages: bool = False
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def needs_reference(self) -> bool:
        return self.structure.needs_reference and self.constant != "Ref"

    @property
    def needs_length_normalisation(self) -> bool:
        return self.averages or expand(self.structure).needs_length_normalisation

    def scale(self, beta: float) -> float:
        return 2 / beta if self.scaled == "2/beta" else 1.0


# name: (P, P_C, P_A), table 1.7 of the specification, most constrained first.
LATTICE: dict[str, tuple[str, str, str]] = {
    "CEUnl": ("W & ~L", "TRUE", "FALSE"),
    "sCE": ("W", "TRUE", "W & L"),
    "l3": ("W", "~(W & L)", "FALSE"),
    "CE": ("W", "TRUE", "FALSE"),
    "cUNL": ("~L", "W | L", "FALSE"),
    "l20": ("~L", "TRUE", "~W & ~L"),
    "fUnl": ("~L", "TRUE", "FALSE"),
    "ORPO": ("L -> W", "W ^ L", "FALSE"),
    "CPO": ("L -> W", "W | L", "W & L"),
    "l14": ("L -> W", "TRUE", "W & L"),
    "l5": ("L -> W", "TRUE", "W <-> L"),
    "qfUnl": ("L -> W", "~(W & L)", "~W & ~L"),
    "bCPO": ("L -> W", "TRUE", "~W & ~L"),
    "cfUnl": ("L -> W", "~(W & L)", "FALSE"),
    "cCPO": ("L -> W", "W | L", "FALSE"),
    "unCPO": ("L -> W", "TRUE", "FALSE"),
}
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "CEUnl": ("unl",),
    "CE": ("cross-entropy",),
    "fUnl": ("unlikelihood",),
    "unCPO": ("uncCPO",),
}
_NOTES: dict[str, tuple[str, ...]] = {
    "CE": ("-log w at beta 1: the rejected answer plays no part",),
    "fUnl": ("-log(1-l) at beta 1: the chosen answer plays no part",),
    "l14": ("a small gradient: near -0.015 on the winner at averages of -1.3/-1.5 and beta 1",),
    "unCPO": ("a small gradient: near -0.07 on the winner at averages of -1.3/-1.5 and beta 1",),
}


def _single_model() -> list[NamedLoss]:
    losses: list[NamedLoss] = []
    for name, (core, given, also) in LATTICE.items():
        structure = from_core(core, given, also)
        losses.append(
            NamedLoss(
                name,
                structure,
                beta=0.1 if name == "CPO" else 1.0,
                sft_weight=sft_weight_of(structure),
                aliases=_SPELLINGS.get(name, ()),
                notes=_NOTES.get(name, ()),
            )
        )
    return losses


def _with_reference(loss: NamedLoss) -> NamedLoss:
    dpo = loss.name == "CPO"
    ref = f"ref-{loss.name}"
    spelled = tuple(f"ref-{alias}" for alias in loss.aliases)
    return replace(
        loss,
        name="DPO" if dpo else ref,
        structure=reference_form(loss.structure),
        aliases=(ref, *spelled) if dpo else spelled,
        notes=(f"the reference form of {loss.name}: rho minus log(rw/rl)",),
    )


def _conditioned(top: str, bottom: str) -> Structure:
    """The shape of CPO: of two events, the second must not hold without the first."""
    t, b = parse(top), parse(bottom)
    return from_core(f.Implies(b, t), f.disj(t, b), f.conj(t, b))


def _others(cpo: Structure, dpo: Structure) -> list[NamedLoss]:
    margin = _conditioned("W & Ref.L & Margin.L", "L & Ref.W & Margin.W")
    return [
        NamedLoss(
            "SLiC", cpo, "hinge", aliases=("SLiC-HF",), notes=("CPO with a hinge: max(0, beta - rho)",)
        ),
        NamedLoss(
            "RRHF",
            cpo,
            "margin",
            averages=True,
            notes=("CPO on per-token averages; its gradient is 0 wherever the winner is ahead",),
        ),
        NamedLoss(
            "IPO",
            dpo,
            "squared",
            beta=0.1,
            notes=(
                "the squared link also punishes a rho above 1/(2 beta), so entailment does not order its losses",
                "TRL divides each side by its completion length: choose sums or averages explicitly",
            ),
        ),
        NamedLoss(
            "SimPO",
            dpo,
            beta=2.0,
            constant="Ref",
            offset=0.5,
            averages=True,
            notes=(
                "DPO with a reference made by hand: log(rw/rl) is the constant gamma, on per-token averages",
            ),
        ),
        NamedLoss(
            "R-DPO",
            margin,
            beta=0.1,
            constant="Margin",
            notes=("DPO and a constant per pair: the offset is minus the length term",),
        ),
        NamedLoss(
            "ODPO",
            margin,
            beta=0.1,
            constant="Margin",
            notes=("DPO and a constant per pair: the offset that the winner must be ahead by",),
        ),
        NamedLoss(
            "DPOP",
            _conditioned("W & W' & Ref.L", "L & Ref.W & Ref.W'"),
            beta=0.1,
            aliases=("DPO-Positive",),
            notes=("w counts twice, by a copied atom; the max(0, .) around the extra term is left out",),
        ),
        NamedLoss(
            "NPO",
            _conditioned("Ref.L", "L"),
            beta=0.1,
            scaled="2/beta",
            notes=(
                "unlearning: the forget answer is the loser and there is no winner; add a retain term",
                "bounded below by 0; CPO's shape over (reference, model) on the forget answer",
            ),
        ),
    ]


@lru_cache(maxsize=1)
def registry() -> dict[str, NamedLoss]:
    """All named losses by their canonical names, in reading order."""
    single = _single_model()
    with_reference = [_with_reference(loss) for loss in single]
    by_name = {loss.name: loss for loss in (*single, *with_reference)}
    others = _others(by_name["CPO"].structure, by_name["DPO"].structure)
    return by_name | {loss.name: loss for loss in others}


def names_of(structure: Structure) -> list[str]:
    """The losses with this structure; they may differ in link and defaults."""
    return [
        loss.name for loss in registry().values() if loss.structure == structure and loss.constant != "Ref"
    ]
