"""`heliograph label`: the page that people label on, its people, and votes in and out. Nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from data.errors import DataError, RunError

if TYPE_CHECKING:
    from data.feedback.exchange import Imported
    from data.feedback.people import Person
    from data.feedback.results import Judgements
    from data.feedback.stages import Stage
    from data.feedback.store import Store

label_app = typer.Typer(
    help="Ask people: a page for a team, its votes and its figures.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
people_app = typer.Typer(
    help="Who may label: a link for each person, and nothing else to set up.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
label_app.add_typer(people_app, name="people")

Folder = Annotated[
    Path, typer.Argument(metavar="RUN/STAGE", help="A stage's folder, as runs/demo/pick; or any other.")
]
Database = Annotated[
    str | None,
    typer.Option(help="postgresql://user@host/name, or a file; the stage's own if left out.", metavar="URL"),
]
Address = Annotated[
    str, typer.Option("--url", help="Where people reach the page; what the printed link begins with.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="How the person is called; shown to leads.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HERE = "http://127.0.0.1:8765"
Format = Literal["items", "dataset", "label-studio", "argilla"]
What = Literal["items", "pairs", "accepted", "unpaired", "judged", "votes", "label-studio", "argilla"]


@label_app.command()
def serve(
    folder: Folder,
    host: Annotated[
        str, typer.Option(help="Reached from this machine only, unless told otherwise.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    database: Database = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the images are; the stage's folder if left out.")
    ] = None,
    rate: Annotated[
        float,
        typer.Option(min=1, help="Requests a second that one person may make; five times as many at once."),
    ] = 20,
) -> None:
    """Serve the label page of a stage."""
    from data.feedback.people import list_people
    from data.feedback.places import open_place, place_of
    from data.feedback.web.app import Served
    from data.feedback.web.guard import Pace
    from data.feedback.web.serving import serve as serve_stage
    from pipelines.label_release import releasing

    store, stage, _ = open_place(folder, database)
    with store:
        root = Path(place_of(folder, database, images).images)
        if not any(person.active for person in list_people(store)):
            typer.echo(f"nobody has a link yet: heliograph label people add {folder} NAME")
        pace = Pace(rate, 5 * rate)
        with releasing(store, stage.id, folder, lambda line: typer.echo(line)):
            serve_stage(Served(store, stage.id, root), host, port, lambda line: typer.echo(line), pace=pace)


@people_app.command("add")
def add(
    folder: Folder,
    name: Name,
    role: Annotated[str, typer.Option(help="annotator or lead.")] = "annotator",
    url: Address = HERE,
    database: Database = None,
) -> None:
    """Add a person, and print the link to send: it is shown this once."""
    from data.feedback.people import add_person
    from data.feedback.places import open_place

    store, _, _ = open_place(folder, database)
    with store:
        _, token = add_person(store, name, _role(role))
        typer.echo(_link(url, token))


@people_app.command("list")
def list_all(folder: Folder, as_json: AsJson = False, database: Database = None) -> None:
    """Everybody who was added."""
    from data.feedback.people import list_people
    from data.feedback.places import open_place

    store, _, _ = open_place(folder, database)
    with store:
        found = [{"name": one.name, "role": one.role, "active": one.active} for one in list_people(store)]
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for one in found:
        typer.echo(f"{one['name']}\t{one['role']}{'' if one['active'] else ', not active'}")


@people_app.command()
def renew(folder: Folder, name: Name, url: Address = HERE, database: Database = None) -> None:
    """Print a fresh link; the old one opens nothing any more."""
    from data.feedback.people import renew_token

    with _known(folder, database, name) as (store, person):
        typer.echo(_link(url, renew_token(store, person.id)))


@people_app.command("set")
def change(
    folder: Folder,
    name: Name,
    role: Annotated[str | None, typer.Option(help="annotator or lead.")] = None,
    active: Annotated[
        bool | None, typer.Option("--active/--inactive", help="Whether the link works.")
    ] = None,
    database: Database = None,
) -> None:
    """Change a person's role, or let the link rest; votes stay."""
    from data.feedback.people import set_active, set_role

    with _known(folder, database, name) as (store, person):
        if role is not None:
            set_role(store, person.id, _role(role))
        if active is not None:
            set_active(store, person.id, active)


