"""The generated parts of docs/losses.md: every named loss, sorted by what it needs and does.

`python -m pipelines.loss_reference docs/losses.md` writes them anew between their markers; a test keeps them fresh.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from data.errors import DataError
from trainers.logic import describe, measure, signs
from trainers.logic.formula import is_reference, prediction
from trainers.logic.named import LATTICE, NamedLoss, registry
from trainers.logic.polynomial import starts_at_zero
from trainers.logic.render import closed_form

_PART = re.compile(r"(<!-- generated: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """The page with its generated parts as the code has them now; the rest stays."""
    unknown = {name for _, name, _ in _PART.findall(text)} ^ set(PARTS)
    if unknown:
        raise DataError(f"the page must have each of these parts once: {', '.join(sorted(unknown))}")
    return _PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}{part[3]}", text)


def groups() -> str:
    """Which losses share a property that decides between them."""
    losses = list(registry().values())
    rows: list[tuple[str, Iterable[NamedLoss]]] = [
        ("needs no reference model", (x for x in losses if not x.needs_reference)),
        ("works with summed log-probs", (x for x in losses if not x.needs_length_normalisation)),
        ("starts at a value known beforehand", (x for x in losses if _starts_known(x))),
        ("satisfied by making every answer improbable", (x for x in losses if x.structure.collapses)),
        ("the chosen answer has no gradient", (x for x in losses if _sign(x, "Winner") == "0")),
        ("the rejected answer has no gradient", (x for x in losses if _sign(x, "Loser") == "0")),
        ("unchanged when both answers become improbable alike", (x for x in losses if _relative(x))),
    ]
    return _table(("property", "losses"), ((what, ", ".join(x.name for x in found)) for what, found in rows))


def lattice() -> str:
    """The sixteen, most constrained first."""
    losses = [registry()[name] for name in LATTICE]
    return _table(
        ("name", "formula", "given", "also", "rho", "pull on w, l", "`sft_weight`"),
        (
            (
                f"**{x.name}**",
                *map(_code, x.structure.core().texts().values()),
                _rho(x),
                _pull(x),
                f"{x.sft_weight:g}",
            )
            for x in losses
        ),
    )


def references() -> str:
    """Their reference forms."""
    losses = registry()
    forms = [(name, losses["DPO" if name == "CPO" else f"ref-{name}"]) for name in LATTICE]
    return _table(
        ("name", "of", "formula", "rho", "pull on w, l"),
        (
            (f"**{x.name}**", name, _code(x.structure.core().texts()["formula"]), _rho(x), _pull(x))
            for name, x in forms
        ),
    )


def others() -> str:
    """Other links, constants and copies over the same structures."""
    told = {*LATTICE, "DPO", *(f"ref-{name}" for name in LATTICE)}
    return _table(
        ("name", "rho", "link, beta", "what to know"),
        (
            (f"**{x.name}**", _rho(x), f"{x.link}, {x.beta:g}", "; ".join(x.notes))
            for x in registry().values()
            if x.name not in told
        ),
    )


PARTS: dict[str, Callable[[], str]] = {
    "groups": groups,
    "lattice": lattice,
    "references": references,
    "others": others,
}


def _sign(loss: NamedLoss, name: str) -> signs.Sign | None:
    """None where the loss is not about that answer at all, as NPO is not about a winner."""
    return signs.sign(loss.structure, name) if name in loss.structure.columns else None


def _starts_known(loss: NamedLoss) -> bool:
    return loss.constant is None and starts_at_zero(loss.structure)


def _relative(loss: NamedLoss) -> bool:
    """Whether rho stays when w and l shrink by one factor: asked at places where any other rho would move."""
    policy = ("Winner", "Loser")
    if not set(policy) <= set(loss.structure.atoms):
        return False

    def rho(shift: float) -> float:
        at = {name: -0.7 if is_reference(name) else -1.3 for name in loss.structure.atoms}
        at |= {name: describe.EXAMPLE[prediction(name)] + shift for name in at if prediction(name) in policy}
        return measure.measure(loss.structure, at).rho

    return all(abs(rho(shift) - rho(0.0)) < 1e-12 for shift in (-0.5, -3.0))


def _pull(loss: NamedLoss) -> str:
    """The gradient by log w and log l at the example's averages and beta 1, policy and reference being one model."""
    logps = {name: describe.EXAMPLE[name.removeprefix("Ref.")] for name in loss.structure.atoms}
    grad = measure.measure(loss.structure, logps, link=loss.link, beta=1.0).grad
    return ", ".join(f"{grad.get(name, 0.0):+.3f}".replace("+0.000", "0") for name in ("Winner", "Loser"))


def _rho(loss: NamedLoss) -> str:
    return _code(closed_form(loss.structure))


def _code(text: str) -> str:
    # A bar ends a cell of a table, even inside code.
    return f"`{text}`".replace("|", "\\|")


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]]) + "\n"


if __name__ == "__main__":
    page = Path(sys.argv[1] if len(sys.argv) == 2 else "docs/losses.md")
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
