"""The verbs that only read: validate, plan and status, for a person or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import RecipeError, RunError
from pipelines import state, summary
from pipelines.cluster import jobs
from pipelines.plan import plan
from pipelines.planning.whole import costs
from pipelines.recipe import Recipe, check, from_json, json_schema, load
from pipelines.run import run_folder


def print_schema() -> None:
    _json(json_schema())


def validate(path: Path, overrides: Sequence[str], as_json: bool) -> int:
    """Every fault at once; the exit code says whether there were any."""
    try:
        checked = check(path, overrides)
    except RecipeError as unread:  # There is no file to point into; who asked for JSON gets it all the same.
        if not as_json:
            raise
        _json({"ok": False, "faults": [{"line": 0, "column": 0, "path": "", "message": str(unread)}]})
        return 2
    _notices(checked.notices)
    if as_json:
        faults = [
            {"line": f.line, "column": f.column, "path": f.path, "message": f.message} for f in checked.faults
        ]
        _json({"ok": not faults, "faults": faults})
    elif checked.faults:
        for f in checked.faults:
            print(f.render(str(path)), file=sys.stderr)
        print(summary.plural(len(checked.faults), "fault"), file=sys.stderr)
    elif checked.recipe is not None:
        print(f"{path}: ok, {len(checked.recipe.stages)} stages")
    return 2 if checked.faults else 0


def show_plan(
    path: Path,
    overrides: Sequence[str],
    name: str | None,
    runs_dir: Path,
    as_json: bool,
    measured: bool = False,
) -> None:
    """What a run would do about each stage, and what those that train will cost."""
    recipe = load(path, overrides)
    _notices(recipe.notices)
    run_dir = run_folder(recipe, name, runs_dir)
    planned = plan(recipe, run_dir)
    found = costs(recipe, planned, measured=measured, say=lambda line: print(line, file=sys.stderr))
    if as_json:
        told = summary.status(planned, run_dir.name)
        of = found.as_json()
        for stage in told["stages"]:
            if stage["name"] in of:
                stage["costs"] = of[stage["name"]]
        _json(told)
        return
    print(f"{run_dir}")
    for line in (*summary.lines(planned), *found.lines()):
        print(line)


def show_status(name: str, runs_dir: Path, as_json: bool) -> None:
    """`name` is a run's name, its folder, or its recipe."""
    run_dir = jobs.locate(name, runs_dir)
    recipe = recipe_of(run_dir)
    _show(recipe, run_dir, as_json, jobs.jobs_of(recipe, run_dir))


def recipe_of(run_dir: Path) -> Recipe:
    """The recipe as the run folder holds it."""
    path = run_dir / state.RECIPE
    found = state.read_json(path)
    if found is None:
        known = sorted(p.parent.name for p in run_dir.parent.glob(f"*/{state.RECIPE}"))
        raise RunError(
            "there is no run here",
            where=str(run_dir),
            way_out=f"The runs in {run_dir.parent} are: {', '.join(known)}."
            if known
            else "`heliograph run RECIPE` makes one; --runs-dir says where the runs are.",
        )
    return from_json(found)


def _show(recipe: Recipe, run_dir: Path, as_json: bool, found: jobs.Jobs | None = None) -> None:
    planned = plan(recipe, run_dir)
    found = found or jobs.Jobs(())
    if as_json:
        more = {"slurm": jobs.told(found)} if found.placed else {}
        _json(summary.status(planned, run_dir.name) | more)
        return
    print(f"{run_dir}")
    for line in (*summary.lines(planned), *jobs.lines(found)):
        print(line)


def _notices(notices: Sequence[object]) -> None:
    for notice in notices:
        print(notice, file=sys.stderr)


def _json(value: Any) -> None:
    print(json.dumps(state.plain(value), indent=2, ensure_ascii=False))