@label_app.command("import")
def bring(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Items, or rows of prompt, chosen, rejected.")],
    form: Annotated[Format, typer.Option("--from", help="How the file is written.")] = "items",
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML: question, guidelines, kinds, overlap, …; for a stage that is made."
        ),
    ] = None,
    database: Database = None,
) -> None:
    """Import items, with the votes they may bring: all or none. Makes the stage where there is none."""
    from data.feedback.images import check_images
    from data.feedback.places import place_of
    from data.feedback.stages import create_stage, drop_empty, get_stage, list_stages
    from data.feedback.store import Store

    place = place_of(folder, database)
    asked = _settings(settings)
    with Store(place.database) as store:
        made = place.stage not in [stage.name for stage in list_stages(store)]
        if not made and settings is not None:
            raise DataError(
                f"the stage {place.stage!r} is there already, with its settings",
                where=str(settings),
                way_out="leave --settings out",
            )
        stage = create_stage(store, place.stage, asked) if made else get_stage(store, place.stage)
        try:
            found = _imported(store, stage, file, form)
        except DataError:
            if made:
                drop_empty(store, stage.id)
            raise
        missing = check_images(store, stage.id, Path(place.images))
    typer.echo(f"{found.items} items and {found.votes} votes now in {folder}, as the stage {place.stage}")
    if found.people:
        typer.echo(f"people without a link: {', '.join(found.people)}")
    if missing:
        typer.echo(
            f"{len(missing)} images are not below {place.images}, and will not be shown: {', '.join(missing[:5])}"
        )


@label_app.command()
def export(
    folder: Folder,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="What is written: .jsonl, .json or .parquet; no ending: a folder for `datasets`.",
        ),
    ],
    what: Annotated[What, typer.Option(help="What to take along.")] = "pairs",
    database: Database = None,
) -> None:
    """Write what follows from the votes; a file appears when it is complete."""
    from data.feedback import exchange_argilla, exchange_label_studio
    from data.feedback.exchange import export_rows, left_out
    from data.feedback.exchange_files import export_dataset, export_parquet
    from data.feedback.places import open_place
    from data.feedback.results import (
        accepted_rows,
        judged_records,
        judgements,
        preference_pairs,
        unpaired_rows,
        vote_lines,
    )
    from data.jsonl import replacing, write_jsonl_atomic

    makers: dict[str, Callable[[Judgements], Iterable[Mapping[str, Any]]]] = {
        "items": export_rows,
        "pairs": preference_pairs,
        "accepted": accepted_rows,
        "unpaired": unpaired_rows,
        "judged": judged_records,
        "votes": vote_lines,
        "label-studio": exchange_label_studio.to_label_studio,
        "argilla": exchange_argilla.to_argilla,
    }
    store, stage, _ = open_place(folder, database)
    with store:
        of = judgements(store, stage.id, gold=what in ("items", "label-studio", "argilla"))
        rows = makers[what](of)
        if file.suffix == ".parquet":
            count = export_parquet(rows, file)
        elif not file.suffix:
            count = export_dataset(rows, file)
        elif file.suffix == ".json":
            listed = list(rows)
            count = len(listed)
            with replacing(file) as out:
                out.write((json.dumps(listed, ensure_ascii=False, indent=1) + "\n").encode())
        elif file.suffix == ".jsonl":
            count = write_jsonl_atomic(file, (dict(row) for row in rows))
        else:
            raise RunError(
                f"{file} has no known ending", way_out="end it in .jsonl, .json or .parquet, or give a folder"
            )
    typer.echo(f"{count} rows in {file}")
    no_place = {"label-studio": exchange_label_studio.NO_PLACE, "argilla": exchange_argilla.NO_PLACE}
    if gone := left_out(of, no_place.get(what, ())):
        told = ", ".join(f"{number} of kind {kind}" for kind, number in gone.items())
        typer.echo(f"{what} has no place for {told}; --what items holds everything")


