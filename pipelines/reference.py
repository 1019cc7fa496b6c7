"""docs/recipes.md: every setting of every kind of stage, from the classes themselves.

`python -m pipelines.reference > docs/recipes.md`; a test keeps the two the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data.chatting.request import ServerOptions
from data.critics import Check
from data.described import describe
from data.feedback.critic import People
from data.judging import VotesFile
from pipelines.stage import Stage, StageRef
from pipelines.stages import KINDS
from trainers.config import (
    COSMETIC,
    AdapterOptions,
    Closed,
    GenerationOptions,
    ModelOptions,
    SymbolicLoss,
    TrainingOptions,
)
from trainers.training.watch_config import PreferWatch, Rule, UnlearnWatch, WatchOptions

HEAD = """# Recipes

A recipe is a YAML file with four keys: `recipe` (its name, and the name of its run folder), `description`,
`defaults`, and `stages`, a list. A default goes into every stage that has the key; what a stage says itself wins.
Paths start at the recipe's folder. `heliograph validate --schema` prints a JSON schema for editors.

**Stages by name.** Where a setting below is marked *stage*, the name of an earlier stage can stand. A model is an
earlier stage, an alias (`heliograph doctor` lists them), a folder, or `owner/name` on the hub. Data is an earlier
stage, a file (`.jsonl`, `.json`, `.csv`, `.parquet`), a folder of them, or `owner/name`; a mapping
`{path, name, split, revision, columns, weight, limit, format}`; or a list of those, mixed by weight.

**Rows** are `prompt`/`completion`, `prompt`/`chosen`/`rejected`, `messages` or `text`, as TRL names them;
`columns: {prompt: question}` reads another name. A value may be text or a list of messages.

**`training:`** passes any other setting to TRL's config class, under its own name. Names and types are checked before
anything runs.

**Overrides** on the command line: `stages.NAME.key=value`, `defaults.key=value`.

Settings marked *cosmetic* change cost, never the result: a change of one does not make a finished stage stale.
"""


SHARED: dict[str, type[Closed]] = {
    "Model settings": ModelOptions,
    "Adapter settings": AdapterOptions,
    "Training settings": TrainingOptions,
    "Generation settings": GenerationOptions,
}
WATCHED: dict[str, type[WatchOptions]] = {
    "Both kinds": WatchOptions,
    "`kind: prefer`": PreferWatch,
    "`kind: unlearn`": UnlearnWatch,
}


def reference() -> str:
    """The whole page."""
    describe(*KINDS.values(), *SHARED.values(), *WATCHED.values(), ServerOptions, SymbolicLoss, People)
    kinds = [_kind(name, kind) for name, kind in KINDS.items()]
    parts = [HEAD, *kinds, _server(), _stated(), _watchdogs(), _critics(), *map(_shared, SHARED)]
    return "\n".join(parts).rstrip() + "\n"


def _kind(name: str, kind: type[Stage]) -> str:
    shared = {title: options for title, options in SHARED.items() if issubclass(kind, options)}
    told = {key: info for options in shared.values() for key, info in options.model_fields.items()}
    own = {
        key: info
        for key, info in kind.model_fields.items()
        if key not in ("kind", "name")
        and (
            key not in told
            or _text(info.description) != _text(told[key].description)
            or _differs(info, told[key])
        )
    }
    links = ", ".join(f"[{title.lower()}](#{title.lower().replace(' ', '-')})" for title in shared)
    more = f"\nAlso the {links}.\n" if links else ""
    return f"## `kind: {name}`\n\n{_text(inspect.getdoc(kind))}\n\n{_table(own)}{more}"


def _differs(info: FieldInfo, other: FieldInfo) -> bool:
    return _default(info) != _default(other)


def _shared(title: str) -> str:
    options = SHARED[title]
    users = ", ".join(f"`{name}`" for name, kind in KINDS.items() if issubclass(kind, options))
    fields = {key: info for key, info in options.model_fields.items() if key != "model"}
    return f"## {title}\n\nFor {users}. {_text(inspect.getdoc(options))}\n\n{_table(fields)}"


def _server() -> str:
    doc = _text(inspect.getdoc(ServerOptions))
    users = "For `server:` of `sample` and `rationalise`."
    return f"## Server settings\n\n{users} {doc}\n\n{_table(ServerOptions.model_fields)}"


def _stated() -> str:
    lines = [
        "## A loss stated as logic",
        "",
        "`loss:` of `kind: prefer`. `loss: cCPO` is short for `loss: {formula: cCPO}`.",
        "`heliograph loss list` shows the names, `heliograph loss show NAME` what a loss means and needs.",
        "",
    ]
    return "\n".join(lines) + "\n" + _table(SymbolicLoss.model_fields)


def _watchdogs() -> str:
    lines = [
        "## Watchdogs",
        "",
        "`watch:` of `kind: prefer` and `kind: unlearn`; `watch: false` watches nothing. Each watch is a mapping",
        "`{limit, action, patience}` or `false`; [watchdogs.md](watchdogs.md) says what they see and why.",
        "",
    ]
    told: set[str] = set()
    for heading, options in WATCHED.items():
        own = {key: info for key, info in options.model_fields.items() if key not in told}
        told |= own.keys()
        lines += [f"{heading}:", "", _table(own)]
    return "\n".join(lines)


def _critics() -> str:
    lines = [
        "## Critics",
        "",
        "`critic: {kind: rubric, checks: [...]}` scores an answer by the weighted mean of its checks,",
    ]
    lines += ["each between 0 and 1; every check takes a `weight` and a `name`.", ""]
    lines += ["| check | settings | score |", "|---|---|---|"]
    for check in get_args(get_args(Check)[0]):
        fields: dict[str, FieldInfo] = check.model_fields
        name = get_args(fields["check"].annotation)[0]
        settings = ", ".join(f"`{key}`" for key in fields if key not in ("check", "weight", "name"))
        lines.append(f"| `{name}` | {settings} | {_text(inspect.getdoc(check))} |")
    lines += [
        "",
        "`critic: {kind: file, path: votes.jsonl}` takes people's votes:",
        _text(inspect.getdoc(VotesFile)),
        "",
        "`critic: {kind: people, votes_per_item: 2}` asks on the label page, see [labelling.md](labelling.md):",
        _text(inspect.getdoc(People)),
        "",
    ]
    settings = {key: info for key, info in People.model_fields.items() if key != "kind"}
    return "\n".join(lines) + "\n" + _table(settings)


def _table(fields: Mapping[str, FieldInfo]) -> str:
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    lines += [
        f"| `{key}` | {_default(info)} | {_text(info.description)}{_marks(info)} |"
        for key, info in fields.items()
    ]
    return "\n".join(lines) + "\n"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    value: Any = info.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, Rule):
        return "`" + ", ".join(f"{key}: {one}" for key, one in value.model_dump().items()) + "`"
    if value == () or value == {} or isinstance(value, BaseModel):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _marks(info: FieldInfo) -> str:
    marks: list[str] = []
    made = {thing for kind in KINDS.values() for thing in kind.makes}
    if any(isinstance(m, StageRef) and m.makes in made for m in info.metadata):
        marks.append("*stage*")
    if info.json_schema_extra == COSMETIC:
        marks.append("*cosmetic*")
    return "".join(f" {mark}" for mark in marks)


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
