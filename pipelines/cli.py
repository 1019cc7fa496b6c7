"""The command `heliograph`: each verb is a line into the module that does the work.

Exit codes: 0 done; 2 something the user can mend, told without a traceback; 75 waiting for people; 1 a crash;
130 stopped with Ctrl-C (128 + the number of the signal).
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from data.errors import UserError
from pipelines.label_cli import label_app
from pipelines.losses.cli import loss_app
from pipelines.stage import Waiting

app = typer.Typer(
    name="heliograph",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One YAML recipe: fine-tune a model, collect preferences, align it, and see what happened.",
    epilog="Exit codes: 0 done, 2 yours to mend, 75 waiting for people, 1 a crash, 130 stopped.",
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changed values, as in stages.sft.learning_rate=1e-4."),
]
RunName = Annotated[
    str | None, typer.Option("--name", help="The run's folder; the recipe's name if left out.")
]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or folder, or its recipe.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where the runs are.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, and nothing else.")]
RUNS = Path("runs")


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from pipelines.provenance import heliograph_version

        print(f"heliograph {heliograph_version()}")
        raise typer.Exit


@app.command()
def validate(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes.")] = False,
) -> None:
    """Check a recipe, and report every fault with its line and column."""
    from pipelines.verbs import print_schema, validate

    if schema:
        return print_schema()
    if recipe is None:
        raise typer.BadParameter("RECIPE is missing, or --schema")
    raise typer.Exit(validate(recipe, overrides or [], as_json))


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    name: RunName = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a few real steps of each stage that trains: minutes.")
    ] = False,
    runs_dir: RunsDir = RUNS,
    as_json: AsJson = False,
) -> None:
    """Show what `run` would do and why, and what it will cost: memory by part, steps, tokens, time."""
    from pipelines.verbs import show_plan

    show_plan(recipe, overrides or [], name, runs_dir, as_json, measure)


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    name: RunName = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="STAGE", help="This stage and no other.")
    ] = None,
    from_stage: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Build this stage again, and what follows from it."),
    ] = None,
    runs_dir: RunsDir = RUNS,
    json_lines: Annotated[
        bool,
        typer.Option("--json-lines", help="Every event as a JSON object on its own line of standard output."),
    ] = False,
) -> None:
    """Run a recipe; finished stages are skipped, interrupted ones go on."""
    from pipelines.run import Request
    from pipelines.run import run as run_recipe

    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    request = Request(recipe, tuple(overrides or ()), name, only, from_stage, runs_dir, command, json_lines)
    raise typer.Exit(run_recipe(request))


@app.command()
def fetch(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Bring what a recipe takes from the hub, for machines without a network."""
    from pipelines.fetching import fetch
    from pipelines.recipe import load

    fetch(load(recipe, overrides or ()), print)


@app.command()
def prune(
    keep: Annotated[
        str, typer.Option("--keep", metavar="SIZE", help="How much may stay, as in 2GB.")
    ] = "2GB",
    runs_dir: RunsDir = RUNS,
) -> None:
    """Remove stored reference log-probabilities that were not used for longest; they can be measured again."""
    from pipelines.pruning import prune_runs

    prune_runs(runs_dir, keep, print)


@app.command()
def submit(
    recipe: RecipeFile,
    overrides: Overrides = None,
    cluster: Annotated[
        Path, typer.Option("--cluster", metavar="FILE", help="The cluster file, as slurm/example.yaml.")
    ] = ...,  # pyright: ignore[reportArgumentType] - typer's way to ask for an option
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the scripts and commands, and submit nothing.")
    ] = False,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="This stage and what it needs.")
    ] = None,
    from_stage: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Build this stage again, and what follows from it."),
    ] = None,
    name: RunName = None,
    runs_dir: RunsDir = RUNS,
    as_json: AsJson = False,
) -> None:
    """Run a recipe on a SLURM cluster: one job a stage, each after those it needs."""
    from pipelines.cluster.submit import Request
    from pipelines.cluster.submit import submit as submit_recipe

    asked = Request(recipe, cluster, tuple(overrides or ()), name, until, from_stage, runs_dir, dry_run)
    told = submit_recipe(asked, _silent if as_json else print, lambda line: print(line, file=sys.stderr))
    if as_json:
        _print(told, as_json)


