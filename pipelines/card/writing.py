"""The card as one text, and as `card.md` beside every final model of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.errors import RunError
from data.jsonl import replacing
from pipelines.card import sections
from pipelines.card.front import adapter_count, front, origin
from pipelines.card.lineage import final_models, models, root, weights_below
from pipelines.report.gather import RunRecord, gather

CARD = "card.md"


def write_cards(run_dir: Path, command: str = "") -> list[Path]:
    """Beside each final model of what is finished; returns the files. A model that something was made from since has
    no card any more."""
    record = gather(run_dir)
    final = final_models(record)
    for name in models(record):
        if name not in final:
            (run_dir / name / CARD).unlink(missing_ok=True)
    written: list[Path] = []
    for name in final:
        path = run_dir / name / CARD
        text = render(record, name, command=command)
        with replacing(path) as file:
            file.write(text.encode())
        written.append(path)
    return written


def render(
    record: RunRecord,
    name: str,
    *,
    command: str = "",
    exported: Mapping[str, Any] | None = None,
) -> str:
    """The whole card of one model. `exported` is what an export made of it, and what was checked."""
    if name not in models(record):
        raise RunError(f"the stage `{name}` has no finished model", where=str(record.folder))
    form = str(exported["form"]) if exported else None
    body: list[tuple[str, Iterator[str]]] = [
        ("Lineage", sections.lineage(record, name)),
        ("Held-out results", sections.results(record, name)),
        ("Training", sections.training(record, name)),
        ("Data", sections.data(record, name)),
        ("People", sections.people(record, name)),
        ("Chosen by `auto`", sections.chosen(record, name)),
        ("Do it again", sections.again(record, command or _command(record))),
        ("Made with", sections.versions(record, name)),
        ("Limits", sections.limits(record, name)),
    ]
    text = [front(record, name, base_of(record), form), f"# {record.name}: {name}", ""]
    if record.description:
        text += [record.description, ""]
    text += [*_what(record, name, exported), ""]
    for title, lines in body:
        found = "\n".join(lines).rstrip("\n").split("\n")
        if found != [""]:
            text += [f"## {title}", "", *found, ""]
    return "\n".join(text).rstrip("\n") + "\n"


def _what(record: RunRecord, name: str, exported: Mapping[str, Any] | None) -> Iterator[str]:
    stage = record.stage(name)
    assert stage is not None
    start, count = root(record, name), adapter_count(stage)
    known = origin(start, base_of(record))[0]
    base = f"`{start}`" + (f" ({known})" if known not in (None, start) else "")
    below = weights_below(record, name)
    under = f"the full weights that the stage `{below}` made from {base}" if below else base
    form = exported["form"] if exported else None
    if form == "gguf":
        yield f"Weights in one GGUF file, made from {base}."
    elif count == 1 and form != "merged":
        yield f"A PEFT adapter for {under}."
    elif count and form != "merged":
        yield f"{count} PEFT adapters, stacked, for {under}; `heliograph export --as merged` makes one model of them."
    else:
        yield f"Full weights, made from {base}."
    if exported is not None:
        checked = exported["checked"]
        same = "are" if checked["equal"] else f"are, but for {checked['near_ties']} near ties,"
        yield (
            f"Checked on export: {checked['tokens']} greedy tokens to {checked['prompts']} prompts {same} those of "
            f"the run's model."
        )


def base_of(record: RunRecord) -> Path:
    """The recipe's folder, where relative paths start."""
    return Path(record.recipe_path).parent


def _command(record: RunRecord) -> str:
    """The last command that ran it; from the recipe's name where none was recorded."""
    told = [str(row["command"]) for row in record.commands if row.get("command")]
    ran = [line for line in told if " run " in f" {line} "]
    return ran[-1] if ran else f"heliograph run {Path(record.recipe_path).name} --name {record.name}"
