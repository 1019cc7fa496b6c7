"""`heliograph loss`: preference losses as logic, shown, compared, searched and evaluated without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from data.errors import RecipeError, UserError
from trainers.logic import describe, lattice, lookup, measure, render
from trainers.logic.decompile import decompile as read_equation
from trainers.logic.formula import atom_name, prediction
from trainers.logic.links import FORMS, link_named
from trainers.logic.named import NamedLoss, names_of, registry
from trainers.logic.structure import Structure, is_policy


class _Told(TyperGroup):
    """Prints what a person can act on without a traceback, for this app alone as when it is mounted."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None


loss_app = typer.Typer(
    cls=_Told,
    help="Preference losses stated as logic.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Source = Annotated[str, typer.Argument(metavar="NAME|FORMULA", help="A named loss, or a formula.")]
Given = Annotated[str | None, typer.Option(help="P_C: rows outside it do not count.")]
Also = Annotated[str | None, typer.Option(help="P_A: rows in it count on both sides.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LinkOption = Annotated[str | None, typer.Option(help="logistic, squared, hinge or margin.")]
Beta = Annotated[float | None, typer.Option(help="Default: the loss's own, 1 for a formula.")]


@loss_app.command("list")
def list_losses(as_json: AsJson = False) -> None:
    """All named losses."""
    losses = [describe.summary(loss.structure, loss) for loss in registry().values()]
    if as_json:
        _print_json(losses)
        return
    _print_table(
        [
            {
                "name": x["name"],
                "formula": x["formula"],
                "closed form": x["closed_form"],
                "link": x["link"],
                "needs": " ".join(key for key, needed in x["needs"].items() if needed) or "-",
            }
            for x in losses
        ]
    )


@loss_app.command()
def show(
    source: Source,
    given: Given = None,
    also: Also = None,
    link: LinkOption = None,
    beta: Beta = None,
    as_json: AsJson = False,
) -> None:
    """What a loss means, how it is computed, what it needs, and what to beware of."""
    structure, loss = lookup.resolve(source, given, also)
    if beta is not None:
        measure.check_beta(beta)
    told = describe.description(structure, loss, link=link_named(link) if link else None, beta=beta)
    if as_json:
        _print_json(told)
        return
    step0 = told["step0"]
    at = ""
    if not step0["constant"]:
        at = f"  at w = {step0['at']['w']}, l = {step0['at']['l']}" if step0["at"] else ""
    value = "depends on the log-probs" if step0["value"] is None else f"{step0['value']:.6g}{at}"
    names = [told["name"], *told["aliases"]] if told["name"] else ["(no name)"]
    needs = [key.replace("_", " ") for key, needed in told["needs"].items() if needed]
    _print_fields(
        {
            "name": ", ".join(names),
            "same structure": ", ".join(told["same_structure"]),
            "formula": told["formula"],
            "given": told["given"],
            "also": told["also"],
            "closed form": f"rho = {told['closed_form']}",
            "log space": f"rho = {told['stable']}",
            "latex": told["latex"]["rho"],
            "loss": f"{told['loss']}, beta {told['beta']:g}",
            "needs": ", ".join(needs) or "nothing but the model",
            "at step 0": value,
            "rho moves with": ", ".join(f"{name} {sign}" for name, sign in told["gradient"].items()),
            "sft_weight": f"{told['sft_weight']:g}",
        }
    )
    typer.echo("")
    _print_table([{**_truths(x["row"]), "counts": _MEANING[x["mark"]]} for x in told["table"]])
    for kind in ("warnings", "notes"):
        for line in told[kind]:
            typer.echo(f"{kind[:-1]}: {line}")


@loss_app.command()
def compare(
    a: Source,
    b: Source,
    given: Annotated[str | None, typer.Option(help="P_C of a formula, of both if both are.")] = None,
    also: Annotated[str | None, typer.Option(help="P_A of a formula, of both if both are.")] = None,
    given_b: Annotated[str | None, typer.Option(help="P_C of the second formula instead.")] = None,
    also_b: Annotated[str | None, typer.Option(help="P_A of the second formula instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Whether one loss entails the other, with a row of the truth table as witness."""
    # A name brings its own conditions: what is given then belongs to the formula beside it.
    shared = (None, None) if lookup.find(a) and not lookup.find(b) else (given, also)
    one, first = lookup.resolve(a, *shared)
    shared = (None, None) if lookup.find(b) and not lookup.find(a) else (given, also)
    other, second = lookup.resolve(b, given_b or shared[0], also_b or shared[1])
    found = lattice.compare(one, other)
    if as_json:
        witness = asdict(found.witness) if found.witness else None
        if witness is not None and found.converse is not None:
            witness["converse"] = asdict(found.converse)
        _print_json({"relation": found.relation, "witness": witness})
        return
    left, right = (loss.name if loss else text for loss, text in ((first, a), (second, b)))
    words = {
        "equal": f"{left} and {right} are the same structure",
        "entails": f"{left} entails {right}: its rho is never larger",
        "entailed_by": f"{left} is entailed by {right}: its rho is never smaller",
        "incomparable": f"neither of {left} and {right} entails the other",
    }
    typer.echo(words[found.relation])
    converse = None if found.converse == found.witness else found.converse
    for row in (found.witness, converse):
        if row is not None:
            truth = ", ".join(f"{name} {'true' if value else 'false'}" for name, value in row.row.items())
            typer.echo(f"  row {truth}: {left} {_MEANING[row.a]}, {right} {_MEANING[row.b]}")
    if first and second and found.relation == "equal" and first.link != second.link:
        typer.echo(f"  they differ in the link: {left} {first.link}, {right} {second.link}")


@loss_app.command()
def decompile(
    equation: Annotated[str, typer.Argument(help="Such as 'log (w*(1-l)) / (l*(1-w))'.")],
    as_json: AsJson = False,
) -> None:
    """From an equation in w, l, rw, rl to its logic."""
    structure = read_equation(equation)
    texts = structure.core().texts()
    if as_json:
        _print_json(texts)
        return
    _print_fields({**texts, "name": ", ".join(names_of(structure)) or "-"})


@loss_app.command()
def neighbours(source: Source, given: Given = None, also: Also = None, as_json: AsJson = False) -> None:
    """The losses one step weaker (up) and one step stronger (down)."""
    structure, _ = lookup.resolve(source, given, also)
    directions: tuple[lattice.Direction, ...] = ("up", "down")
    told = {way: [_step(s) for s in lattice.neighbours(structure, way)] for way in directions}
    if as_json:
        _print_json(told)
        return
    for way, steps in told.items():
        typer.echo(f"{way}: " + ("weaker" if way == "up" else "more constrained"))
        _print_table(
            [
                {
                    "name": ", ".join(x["names"]) or "-",
                    "row": " ".join(f"{k}={v}" for k, v in _truths(x["row"]).items()),
                    "counts": f"{_MEANING[x['before']]} -> {_MEANING[x['after']]}",
                    "closed form": x["closed_form"],
                }
                for x in steps
            ]
        )


@loss_app.command()
def search(
    collapses: Annotated[
        bool | None,
        typer.Option(
            "--collapses/--no-collapses", help="Satisfied by making both answers improbable, or not."
        ),
    ] = None,
    averages: Annotated[
        bool | None, typer.Option("--averages/--no-averages", help="Needs per-token averages, or not.")
    ] = None,
    both: Annotated[
        bool | None, typer.Option("--both/--one", help="Depends on both answers, or one.")
    ] = None,
    named: Annotated[bool | None, typer.Option("--named/--new", help="Has a name, or is new.")] = None,
    as_json: AsJson = False,
) -> None:
    """The losses over one model that never reward the loser or punish the winner."""
    from trainers.logic import search as enumeration

    found = enumeration.search(
        collapses=collapses, length_normalisation=averages, both_answers=both, named=named
    )
    rows = [{**describe.summary(x.structure), "names": x.names} for x in found]
    if as_json:
        _print_json(rows)
        return
    keys = ("formula", "given", "also", "closed_form")
    _print_table([{"name": ", ".join(x["names"]) or "-", **{k: x[k] for k in keys}} for x in rows])
    typer.echo(f"{len(rows)} losses")


@loss_app.command()
def value(
    source: Source,
    w: Annotated[float | None, typer.Option("--w", help="Log-prob of the chosen answer.")] = None,
    l: Annotated[float | None, typer.Option("--l", help="Log-prob of the rejected answer.")] = None,  # noqa: E741
    rw: Annotated[float | None, typer.Option("--rw", help="The reference's, of the chosen answer.")] = None,
    rl: Annotated[float | None, typer.Option("--rl", help="The reference's, of the rejected answer.")] = None,
    atom: Annotated[list[str] | None, typer.Option(help="NAME=LOGPROB, for any other atom.")] = None,
    offset: Annotated[float | None, typer.Option(help="SimPO's gamma, ODPO's offset.")] = None,
    beta: Beta = None,
    link: LinkOption = None,
    given: Given = None,
    also: Also = None,
    floor: Annotated[float, typer.Option(help="1 - p is never taken below this.")] = measure.FLOOR,
    as_json: AsJson = False,
) -> None:
    """The loss at given log-probs and its gradient by each of them."""
    structure, loss = lookup.resolve(source, given, also)
    chosen = link_named(link) if link else loss.link if loss else "logistic"
    strength = beta if beta is not None else loss.beta if loss else 1.0
    measure.check_beta(strength)
    logps = {"Winner": w, "Loser": l, "Ref.Winner": rw, "Ref.Loser": rl, **_atoms(atom or [])}
    known = {name: x for name, x in logps.items() if x is not None}
    known |= _constants(loss, offset)
    _require(structure, known)
    scale = loss.scale(strength) if loss else 1.0
    found = measure.measure(structure, known, link=chosen, beta=strength, scale=scale, floor=floor)
    grad = {"w": 0.0, "l": 0.0} | {render.short(k): x for k, x in found.grad.items() if is_policy(k)}
    told = {"rho": found.rho, "loss": found.loss, "grad": grad}
    if as_json:
        _print_json(told)
        return
    typer.echo(f"rho   {found.rho:.12g}")
    typer.echo(f"loss  {found.loss:.12g}   {chosen}: {FORMS[chosen]}, beta {strength:g}")
    for name, slope in grad.items():
        typer.echo(f"d loss / d log {name}   {slope:.12g}")


@loss_app.command()
def explore(
    out: Annotated[Path, typer.Option(help="The page: one HTML file.")] = Path("losses.html"),
    opened: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """The lattice of the sixteen losses as a page to read, click through and print, without a network."""
    from pipelines.losses import explore as loss_explore

    loss_explore.write(out)
    typer.echo(f"written: {out}")
    if opened:
        loss_explore.show(out)


def _constants(loss: NamedLoss | None, offset: float | None) -> dict[str, float]:
    if loss is not None and loss.constant is not None:
        return measure.constants(loss.constant, loss.offset if offset is None else offset)
    if offset is not None:
        raise RecipeError("this loss has no offset", way_out="SimPO, R-DPO and ODPO have one")
    return {}


def _require(structure: Structure, known: Mapping[str, float]) -> None:
    missing = [n for n in structure.atoms if n not in known and prediction(n) not in known]
    if missing:
        flags = [f"--{render.short(n)}" if "." not in render.short(n) else f"--atom {n}=..." for n in missing]
        raise RecipeError(f"no log-probability for {', '.join(missing)}", way_out=f"give {' '.join(flags)}")


def _atoms(pairs: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        try:
            found[atom_name(name.strip())] = float(number)
        except ValueError:
            raise RecipeError(
                f"--atom {pair}: expected NAME=LOGPROB", way_out="as in Other.Winner=-1.2"
            ) from None
    return found


def _step(step: lattice.Step) -> dict[str, Any]:
    return {
        "names": names_of(step.structure),
        "row": step.row,
        "before": step.before,
        "after": step.after,
        **step.structure.core().texts(),
        "closed_form": render.closed_form(step.structure),
    }


_MEANING = {"check": "for", "cross": "against", "both": "on both sides", "neither": "not at all"}


def _truths(row: Mapping[str, bool]) -> dict[str, str]:
    return {render.short(name): "T" if value else "F" for name, value in row.items()}


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_fields(fields: Mapping[str, Any]) -> None:
    width = max(len(name) for name in fields)
    for name, text in fields.items():
        if text != "":
            typer.echo(f"{name:<{width}}  {text}")


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        typer.echo("  none")
        return
    heads = list(rows[0])
    widths = [max(len(head), *(len(str(row[head])) for row in rows)) for head in heads]
    lines = [heads, *([cast(str, row[head]) for head in heads] for row in rows)]
    for line in lines:
        typer.echo("  " + "  ".join(f"{x:<{n}}" for x, n in zip(line, widths, strict=True)).rstrip())
