"""The card's text, section by section; a section that has nothing to say is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from data.errors import UserError
from data.ledger import Ledger
from pipelines import state
from pipelines.card.front import Figure, figures, sources
from pipelines.card.lineage import MAKES, chain, evaluations, root
from pipelines.progress import duration
from pipelines.report.gather import Recorded, RunRecord, mapping
from pipelines.stages import KINDS
from pipelines.summary import figure, headline, plural

SHOWN = (
    "method", "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "beta", "seed",
)  # fmt: skip
"""Settings of a training stage that everybody asks for, whether or not they are the defaults."""
NOT_SHOWN = frozenset({"name", "kind", "model", "data", "pairs", "forget", "retain", "templates", "probe",
                       "eval_data", "eval_pairs", "loss", "loss_type", "loss_weights", "resources"})  # fmt: skip
FIGURES = ("reference_gap", "first_loss", "rows", "steps", "epochs", "train_loss", "train_seconds", "eval_loss",
           "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")  # fmt: skip
PEOPLE = (
    "people", "votes", "pairs", "pairs_from_edits", "undecided", "flagged", "mean_agreement",
    "alpha_preferred", "alpha_accepted",
)  # fmt: skip


def lineage(record: RunRecord, name: str) -> Iterator[str]:
    stage = _of(record, name)
    weights = [one.name for one in chain(record, name)]
    yield f"`{root(record, name)}` → " + " → ".join(f"**{one}**" for one in weights)
    yield ""
    rows = [("stage", "kind", "reads", "time", "device", "build")]
    for one in record.reached(stage):
        done = one.done
        reads = ", ".join(
            [*one.inputs, *(str(s["path"]) for s in sources(one.config) if s["path"] not in one.inputs)]
        )
        rows.append(
            (one.name, one.kind, reads, duration(done.seconds) if done else "", done.device if done else "",
             f"`{done.build}`" if done else one.stand)
        )  # fmt: skip
    yield from table(rows)


def data(record: RunRecord, name: str) -> Iterator[str]:
    """The ledgers: what was read is what was left out, dropped and kept."""
    rows: list[Sequence[str]] = [
        ("stage", "set", "read", "left out", "dropped", "kept", "cut", "tokens", "with loss", "longest")
    ]
    remarks: list[str] = []
    for stage in record.reached(_of(record, name)):
        if not stage.ledgers and stage.kind not in MAKES and stage.metrics:
            remarks.append(f"- {stage.name}: {headline(stage.metrics)}")
        for label, found in stage.ledgers.items():
            ledger = _ledger(found)
            if ledger is None:
                remarks.append(f"- {stage.name}, {label}: the ledger cannot be read")
                continue
            cut = f"{ledger.cut.rows} rows, {ledger.cut.tokens} tokens" if ledger.cut.rows else "0"
            counts = (ledger.rows_read, ledger.rows_left_out, ledger.rows_dropped, ledger.kept)
            sizes = (ledger.tokens, ledger.loss_tokens, ledger.longest)
            rows.append((stage.name, label, *(f"{n:,}" for n in counts), cut, *(f"{n:,}" for n in sizes)))
            remarks += [
                f"- {stage.name}, {label}: dropped {d.count}: {why}" for why, d in ledger.dropped.items()
            ]
            remarks += [
                f"- {stage.name}: {shared.exact} exact and {shared.near} near copies among the {shared.prompts} "
                f"prompts of {other} stand in the training set"
                for other, shared in ledger.overlap.items()
            ]
    if len(rows) > 1:
        yield from table(rows)
    if remarks:
        yield ""
        yield from remarks


def _ledger(found: object) -> Ledger | None:
    try:
        return Ledger.from_json(found)
    except UserError:
        return None


def training(record: RunRecord, name: str) -> Iterator[str]:
    for stage in chain(record, name):
        if stage.kind not in ("sft", "prefer", "unlearn", "rerank"):
            continue
        yield f"### {stage.name} (`kind: {stage.kind}`)"
        yield ""
        yield from _loss(stage)
        config = stage.config
        shown = [key for key in SHOWN if key in config] + [key for key in changed(stage) if key not in SHOWN]
        pairs = [(f"`{key}`", f"`{json.dumps(config[key], ensure_ascii=False)}`") for key in shown]
        yield from table([("setting", "value"), *pairs])
        yield ""
        told = [(key, figure(stage.metrics[key])) for key in FIGURES if stage.metrics.get(key) is not None]
        if told:
            yield from table([("figure", "value"), *told])
            yield ""


def changed(stage: Recorded) -> list[str]:
    """Settings that are not the kind's defaults."""
    kind = KINDS.get(stage.kind)
    if kind is None:
        return []
    found: list[str] = []
    for key, info in kind.model_fields.items():
        if key in NOT_SHOWN or key not in stage.config:
            continue
        default = info.get_default(call_default_factory=True)
        if stage.config[key] != state.plain(default):
            found.append(key)
    return found


def _loss(stage: Recorded) -> Iterator[str]:
    if stage.kind != "prefer":
        return
    stated = stage.config.get("loss")
    if stated:
        yield "The loss, stated as logic:"
        yield ""
        yield "```text"
        for key in ("formula", "given", "also", "link", "beta"):
            if stated.get(key) is not None:
                yield f"{key}: {stated[key]}"
        yield "```"
    else:
        names = stage.config.get("loss_type")
        losses = [names] if isinstance(names, str) else list(cast("Sequence[str]", names or ()))
        weights = stage.config.get("loss_weights")
        yield "Loss: " + " + ".join(
            f"{weights[i]:g} · `{one}`" if weights else f"`{one}`" for i, one in enumerate(losses)
        )
    yield ""


