"""The lattice of the sixteen losses as one HTML page that needs no network: `heliograph loss explore`."""

from __future__ import annotations

import json
import os
import re
import webbrowser
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from data.errors import RunError
from pipelines.losses import panels as loss_panels
from trainers.logic import describe, lattice, links, measure, tables
from trainers.logic.expansion import Lit, Node, Sum, expand
from trainers.logic.formula import order
from trainers.logic.named import LATTICE, NamedLoss, registry
from trainers.logic.structure import Structure

Form = Literal["plain", "ref"]
FORMS: tuple[Form, ...] = ("plain", "ref")
ATOMS = ("Winner", "Loser", "Ref.Winner", "Ref.Loser")
# What the papers had before the lattice was drawn.
KNOWN = frozenset({"CEUnl", "CE", "ORPO", "CPO", "DPO"})
RELATIONS = {
    "equal": "{a} and {b} are the same loss.",
    "entails": "{a} entails {b}: its ρ is nowhere larger. With a falling link its loss is nowhere smaller.",
    "entailed_by": "{b} entails {a}: the ρ of {a} is nowhere smaller. With a falling link its loss is nowhere larger.",
    "incomparable": "Neither of {a} and {b} entails the other.",
}
# Written into the page, and looked for before a file is replaced.
GENERATOR = '<meta name="generator" content="heliograph loss explore">'


def named_in(form: Form) -> dict[str, NamedLoss]:
    """The loss that each name of the lattice stands for: itself, or its reference form (that of CPO is DPO)."""
    losses = registry()
    if form == "plain":
        return {name: losses[name] for name in LATTICE}
    return {name: losses["DPO" if name == "CPO" else f"ref-{name}"] for name in LATTICE}


@lru_cache(maxsize=1)
def covers() -> list[tuple[str, str]]:
    """The edges (a, b), b one step weaker than a. Both forms have the same."""
    return lattice.covers({name: loss.structure for name, loss in named_in("plain").items()})


def data() -> dict[str, Any]:
    """What the page's script computes with."""
    return {
        "atoms": ATOMS,
        "floor": measure.FLOOR,
        "links": links.FORMS,
        "relations": RELATIONS,
        "example": [describe.EXAMPLE["Winner"], describe.EXAMPLE["Loser"]],
        "covers": covers(),
        "curves": loss_panels.CURVES,
        "forms": {form: _form(form) for form in FORMS},
    }


def _form(form: Form) -> dict[str, Any]:
    losses = named_in(form)
    atoms = order(name for loss in losses.values() for name in loss.structure.columns)
    return {
        "rows": [tables.row_values(row, atoms) for row in range(1 << len(atoms))],
        "losses": {name: _loss(loss, atoms) for name, loss in losses.items()},
        "relations": {
            a: {b: _relation(x.structure, y.structure) for b, y in losses.items()} for a, x in losses.items()
        },
    }


def _loss(loss: NamedLoss, atoms: tuple[str, ...]) -> dict[str, Any]:
    expansion = expand(loss.structure)
    return {
        "name": loss.name,
        "link": loss.link,
        "beta": loss.beta,
        "marks": loss.structure.marks(atoms),
        "top": _tree(expansion.top),
        "bottom": _tree(expansion.bottom),
    }


def _tree(node: Node) -> list[Any]:
    if isinstance(node, Lit):
        return ["p" if node.positive else "q", ATOMS.index(node.atom)]
    if isinstance(node, Sum):
        return ["sum", *map(_tree, node.parts)]
    return ["logadd", _tree(node.left), _tree(node.right)]


def _relation(a: Structure, b: Structure) -> list[Any]:
    """The relation, and the rows that witness it, by their values in the order of the atoms compared."""
    found = lattice.compare(a, b)
    rows = [w for w in (found.witness, found.converse) if w is not None]
    unique = rows[:1] if len(rows) == 2 and rows[0] == rows[1] else rows
    return [found.relation, *({"row": w.row, "a": w.a, "b": w.b} for w in unique)]


def page() -> str:
    """The whole page; the same text every time."""
    folder = resources.files("pipelines") / "pages"
    parts = {kind: (folder / f"explore.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")}
    edges = covers()
    panels = [
        loss_panels.panel(name, loss, form, known=loss.name in KNOWN, names=_names(form), covers=edges)
        for form in FORMS
        for name, loss in named_in(form).items()
    ]
    # A "<" inside the data could end the script element.
    embedded = json.dumps(data(), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    slots = {
        "generator": GENERATOR,
        "style": parts["css"],
        "script": parts["js"],
        "data": embedded,
        "lattice": loss_panels.lattice_svg(edges, named_in("plain"), named_in("ref"), KNOWN),
        "panels": "\n".join(panels),
        "curve_loss": loss_panels.curves_svg("loss"),
        "curve_slope": loss_panels.curves_svg("slope"),
        "count": str(len(LATTICE)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], parts["html"])


def _names(form: Form) -> dict[str, str]:
    return {name: loss.name for name, loss in named_in(form).items()}


def write(path: Path) -> None:
    """Writes the page, but never over a file that is something else."""
    if path.is_dir():
        raise RunError(f"{path} is a folder", way_out=f"name a file: --out {path / 'losses.html'}")
    if path.exists() and GENERATOR not in path.read_text(encoding="utf-8", errors="replace")[:4000]:
        raise RunError(f"{path} exists and is not a page of this command", way_out="choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(page(), encoding="utf-8")
    os.replace(aside, path)


def show(path: Path) -> None:
    if not webbrowser.open(path.resolve().as_uri()):
        raise RunError("no browser could be started here", way_out=f"open {path} yourself")
