"""Another project's file read by its tables: our stage, and what became of every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from data.errors import RecipeError
from pipelines.importing import axolotl, handbook, llama_factory, trl
from pipelines.importing.llama_factory_data import ABOVE
from pipelines.importing.rules import VERDICTS, Data, Drop, Hand, Method, Put, Rule, Source, Told
from pipelines.importing.shared import DROPOUT, from_smoothing
from pipelines.reading import old_names
from pipelines.reading.faults import listed, nearest, show
from pipelines.reading.old_names import Refused
from pipelines.reading.yaml_source import read
from pipelines.stages.prefer import Prefer
from pipelines.stages.sft import Sft
from trainers.training.trl_fields import CONFIGS, fields

SOURCES: dict[str, Source] = {
    one.name: one for one in (handbook.SOURCE, trl.SOURCE, axolotl.SOURCE, llama_factory.SOURCE)
}
LOSS: dict[Method, str] = {
    "dpo": "sigmoid",
    "kto": "kto",
    "orpo": "orpo",
    "cpo": "cpo",
    "simpo": "simpo",
    "ipo": "ipo",
}
BATCH = (
    "an optimiser step takes per_device_train_batch_size x gradient_accumulation_steps x GPUs rows, in both; how many "
    "GPUs there were the file does not tell"
)
ONE_SHAPE = "the rows of one mixture have one shape here: bring them all into one, or make a stage of each"
ORPO_PROMPT = (
    "the likelihood term is of the answer's tokens here; in TRL's trainer, which runs it, of the prompt's too"
)


@dataclass(frozen=True)
class Imported:
    """One stage of a recipe, and the account of every key."""

    source: Source
    file: Path
    method: Method
    how: str
    """What told the method."""
    stage: dict[str, Any]
    told: tuple[Told, ...]
    empty: tuple[str, ...]
    """Keys that stand in the file without a value."""


def convert(file: Path, source_name: str | None, method_name: str | None) -> Imported:
    """Raises where the file is none of these, or trains what no stage can."""
    values = _values(file)
    source = _source(values, source_name, file)
    method, how = _method(source, values, method_name, file)
    kind: type[Sft] | type[Prefer] = Sft if method == "sft" else Prefer
    stage: dict[str, Any] = {"name": method, "kind": "sft" if method == "sft" else "prefer"}
    told: list[Told] = []
    if method not in ("sft", "dpo"):
        stage["loss_type"] = LOSS[method]
    for key, value in values.items():
        if value is None or key in source.data_keys:
            continue
        told += _key(source, key, value, kind, stage)
    data = _data(source, {**values, ABOVE: _folders(file)}, method, file)
    _put_data(data, stage, method, told)
    _defaults(source, values, stage, method, told)
    _preference(source, values, stage, method, told)
    _evaluation(stage, told)
    told.append(Told("(batch)", "by hand", why=BATCH))
    order = list(VERDICTS)
    told.sort(key=lambda one: order.index(one.verdict))
    empty = tuple(key for key, value in values.items() if value is None)
    return Imported(source, file, method, how, _ordered(stage, kind), tuple(told), empty)


def _data(source: Source, values: Mapping[str, Any], method: Method, file: Path) -> Data:
    try:
        return source.data(values, method)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as odd:
        raise RecipeError(
            f"its data keys have another shape than {source.title} gives them ({type(odd).__name__}: {odd})",
            where=str(file),
            way_out=f"Mend {listed(sorted(source.data_keys & set(values)))}, or say whose file it is with --from.",
        ) from odd


def _values(file: Path) -> dict[str, Any]:
    try:
        parsed = read(file.read_bytes())
    except OSError as fault:
        raise RecipeError(
            f"cannot be read: {fault.strerror}", where=str(file), way_out="Give the path of a YAML file."
        ) from fault
    if parsed.problems:
        _, mark, message = parsed.problems[0]
        raise RecipeError(message, where=f"{file}:{mark.line}:{mark.column}", way_out="Mend the file first.")
    return cast("dict[str, Any]", parsed.value)


def _source(values: Mapping[str, Any], asked: str | None, file: Path) -> Source:
    if asked is not None:
        if asked not in SOURCES:
            raise RecipeError(f"`{asked}` is none of {listed(SOURCES)}", where="--from")
        return SOURCES[asked]
    if "stages" in values:
        raise RecipeError(
            "this is a recipe of ours already", where=str(file), way_out="`heliograph validate` it."
        )
    counts = {name: len(source.signs & set(values)) for name, source in SOURCES.items()}
    best = max(counts.values())
    first = [name for name, count in counts.items() if count == best]
    if best and len(first) == 1:
        return SOURCES[first[0]]
    if not best and "datasets" in values and "model_name_or_path" in values:
        return SOURCES["trl"]
    known = f"it could be {' or '.join(first)}" if best else "no key of it is one of theirs alone"
    raise RecipeError(
        f"whose file this is cannot be told: {known}", where=str(file), way_out=f"--from {'|'.join(SOURCES)}"
    )


def _method(source: Source, values: Mapping[str, Any], asked: str | None, file: Path) -> tuple[Method, str]:
    """What the file trains, by what was asked, by keys that only one trainer has, by its folder, by hints."""
    known = get_args(Method)
    if asked is not None:
        if asked not in known:
            raise RecipeError(f"`{asked}` is none of {listed(known)}", where="--method")
        return cast("Method", asked), "--method"
    found = source.method(values)
    if found is not None:
        return found[0], f"`{found[1]}`" if found[1] in values else f"`{found[1]}`, which is left out"
    folder = next((part for part in reversed(file.absolute().parts) if part in known), None)
    if folder is not None:
        return cast("Method", folder), f"its folder `{folder}`"
    hint = trl.suggested(values)
    if hint is not None:
        return hint[0], f"`{hint[1]}`, which orpo and kto have too: else say --method"
    raise RecipeError(
        "the file does not tell what it trains: its trainer is chosen by the script that reads it",
        where=str(file),
        way_out=f"--method {'|'.join(known)}",
    )


def _folders(file: Path) -> list[Path]:
    folder = file.absolute().parent
    return [Path.cwd(), folder, *folder.parents]


def _key(
    source: Source, key: str, value: Any, kind: type[Sft] | type[Prefer], stage: dict[str, Any]
) -> list[Told]:
    rule = source.rules.get(key)
    if rule is not None:
        return _ruled(rule, key, value, stage, kind)
    if not source.trl:
        return [_unknown(key, value, source)]
    if key in kind.model_fields and key not in ("name", "kind", "model", "data", "pairs", "training"):
        return _put(stage, {key: value}, key, value, "")
    found = old_names.modern(key, value, kind.model_fields, training=False)
    if isinstance(found, Refused):
        return [Told(key, "dropped", value, why=found.message)]
    if found is not None:
        told = "" if found.value == value else f"written as {show(found.value)}"
        return _put(stage, {".".join(found.trail): found.value}, key, value, told)
    config = CONFIGS[str(stage["kind"])]
    if key in fields(config):
        return _put(stage, {f"training.{key}": value}, key, value, "")
    if (
        key in Sft.model_fields
        or key in Prefer.model_fields
        or any(key in fields(one) for one in set(CONFIGS.values()))
    ):
        return [Told(key, "dropped", value, why=f"no setting of `kind: {stage['kind']}`")]
    return [_unknown(key, value, source)]


def _unknown(key: str, value: Any, source: Source) -> Told:
    near = nearest(key, source.rules)
    return Told(key, "unknown", value, why=f"did you mean `{near}`?" if near else "")


def _ruled(
    rule: Rule, key: str, value: Any, stage: dict[str, Any], kind: type[Sft] | type[Prefer]
) -> list[Told]:
    if rule.to == "kind":
        return [Told(key, "renamed", value, "kind", rule.why)]
    if rule.hand:
        return [Told(key, "by hand", value, why=rule.why)]
    became = rule.read(value) if rule.read is not None else value
    if isinstance(became, Hand):
        return [Told(key, "by hand", value, why=became.why)]
    if isinstance(became, Drop):
        return [Told(key, "dropped", value, why=became.why)]
    if isinstance(became, Put):
        return _put(stage, became.values, key, value, became.why or rule.why)
    if rule.to is None:
        return [Told(key, "dropped", value, why=rule.why)]
    if not rule.to.startswith("training.") and rule.to not in kind.model_fields:
        return [Told(key, "dropped", value, why=f"no setting of `kind: {stage['kind']}`")]
    return _put(stage, {rule.to: became}, key, value, rule.why)


def _put(stage: dict[str, Any], values: Mapping[str, Any], key: str, value: Any, why: str) -> list[Told]:
    for to, ours in values.items():
        holder = stage
        name = to
        if to.startswith("training."):
            name = to.removeprefix("training.")
            holder = cast("dict[str, Any]", stage.setdefault("training", {}))
        if name in holder and holder[name] != ours and name != "loss_type":
            text = f"`{to}` is {show(holder[name])} already by another key"
            return [Told(key, "by hand", value, to, text)]
        holder[name] = ours
    to = ", ".join(values)
    one = next(iter(values.values()))
    verdict = "changed" if why else "kept" if to == key and one == value else "renamed"
    return [Told(key, verdict, value, to, why)]


def _put_data(data: Data, stage: dict[str, Any], method: Method, told: list[Told]) -> None:
    ours = "data" if method == "sft" else "pairs"
    if not data.train:
        raise RecipeError(
            "the file names no training data", where=ours, way_out="Give it some, or write a recipe by hand."
        )
    stage[ours] = data.train
    if data.held_out:
        stage[f"eval_{ours}"] = data.held_out
    stage |= data.values
    told += data.told
    if len(data.shapes) > 1:
        told.append(Told(ours, "by hand", why=f"{ONE_SHAPE} ({', '.join(sorted(data.shapes))})"))


def _defaults(
    source: Source, values: Mapping[str, Any], stage: dict[str, Any], method: Method, told: list[Told]
) -> None:
    for default in source.defaults:
        left_out = all(values.get(key) is None for key in default.unless)
        fits = (not default.methods or method in default.methods) and (
            not default.adapters or stage.get("use_peft")
        )
        if not (left_out and fits) or default.to in stage:
            continue
        if default.value is not None:
            stage[default.to] = default.value
        told.append(Told(default.to, "default" if default.value is not None else "by hand", default.value,
                         default.to, default.why))  # fmt: skip
    if source.name == "llama-factory" and stage.get("use_peft") and "lora_alpha" not in stage:
        stage["lora_alpha"] = 2 * int(stage["lora_r"])
        told.append(
            Told("lora_alpha", "default", stage["lora_alpha"], "lora_alpha", "twice the rank there, 32 here")
        )
    if source.name == "llama-factory" and stage.get("load_in_4bit") and "use_bnb_nested_quant" not in stage:
        stage["use_bnb_nested_quant"] = True
        told.append(
            Told("double_quantization", "default", True, "use_bnb_nested_quant", "on there, off here")
        )


def _preference(
    source: Source, values: Mapping[str, Any], stage: dict[str, Any], method: Method, told: list[Told]
) -> None:
    """What preference training does otherwise there, whoever's file it is: all of them run TRL's trainers or copies."""
    if method == "sft":
        _drop(stage, told, Sft)
        return
    if "lora_dropout" in stage and values.get("disable_dropout") is not False:
        told[:] = [one for one in told if one.key != "lora_dropout"]
        given = stage.pop("lora_dropout")
        if given:
            told.append(Told("lora_dropout", "dropped", given, why=DROPOUT))
    if isinstance(stage.get("training"), dict):
        stage["training"].pop("disable_dropout", None)
    loss = stage.get("loss_type", "sigmoid")
    if stage.get("label_smoothing") and loss == "sigmoid":
        stage["loss_type"] = from_smoothing(loss)
        why = "the sigmoid loss with smoothing has a name of its own; TRL's own sigmoid no longer reads it"
        told.append(Told("(loss)", "changed", "sigmoid", "loss_type", why))
    if method == "orpo" and source.name != "llama-factory":
        told.append(Told("(loss)", "changed", "orpo", "loss_type", ORPO_PROMPT))
    _drop(stage, told, Prefer)


def _drop(stage: dict[str, Any], told: list[Told], kind: type[Sft] | type[Prefer]) -> None:
    strange = [key for key in stage if key not in kind.model_fields]
    why = f"no setting of `kind: {stage['kind']}`"
    told += [Told(key, "dropped", stage.pop(key), why=why) for key in strange]


def _evaluation(stage: dict[str, Any], told: list[Told]) -> None:
    """Without held-out rows there is nothing to evaluate on."""
    training = cast("dict[str, Any]", stage.get("training", {}))
    held_out = any(key.startswith("eval_") for key in stage)
    for key in ("eval_strategy", "eval_steps", "eval_delay", "eval_accumulation_steps", "batch_eval_metrics"):
        if key in training and not held_out:
            value = training.pop(key)
            told[:] = [one for one in told if one.to != f"training.{key}"]
            told.append(Told(key, "dropped", value, why="there are no held-out rows to evaluate on"))
    if held_out and "eval_steps" in training and "eval_strategy" not in training:
        training["eval_strategy"] = "steps"
    if not training:
        stage.pop("training", None)


def _ordered(stage: dict[str, Any], kind: type[Sft] | type[Prefer]) -> dict[str, Any]:
    """Name, kind, model and data first; the rest as it was met."""
    first = ("name", "kind", "model", "data", "eval_data", "pairs", "eval_pairs")
    return {key: stage[key] for key in first if key in stage} | {
        k: v for k, v in stage.items() if k not in first
    }