def _silent(line: str) -> None:
    """For --json, which prints one value and nothing else."""


@app.command()
def cancel(name: RunFolder, runs_dir: RunsDir = RUNS) -> None:
    """Cancel the jobs of a run; what is finished or saved stays."""
    from pipelines.cluster.jobs import cancel_run

    for line in cancel_run(name, runs_dir):
        print(line)


@app.command()
def release(name: RunFolder, runs_dir: RunsDir = RUNS) -> None:
    """Let the jobs of a run go on that were waiting for people."""
    from pipelines.cluster.jobs import release_run

    for line in release_run(name, runs_dir):
        print(line)


@app.command()
def logs(
    name: RunFolder,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the stage has ended.")] = False,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Print a stage's log, wherever it runs."""
    from pipelines.cluster.jobs import show_log

    show_log(name, stage, follow, runs_dir)


@app.command()
def status(
    name: RunFolder,
    runs_dir: RunsDir = RUNS,
    as_json: AsJson = False,
) -> None:
    """Show where a run stands."""
    from pipelines.verbs import show_status

    show_status(name, runs_dir, as_json)


@app.command()
def report(
    name: RunFolder,
    other: Annotated[
        str | None, typer.Argument(metavar="[RUN2]", help="A second run, to be shown beside the first.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; report.html in the run if left out."),
    ] = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Write what happened in a run, or in two, as one page that needs no network."""
    from pipelines.report.verb import report as write_report

    print(write_report(name, other, out, runs_dir))


@app.command()
def card(name: RunFolder, runs_dir: RunsDir = RUNS) -> None:
    """Write the card of every final model again, as `run` does when it ends."""
    from pipelines.card.writing import write_cards
    from pipelines.cluster.jobs import locate

    for path in write_cards(locate(name, runs_dir)):
        print(path)


@app.command()
def export(
    name: RunFolder,
    to: Annotated[
        str, typer.Option("--to", metavar="DIR|hub:OWNER/NAME", help="A folder, or the hub.")
    ] = ...,  # pyright: ignore[reportArgumentType] - typer's way to ask for an option
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="STAGE", help="Whose model; the final one if left out.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--as", metavar="adapter|merged|gguf", help="What it is if left out.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="On the hub, for everybody to see.")] = False,
    runs_dir: RunsDir = RUNS,
    as_json: AsJson = False,
) -> None:
    """Write a run's model for other tools, and check that it still answers the same."""
    from pipelines.exporting.folder import Request, told
    from pipelines.exporting.folder import export as export_model

    asked = Request(name, to, stage, form, runs_dir, public)
    found = export_model(asked, _silent if as_json else print)
    _print(found if as_json else told(found), as_json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Another project's training file.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="PROJECT", help="alignment-handbook, trl, axolotl or llama-factory."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="sft, dpo, kto, orpo, cpo, simpo or ipo, where the file does not tell."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="RECIPE", help="The file to write; printed if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a training file of another project as a recipe, and tell what became of every key."""
    from pipelines.importing.verb import import_file

    for line in import_file(file, source, method, to, as_json):
        print(line)


@app.command()
def doctor(runs_dir: RunsDir = RUNS, as_json: AsJson = False) -> None:
    """Show what this machine has, and what each recipe could use of it."""
    from pipelines.doctor import examine, report

    found = examine(runs_dir)
    _print(found if as_json else report(found), as_json)


def _print(found: Any, as_json: bool) -> None:
    lines: Iterable[str] = [json.dumps(found, indent=2)] if as_json else found
    for line in lines:
        print(line)


app.add_typer(loss_app, name="loss")
app.add_typer(label_app, name="label")


def main() -> None:
    """Errors into exit codes; a crash keeps Python's own traceback and exit code 1."""
    try:
        app()
    except UserError as error:
        sys.exit(_told(str(error), 2))
    except Waiting as waiting:
        sys.exit(_told(str(waiting), 75))
    except KeyboardInterrupt:
        sys.exit(_told("stopped; the same command goes on", 130))


def _told(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