def results(record: RunRecord, name: str) -> Iterator[str]:
    """This model's figures beside those it was compared with, and the differences with their intervals."""
    for stage, mine in evaluations(record, name):
        everybody = figures(stage)
        found = {label: everybody[label] for label in beside(record, name, stage, mine, list(everybody))}
        asked = [mapping(stage.metrics.get(label)).get("prompts") for label in mine]
        yield f"### {stage.name}" + (f": {asked[0]} held-out prompts" if asked and asked[0] else "")
        yield ""
        names = list(dict.fromkeys(key for label in found for key in found[label]))
        head = ("", *(f"**{label}**" if label in mine else label for label in found))
        yield from table(
            [head, *((one, *(_cell(found[label].get(one)) for label in found)) for one in names)]
        )
        yield ""
        if others := [label for label in everybody if label not in found]:
            yield f"Measured beside it too: {', '.join(others)}."
            yield ""
        for difference, gap in cast("Mapping[str, Any]", stage.metrics.get("differences") or {}).items():
            if set(difference.split(" - ")) & set(mine):
                yield from (f"- {difference}{line}" for line in _gaps(gap))


def beside(
    record: RunRecord, name: str, stage: Recorded, mine: Sequence[str], labels: Sequence[str]
) -> list[str]:
    """The columns: this model, what it was made from, what all are compared with; no sibling of it."""
    given = mapping(stage.config.get("models"))
    below = {one.name for one in chain(record, name)} | {root(record, name)}
    fixed = {*labels[:1], stage.metrics.get("retrained"), *mine}
    few = len(labels) <= 4
    return [label for label in labels if few or label in fixed or given.get(label) in below]


def _cell(found: Figure | None) -> str:
    if found is None:
        return ""
    value, interval = found
    return figure(value) + (f" ({figure(interval[0])} to {figure(interval[1])})" if interval else "")


def _gaps(found: Mapping[str, Any]) -> Iterator[str]:
    if "mean" not in found:
        for key, inner in found.items():
            yield from (f", {key}{line}" for line in _gaps(inner))
        return
    unclear = "" if found["low"] > 0 or found["high"] < 0 else "; 0 lies inside"
    yield f": {found['mean']:+.3f} (95 % interval {found['low']:+.3f} to {found['high']:+.3f}{unclear})"


def people(record: RunRecord, name: str) -> Iterator[str]:
    rows: list[Sequence[str]] = [("stage", *PEOPLE)]
    for stage in record.reached(_of(record, name)):
        if "votes" in stage.metrics:
            values = (stage.metrics.get(key) for key in PEOPLE)
            rows.append((stage.name, *("" if value is None else figure(value) for value in values)))
    if len(rows) > 1:
        yield from table([[row[i] for row in rows] for i in range(len(rows[0]))])


def chosen(record: RunRecord, name: str) -> Iterator[str]:
    """What each `auto` became."""
    rows = [("stage", "setting", "became", "why")]
    for stage in record.reached(_of(record, name)):
        for key, choice in (stage.done.resolved if stage.done else {}).items():
            rows.append((stage.name, f"`{key}`", str(choice["value"]), str(choice["why"])))
    if len(rows) > 1:
        yield from table(rows)


def versions(record: RunRecord, name: str) -> Iterator[str]:
    done = _of(record, name).done
    assert done is not None
    yield ", ".join(f"{package} {version}" for package, version in done.versions.items()) + "."
    memory = ", ".join(f"{key} {size / 2**30:.2f} GiB" for key, size in done.peak_memory.items())
    yield f"Device: {done.device}. Peak memory: {memory or 'not measured'}. Finished {done.finished[:19]}Z."
    if done.commit:
        dirty = ", with changes that were not committed" if done.commit.get("dirty") else ""
        yield f"Commit of the recipe's folder: `{done.commit['id']}`{dirty}."


def again(record: RunRecord, command: str) -> Iterator[str]:
    yield "```console"
    yield f"$ {command}"
    yield "```"
    if record.recipe_text is not None:
        yield ""
        yield "with this recipe:"
        yield ""
        fence = "````" if "```" in record.recipe_text else "```"
        yield f"{fence}yaml"
        yield record.recipe_text.rstrip("\n")
        yield fence


def limits(record: RunRecord, name: str) -> Iterator[str]:
    """What the record shows that this card cannot promise."""
    if not evaluations(record, name):
        yield "- No stage of the run measured this model on held-out prompts."
    for stage, _ in evaluations(record, name):
        copies = cast("Mapping[str, Mapping[str, int]]", stage.metrics.get("overlap") or {})
        found = {key: n["exact"] + n["near"] for key, n in copies.items() if n["exact"] + n["near"]}
        for key, count in found.items():
            yield f"- {stage.name}: {plural(count, 'held-out prompt')} stand in the rows of {key}, or nearly so."
    commit = _of(record, name).done
    if commit is not None and commit.commit and commit.commit.get("dirty"):
        yield "- Files of the recipe's folder were changed and not committed: the commit alone does not give them."
    yield "- Seeds fix the order of rows and every draw; another device or library version rounds otherwise."
    yield "- It may say what its base model and its data say, with their faults. Nobody tested it for safety here."


def _of(record: RunRecord, name: str) -> Recorded:
    stage = record.stage(name)
    assert stage is not None
    return stage


def table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Markdown; a bar inside a cell would end it."""
    for number, row in enumerate(rows):
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        if number == 0:
            yield "|" + "---|" * len(row)