@label_app.command()
def report(folder: Folder, as_json: AsJson = False, database: Database = None) -> None:
    """How far the stage is, how fast, how far people agree, and who can be relied on."""
    from data.feedback.places import open_place
    from data.feedback.progress import progress
    from data.feedback.web.lead import plain

    store, stage, _ = open_place(folder, database)
    with store:
        found = cast("dict[str, Any]", plain(progress(store, stage.id)))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    typer.echo(f"{stage.name}: {stage.state}{f', {stage.stopped}' if stage.stopped else ''}")
    typer.echo(
        f"  {found['done']} of {found['items']} items done, {found['judged']} votes, {found['needed']} to come"
    )
    for family, one in found["agreement"].items():
        typer.echo(
            f"  alpha ({family}) {_figure(one['value'])}, 95 % {_figure(one['low'])} to {_figure(one['high'])}"
        )
    for width, test in found["position_bias"].items():
        places = ", ".join(f"{place}: {count}" for place, count in enumerate(test["chosen"], start=1))
        typer.echo(
            f"  of {width} candidates chosen by their place on the page, {places}; "
            f"chance alone would be as uneven with p = {_figure(test['p_value'])}"
        )
    if found["gold_items"]:
        typer.echo(f"  gold right {_figure(found['gold']['value'])}")
    for one in found["people"]:
        notes = f", barred: {one['barred']}" if one["barred"] is not None else ""
        typer.echo(
            f"  {one['name']}: {one['votes']} votes, {_figure(one['votes_per_hour'])} an hour, gold "
            f"{_figure(one['gold']['value'])}, reliability {_figure(one['reliability'])}{notes}"
        )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _link(url: str, token: str) -> str:
    return f"{url.rstrip('/')}/enter/{token}"


def _role(role: str) -> Literal["annotator", "lead"]:
    if role not in ("annotator", "lead"):
        raise DataError(f"there is no role {role!r}", where="--role", way_out="write annotator or lead")
    return role


@contextmanager
def _known(folder: Path, database: str | None, name: str) -> Generator[tuple[Store, Person]]:
    """The store, and the person of this name in it."""
    from data.feedback.people import get_person
    from data.feedback.places import open_place

    store, _, _ = open_place(folder, database)
    with store:
        yield store, get_person(store, name)


def _settings(file: Path | None) -> Any:
    from pydantic import ValidationError

    from data.feedback.stages import StageSettings

    if file is None:
        return StageSettings()
    import yaml

    try:
        given: object = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise DataError(f"cannot be read: {fault}", where=str(file), way_out="give a YAML file") from fault
    try:
        return StageSettings.model_validate(given)
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the settings"
        names = ", ".join(StageSettings.model_fields)
        raise DataError(f"{place}: {first['msg']}", where=str(file), way_out=f"there are {names}") from fault


def _imported(store: Store, stage: Stage, file: Path, form: Format) -> Imported:
    from data.feedback.exchange_argilla import import_argilla
    from data.feedback.exchange_files import import_dataset, import_jsonl
    from data.feedback.exchange_label_studio import import_label_studio

    if form == "items":
        return import_jsonl(store, stage.id, file)
    if form == "dataset":
        return import_dataset(store, stage.id, file)
    try:
        given: object = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise DataError(f"cannot be read: {fault}", where=str(file), way_out="export it again") from fault
    if form == "argilla":
        return import_argilla(store, stage.id, given, str(file))
    return import_label_studio(store, stage.id, given, str(file))
