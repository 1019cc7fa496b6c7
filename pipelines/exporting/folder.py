"""`heliograph export`: what is asked for is judged before anything loads; then written aside, checked, put in place."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ModelError, RunError
from pipelines import provenance, state
from pipelines.card.lineage import final_models, models, weights_below
from pipelines.card.writing import render
from pipelines.cluster.jobs import locate
from pipelines.exporting import hub
from pipelines.report.gather import RunRecord, gather
from pipelines.stage import MODEL
from trainers import aliases, policy
from trainers.policy import Policy

if TYPE_CHECKING:
    from trainers.export import Form

FORMS = ("adapter", "merged", "gguf")
ASIDE = ".{name}.heliograph-export"
"""Beside the target, so that putting it in place is one rename. Whatever a killed export left has this name."""
RECORD = "export.json"
HUB = "hub:"
README = "README.md"
Show = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    run: str
    to: str
    stage: str | None = None
    form: str | None = None
    runs_dir: Path = Path("runs")
    public: bool = False


def export(request: Request, show: Show) -> dict[str, Any]:
    """Returns what was exported and what was checked."""
    # It asks for a package that only makes 4-bit products faster; what it says in a run stands in the stage's log.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    run_dir = locate(request.run, request.runs_dir).absolute()
    record = gather(run_dir)
    done = chosen(record, request.stage)
    start = run_dir / done.name / MODEL
    found = policy.read(str(start))
    form = form_of(found, request.form, done.name)
    repo = request.to.removeprefix(HUB) if request.to.startswith(HUB) else None
    target = run_dir / ".export" / done.name if repo else Path(request.to).expanduser().absolute()
    below = weights_below(record, done.name)
    if repo is not None:
        _check_base(found, form, done.name)
        hub.check(repo)
    elif form == "adapter" and below:
        show(
            f"its base is the model of the stage `{below}`, which stays in the run: export that too, or --as merged"
        )
    aside = make_room(target, show, ours=repo is not None)
    result = _write(start, form, aside, f"{record.name}-{done.name}", run_dir, show)
    result = {"run": run_dir.name, "stage": done.name, "build": done.build, **result}
    card = render(record, done.name, exported=result)
    (aside / MODEL / README).write_text(card, encoding="utf-8")
    told = state.plain({**result, "versions": provenance.versions()})
    (aside / MODEL / RECORD).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    put(aside, target)
    if repo is None:
        show(f"{done.name}: exported as {form} to {target}")
        return {**result, "to": str(target)}
    address = hub.upload(target, repo, private=not request.public)
    shutil.rmtree(target)
    show(f"{done.name}: exported as {form} to {address}{'' if request.public else ' (private)'}")
    return {**result, "to": address}


def chosen(record: RunRecord, name: str | None) -> state.Done:
    """The stage that was asked for, or the only one whose model no other model was made from."""
    made = models(record)
    where, there = str(record.folder), f"Models: {', '.join(made) or 'none yet'}."
    if name is None:
        final = [one for one in final_models(record) if made[one].kind != "rerank"]
        if len(final) == 1:
            name = final[0]
        elif final:
            way_out = f"--stage {final[-1]}, or another."
            raise RunError(
                f"several stages made a final model: {', '.join(final)}", where=where, way_out=way_out
            )
        else:
            raise RunError("no stage has made a model yet", where=where, way_out="`heliograph run` it first.")
    stage = record.stage(name)
    if stage is None:
        raise RunError(f"the run has no stage `{name}`", where=where, way_out=there)
    if name not in made or stage.done is None:
        raise RunError(f"the stage `{name}` has no finished model", where=where, way_out=there)
    if stage.kind == "rerank":
        raise RunError(
            "a reranker is a folder that sentence-transformers loads as it is",
            where=name,
            way_out=f"Copy {stage.folder / MODEL}.",
        )
    return stage.done


def form_of(found: Policy, asked: str | None, stage: str) -> Form:
    """What the policy can be exported as; left out, as what it is."""
    if asked is not None and asked not in FORMS:
        raise ModelError(
            f"there is no form `{asked}`", where="--as", way_out=f"Take one of {', '.join(FORMS)}."
        )
    count = len(found.adapters)
    if asked == "adapter" and count == 0:
        raise ModelError(
            "this is a plain model, there is no adapter",
            where=stage,
            way_out="Leave --as out, or --as merged.",
        )
    if count > 1 and asked in (None, "adapter"):
        names = " on ".join(_adapter_name(path) for path in reversed(found.adapters))
        raise ModelError(
            f"{count} adapters are stacked here ({names}): exported as one adapter it would be another policy",
            where=stage,
            way_out="--as merged   folds them all into the weights and checks that nothing else changed.",
        )
    return asked or ("adapter" if count else "merged")


def _adapter_name(path: Path) -> str:
    return path.parent.name if path.name == MODEL else path.name.split("-", 1)[-1]


def _check_base(found: Policy, form: str, stage: str) -> None:
    if form == "adapter" and (aliases.is_alias(found.base) or os.path.isabs(found.base)):
        raise ModelError(
            f"the adapter's base is `{Path(found.base).name}`, which nobody else can load from the hub",
            where=stage,
            way_out="--as merged   brings the base along.",
        )


def make_room(target: Path, show: Show, *, ours: bool = False) -> Path:
    """The folder to write aside. A target with something in it is refused; what a killed export left is removed."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not ours:
        raise RunError(
            "there is something here already, and an export never writes over it",
            where=str(target),
            way_out="Give another folder, or remove this one.",
        )
    aside = target.with_name(ASIDE.format(name=target.name))
    if aside.exists():
        show(f"{aside}: removed, a killed export left it half-written")
        shutil.rmtree(aside)
    try:
        aside.mkdir(parents=True)
    except OSError as fault:
        raise RunError(
            f"cannot be written: {fault.strerror}",
            where=str(aside),
            way_out="Give a folder you may write to.",
        ) from fault
    return aside


def _write(start: Path, form: Form, aside: Path, name: str, run_dir: Path, show: Show) -> dict[str, Any]:
    from trainers.export import export as write_model
    from trainers.work import Work

    work = Work(out=aside, say=show, store=run_dir.parent / ".store")
    try:
        return write_model(str(start), form, aside, name, work)
    except ModelError:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def put(aside: Path, target: Path) -> None:
    """In one rename: whoever sees the folder sees a whole one."""
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    elif target.exists():
        shutil.rmtree(target)
    os.replace(aside / MODEL, target)
    shutil.rmtree(aside)


def told(result: dict[str, Any]) -> list[str]:
    """What was checked, in words."""
    checked = result["checked"]
    line = f"loaded again; {checked['tokens']} greedy tokens to {checked['prompts']} prompts are "
    if checked["equal"]:
        return [line + "those of the run's model"]
    return [
        line
        + f"those of the run's model but for {checked['near_ties']} places where two tokens are as good as "
        f"equal (logits {checked['logit_gap']:.2g} apart)"
    ]
