"""What a recipe's `loss:` means: its structure, numbers and units, and why it cannot be trained. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import RecipeError
from trainers.config import PreferOptions, SymbolicLoss
from trainers.logic import describe, measure
from trainers.logic.errors import FormulaError, StructureError, UnknownLossError
from trainers.logic.expansion import expand, literals
from trainers.logic.formula import ATOMS, nearest_atom, prediction
from trainers.logic.language import atoms_at, parse
from trainers.logic.links import Link, value
from trainers.logic.lookup import default_beta, find, is_word, resolve
from trainers.logic.named import NamedLoss, sft_weight_of
from trainers.logic.polynomial import starts_at_zero
from trainers.logic.structure import Structure, is_policy

TEXTS = ("formula", "given", "also")
BELONGS_ELSEWHERE = {
    "loss_weights": "write `sft_weight:` for a likelihood term beside it",
    "label_smoothing": "leave it out",
    "simpo_gamma": "write `offset:` in `loss`, which is gamma / beta",
}
"""Settings that `loss_type`'s losses read and a stated loss does not, and what to do."""


@dataclass(frozen=True)
class Stated:
    """A loss as it will be trained, every choice made."""

    named: NamedLoss | None
    structure: Structure
    link: Link
    beta: float
    scale: float
    averages: bool
    sft_weight: float
    floor: float
    constant: str | None
    """The model made by hand whose log-ratio is the offset; None: the offset is subtracted from rho."""
    offset: float
    length_alpha: float
    choices: tuple[tuple[str, object, str], ...] = ()
    """What was left out, what it became, and why."""

    @property
    def name(self) -> str:
        """Of its figure in the logs."""
        return self.named.name if self.named else "formula"

    @property
    def needs_reference(self) -> bool:
        made = () if self.constant is None else (f"{self.constant}.Winner", f"{self.constant}.Loser")
        return any(not is_policy(name) and name not in made for name in self.structure.atoms)

    @property
    def step0(self) -> float | None:
        """The loss while policy and reference are one model, where no log-prob takes part in it."""
        if self.length_alpha or not self._cancels():
            return None
        return self.scale * value(self.link, -self.offset, self.beta)

    def _cancels(self) -> bool:
        """Whether rho is then nothing but the offset."""
        if self.constant is None:
            return starts_at_zero(self.structure)
        expansion = expand(self.structure)
        if expansion.needs_length_normalisation:
            return False
        tied = (
            sorted(prediction(name.removeprefix("Ref.")) for name in literals(side) if name != made)
            for side, made in (
                (expansion.top, f"{self.constant}.Loser"),
                (expansion.bottom, f"{self.constant}.Winner"),
            )
        )
        return next(tied) == next(tied)

    def lines(self) -> list[str]:
        """For the person who waits: what is trained, and what to beware of."""
        told = describe.description(self.structure, self.named, link=self.link, beta=self.beta)
        margin = f"{self.offset:g} off rho" if self.offset else ""
        if self.constant == "Ref":
            margin = f"log(rw/rl) = {self.offset:g}"
        by_length = f"{self.length_alpha:g} a token of difference in length" if self.length_alpha else ""
        units = f"{'averages' if self.averages else 'sums'} of the answers' tokens"
        parts = (
            told["loss"],
            f"rho = {told['closed_form']}",
            margin,
            by_length,
            f"beta {self.beta:g}",
            units,
        )
        lines = [f"loss: {self.name}: {', '.join(part for part in parts if part)}"]
        # That averages are needed is told as a choice, or was overruled by name.
        beware = [line for line in told["warnings"] if not line.startswith("needs per-token averages")]
        return lines + [f"loss: {line}" for line in (*beware, *told["notes"])]


def state(options: SymbolicLoss, sft_weight: float | None = None) -> Stated:
    """The loss that is meant, or a RecipeError whose `where` is the key; `sft_weight` is the stage's."""
    named = find(options.formula)
    structure = _structure(options)
    constant = named.constant if named else _made_by_hand(options)
    if not any(is_policy(name) for name in structure.atoms):
        raise StructureError(
            "no atom belongs to the model in training, so nothing would be learned",
            where="loss.formula",
            way_out="use Winner or Loser in it",
        )
    link: Link = options.link or (named.link if named else "logistic")
    beta = default_beta(options.formula) if options.beta is None else options.beta
    offset, alpha = _margin(options, named, constant, link)
    choices: list[tuple[str, object, str]] = []
    averages = _units(options, structure, named, choices)
    weight = options.sft_weight if options.sft_weight is not None else sft_weight
    if weight is None:
        weight = sft_weight_of(structure)
        if weight:
            why = "else both answers could become improbable together: the loss falls as they do"
            choices.append(("sft_weight", weight, why))
    return Stated(
        named,
        structure,
        link,
        beta,
        named.scale(beta) if named else 1.0,
        averages,
        weight,
        options.floor,
        constant,
        offset,
        alpha,
        tuple(choices),
    )


