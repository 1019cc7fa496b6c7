"""Walk the stages of a recipe: skip the finished, refuse the stale, go on with the rest, and show what came out."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from data.errors import DataError, RunError
from data.jsonl import replacing
from pipelines import lock, progress, state
from pipelines.closing import keep_command, write_report
from pipelines.launch import Ended, launch
from pipelines.plan import Planned, dependents, plan, ready
from pipelines.recipe import Recipe, load, to_json
from pipelines.stage import Waiting
from pipelines.summary import ago, summary
from trainers.work import SCRATCH

RUN_NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
Show = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    recipe: Path
    overrides: tuple[str, ...] = ()
    name: str | None = None
    only: str | None = None
    from_stage: str | None = None
    runs_dir: Path = Path("runs")
    command: str = ""
    json_lines: bool = False


def run_folder(recipe: Recipe, name: str | None, runs_dir: Path) -> Path:
    chosen = name if name is not None else recipe.name
    if not re.fullmatch(RUN_NAME_PATTERN, chosen):
        raise RunError(
            f"`{chosen}` cannot be the name of a run",
            where="--name",
            way_out="Use letters, digits, dots, dashes and underscores, beginning with a letter or digit.",
        )
    return runs_dir / chosen


def _print(line: str) -> None:
    print(line, flush=True)


def run(
    request: Request, show: Show = _print, notice: Show = lambda line: print(line, file=sys.stderr)
) -> int:
    """The command's exit code. What the user can mend is raised, and so is what waits for people."""
    recipe = load(request.recipe, request.overrides)
    for line in recipe.notices:
        notice(str(line))
    if request.only is not None and request.from_stage is not None:
        raise RunError("--only and --from exclude each other", way_out="--from STAGE, then --only the next.")
    for option, stage in (("--only", request.only), ("--from", request.from_stage)):
        known_stage(recipe, option, stage)
    run_dir = run_folder(recipe, request.name, request.runs_dir)
    if not request.json_lines:
        return _locked(recipe, run_dir, request, show, notice)
    lines = progress.JsonLines()
    try:
        code = _locked(recipe, run_dir, request, lines.note, notice, lines)
    except RunError as error:
        lines.tell("end", code=2, run=str(run_dir), what=error.what, where=error.where, way_out=error.way_out)
        raise
    except Waiting as waiting:
        lines.tell("end", code=75, run=str(run_dir), what=waiting.what, way_out=waiting.how)
        raise
    metrics = {item.name: item.done.metrics for item in plan(recipe, run_dir) if item.done is not None}
    lines.tell("end", code=code, run=str(run_dir), metrics=state.plain(metrics))
    return code


def _locked(
    recipe: Recipe,
    run_dir: Path,
    request: Request,
    show: Show,
    notice: Show,
    watch: progress.Watch | None = None,
) -> int:
    """Walk the run while nobody else does; its report is written afterwards, however it ended."""
    held = lock.acquire(run_dir, request.command or " ".join(sys.argv))
    begun: list[str] = []
    try:
        if held.notice:
            notice(held.notice)
        return _walk(recipe, run_dir, request, held, show, notice, watch, begun)
    finally:
        held.release()
        if begun:
            write_report(run_dir, show, notice)


def known_stage(recipe: Recipe, option: str, name: str | None) -> None:
    names = [stage.name for stage in recipe.stages]
    if name is None or name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    raise RunError(
        f"the recipe has no stage `{name}`",
        where=option,
        way_out=f"Did you mean `{near[0]}`?" if near else f"The stages are: {', '.join(names)}.",
    )


def _walk(
    recipe: Recipe,
    run_dir: Path,
    request: Request,
    held: lock.RunLock,
    show: Show,
    notice: Show,
    watch: progress.Watch | None,
    begun: list[str],
) -> int:
    aside: list[str] = []
    if request.from_stage is not None:
        aside = dependents(recipe, request.from_stage)
    planned = plan(recipe, run_dir, aside=frozenset(aside))
    wanted = [item for item in planned if request.only in (None, item.name)]
    refuse_stale(wanted)
    if request.only is not None:
        ready(planned, request.only)
    for name in aside:
        set_aside(run_dir, name, show)
    snapshot(recipe, run_dir)
    keep_command(run_dir, request.command)
    begun.append(request.command)
    _strangers(recipe, run_dir, show)
    for item in wanted:
        if item.done is not None:
            show(f"{item.name}: done, {ago(item.done.finished)}")
            # Left by a kill between the stage's last two steps.
            shutil.rmtree(item.folder / SCRATCH, ignore_errors=True)
        elif item.anew:
            show(
                "\n  ".join([f"{item.name}: begins anew, the last attempt made nothing to keep:", *item.anew])
            )
        elif item.record is not None and item.name not in aside:
            show(f"{item.name}: goes on{f' ({item.reasons[0]})' if item.reasons else ''}")
    pending = [item.stage for item in wanted if item.state != "done"]
    ended = Ended(0)
    began = time.monotonic()
    if pending:
        listed = [(item.name, item.kind, item.done is not None) for item in wanted]
        watch = watch or progress.watch(None if show is _print else show, listed, run_dir.name)
        ended = launch(run_dir, pending, held, watch)
    return _close(ended, recipe, run_dir, request, time.monotonic() - began, show, notice)


def _close(
    ended: Ended, recipe: Recipe, run_dir: Path, request: Request, seconds: float, show: Show, notice: Show
) -> int:
    if ended.stopped is not None:
        at = f" in {ended.stage}" if ended.stage else ""
        show(
            f"\nstopped{at}; what was finished stays. The same command goes on:\n  {request.command}".rstrip()
        )
        return ended.code
    if ended.failed is not None:
        failed = ended.failed
        if ended.code == 1:  # Not the user's to mend, and told as briefly: the traceback is in the file.
            place = f"{failed.where}: " if failed.where else ""
            trace = f"\n  traceback: {failed.trace}" if failed.trace else ""
            notice(f"crashed: {place}{failed.what}{trace}\n  {failed.way_out or ''}".rstrip())
            return ended.code
        raise RunError(failed.what, where=failed.where, way_out=failed.way_out)
    if ended.waiting is not None:
        raise Waiting(f"{ended.stage} waits: {ended.waiting.what}", how=ended.waiting.how)
    show("")
    for line in summary(plan(recipe, run_dir), run_dir, seconds):
        show(line)
    return 0


def refuse_stale(planned: Sequence[Planned]) -> None:
    """One error with every difference of every stage."""
    stale = [item for item in planned if item.state == "stale"]
    if not stale:
        return
    lines = [line for item in stale for line in item.reasons]
    first = stale[0].name
    raise RunError(
        "\n  ".join(["what is there was made with something else:", *lines]),
        where=str(stale[0].folder.parent),
        way_out=(
            f"--from {first}   builds {first} and what follows from it again; the old results are kept aside\n"
            "  --name NEW   keeps both, in another run\n"
            "  or change the value back"
        ),
    )


def set_aside(run_dir: Path, name: str, show: Show) -> None:
    folder = run_dir / name
    if not folder.exists():
        return
    try:
        record = state.read(folder / state.DONE, state.Done) or state.read(
            folder / state.STARTED, state.Started
        )
    except RunError:  # A corrupt record is one reason to set a stage aside.
        record = None
    mark = record.build if record is not None else datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    target = run_dir / state.REPLACED / f"{name}-{mark}"
    number = 1
    while target.exists():
        number += 1
        target = run_dir / state.REPLACED / f"{name}-{mark}-{number}"
    try:
        target.parent.mkdir(exist_ok=True)
        os.rename(folder, target)
    except OSError as fault:
        raise RunError(
            f"cannot be set aside: {fault.strerror}",
            where=str(folder),
            way_out="Mend the folder's permissions.",
        ) from fault
    show(f"{name}: set aside as {target}")


def snapshot(recipe: Recipe, run_dir: Path) -> None:
    """The recipe beside its results: the file as it was written, and every value as it was understood."""
    try:
        text = recipe.path.read_bytes()
        with replacing(run_dir / "recipe.yaml") as file:
            file.write(text)
    except OSError as fault:
        raise RunError(f"cannot be read: {fault.strerror}", where=str(recipe.path)) from fault
    except DataError as fault:
        raise RunError(fault.what, where=fault.where, way_out=fault.way_out) from fault
    state.write_json(run_dir / state.RECIPE, to_json(recipe))


def _strangers(recipe: Recipe, run_dir: Path, show: Show) -> None:
    names = {stage.name for stage in recipe.stages}
    for folder in sorted(run_dir.iterdir()):
        if folder.name not in names and (folder / state.STARTED).is_file():
            show(f"{folder.name}: not a stage of this recipe; left as it is")