def text_faults(options: SymbolicLoss) -> list[tuple[str, FormulaError]]:
    """Every text that cannot be read as a formula, or names a prediction that no row has, with its place."""
    if find(options.formula) is not None or is_word(options.formula):
        return []
    found: list[tuple[str, FormulaError]] = []
    for key in TEXTS:
        text = getattr(options, key)
        if text is None:
            continue
        try:
            parse(text)
        except FormulaError as broken:
            found.append((key, broken))
            continue
        found += [(key, stranger) for stranger in _strangers(options, text)]
    return found


def alone(options: PreferOptions) -> None:
    """Refuses what stands beside a stated loss without effect on it."""
    fields = PreferOptions.model_fields
    for key in ("loss_type", *BELONGS_ELSEWHERE):
        if getattr(options, key) != fields[key].default:
            raise RecipeError(excluded(key), where=f"loss, {key}", way_out="Keep one of them.")


def excluded(key: str) -> str:
    """Why the key cannot stand beside `loss`."""
    if key == "loss_type":
        return "`loss` and `loss_type` exclude each other: keep one"
    return f"`{key}` is read by the losses of `loss_type`, not by `loss`: {BELONGS_ELSEWHERE[key]}"


def _structure(options: SymbolicLoss) -> Structure:
    if faults := text_faults(options):
        key, broken = faults[0]
        raise RecipeError(
            broken.what, where=f"loss.{key}, character {broken.position + 1}", way_out=broken.way_out
        ) from broken
    try:
        return resolve(options.formula, options.given, options.also)[0]
    except UnknownLossError as unknown:
        # A name that is known stands beside conditions; else the name itself is wrong.
        given = "given" if options.given is not None else "also"
        key = given if find(options.formula) else "formula"
        raise UnknownLossError(unknown.what, where=f"loss.{key}", way_out=unknown.way_out) from unknown
    except StructureError as broken:
        raise StructureError(broken.what, where="loss.formula", way_out=broken.way_out) from broken


def _strangers(options: SymbolicLoss, text: str) -> list[FormulaError]:
    """Atoms that are neither a row's predictions nor of the one model that an offset makes."""
    made = _made_by_hand(options)
    known = (*ATOMS, *((f"{made}.Winner", f"{made}.Loser") if made else ()))
    return [
        FormulaError(
            f"`{name}` is no prediction of a row: there are {', '.join(known)}{nearest_atom(name, known)}",
            where="formula",
            way_out="A copy of one, such as Winner', counts twice. `offset:` makes the two atoms of one other model.",
            position=position,
        )
        for name, position in atoms_at(text).items()
        if prediction(name) not in known
    ]


def _made_by_hand(options: SymbolicLoss) -> str | None:
    """The model of a formula, other than policy and reference, whose log-ratio the offset gives."""
    if options.offset is None and options.length_alpha is None:
        return None
    models: set[str] = set()
    for key in TEXTS:
        text = getattr(options, key)
        try:
            names: Sequence[str] = () if text is None else tuple(atoms_at(text))
        except FormulaError:  # told by `text_faults`
            names = ()
        models |= {name.partition(".")[0] for name in names if "." in name}
    others = models - {"Ref"}
    return others.pop() if len(others) == 1 else None


def _margin(
    options: SymbolicLoss, named: NamedLoss | None, constant: str | None, link: Link
) -> tuple[float, float]:
    if options.length_alpha is not None and link != "logistic":
        raise RecipeError(
            f"alpha stands beside beta * rho, which the {link} link does not have",
            where="loss.length_alpha",
            way_out="write `link: logistic`, or leave it out",
        )
    given = options.offset is not None or options.length_alpha is not None
    if named and constant and constant != "Ref" and not given:
        raise RecipeError(
            f"{named.name} subtracts a margin of its own from each pair, and rows carry none",
            where="loss.formula",
            way_out="write `offset:` for one margin of all pairs, or `length_alpha:` for one by the answers' lengths",
        )
    own = named.offset if named else 0.0
    return own if options.offset is None else options.offset, options.length_alpha or 0.0


def _units(
    options: SymbolicLoss,
    structure: Structure,
    named: NamedLoss | None,
    choices: list[tuple[str, object, str]],
) -> bool:
    needed = expand(structure).needs_length_normalisation
    asked = options.average_log_prob
    if options.allow_sums and asked is not False:
        raise RecipeError(
            "it goes with `average_log_prob: false` and changes nothing alone",
            where="loss.allow_sums",
            way_out="write both, or neither",
        )
    if asked is None:
        if needed:
            why = (
                "1 - p and sums of probabilities: with sums over tokens 1 - p is 1, and the loss another one"
            )
            choices.append(("average_log_prob", True, why))
        return needed or (named is not None and named.averages)
    try:
        measure.check_units(structure, averages=asked, allow_sums=options.allow_sums)
    except RecipeError as refused:
        way_out = "leave it out, or write `allow_sums: true` too"
        raise RecipeError(refused.what, where="loss.average_log_prob", way_out=way_out) from refused
    return asked
