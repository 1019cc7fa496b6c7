"""LLaMA-Factory's `dataset:`, names that its dataset_info.json explains: found beside the file, or asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from data.errors import RecipeError
from pipelines.importing.rules import Data, Method, Told
from pipelines.importing.shared import NO_SPLIT, names

DATA_KEYS = frozenset({"dataset", "eval_dataset", "dataset_dir", "val_size", "max_samples", "mix_strategy",
                       "interleave_probs", "train_on_prompt"})  # fmt: skip
INFO = "dataset_info.json"
ABOVE = "__folders__"
"""Where the engine tells, in the values, the folders to look for the list in: the file's own and those above it."""
ALPACA = "instruction and input are put together into a prompt there: write rows of `prompt` and `completion` first"
SHAREGPT = "conversations of `from` and `value`: rename these to `role` and `content` in the rows first"
PAIRS = "rows of prompt, chosen and rejected as lists of messages are needed: write them first"
ASSISTANT = (
    "the loss is on the assistant's turns there: the chat template must mark them with {% generation %}, and the "
    "stage says so when it does not"
)
DATA_DOC = (
    ("`dataset: a,b`", "a list of sources", "names of dataset_info.json, which is looked for in `dataset_dir` beside "
     "the file and above it: `hf_hub_url` or `file_name`, `subset`, `split` and `columns` are read from it"),
    ("`formatting: alpaca`", "`columns: {prompt: ..., completion: ...}`", ALPACA),
    ("`formatting: sharegpt` with tags `role`, `content`", "`columns: {messages: ...}`, `assistant_only_loss: true`",
     ASSISTANT),
    ("`formatting: sharegpt`, `from` and `value`", "", SHAREGPT),
    ("`eval_dataset`", "`eval_data:`, `eval_pairs:`", ""),
    ("`val_size`", "", NO_SPLIT.format(ours="data")),
    ("`max_samples`", "`limit` of every source", "the first rows in both"),
    ("`mix_strategy`, `interleave_probs`", "`weight` of every source", "no row is used twice here; `interleave_over` "
     "repeats those of small sets"),
    ("`train_on_prompt`", "`completion_only_loss: false`", ""),
)  # fmt: skip


def data(values: Mapping[str, Any], of: Method) -> Data:
    found = Data()
    ours = "data" if of == "sft" else "pairs"
    info, file = _info(values)
    for key, into in (("dataset", found.train), ("eval_dataset", found.held_out)):
        for name in cast("list[str]", names(values.get(key)) or []):
            into.append(_one(name, info, file, f"{key}: {name}", of, found))
        if values.get(key):
            found.told.append(Told(key, "changed", values[key], ours if key == "dataset" else f"eval_{ours}",
                                   f"the names are looked up in {file}"))  # fmt: skip
    if "dataset_dir" in values:
        found.told.append(
            Told("dataset_dir", "dropped", values["dataset_dir"], why="sources have their own paths")
        )
    _mixing(values, found)
    if values.get("max_samples"):
        for source in (*found.train, *found.held_out):
            source["limit"] = values["max_samples"]
        found.told.append(Told("max_samples", "renamed", values["max_samples"], "limit"))
    if values.get("val_size"):
        found.told.append(Told("val_size", "by hand", values["val_size"], why=NO_SPLIT.format(ours=ours)))
    if values.get("train_on_prompt"):
        found.values.pop("assistant_only_loss", None)
        found.values["completion_only_loss"] = False
        found.told.append(Told("train_on_prompt", "renamed", True, "completion_only_loss"))
    elif "train_on_prompt" in values:
        found.told.append(
            Told("train_on_prompt", "dropped", False, why="the answers alone are learned, as without it")
        )
    return found


def _info(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], Path]:
    folder = str(values.get("dataset_dir", "data"))
    folders = cast("list[Path]", values[ABOVE])
    places = [place / folder / INFO for place in folders]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise RecipeError(
            f"`dataset:` names sets that {folder}/{INFO} explains, and there is none here or in a folder above",
            where="dataset",
            way_out=f"Copy it to {places[0]}, or import the file where it lies.",
        )
    try:
        return cast("Mapping[str, Any]", json.loads(file.read_text(encoding="utf-8"))), file
    except (OSError, ValueError) as fault:
        raise RecipeError(f"cannot be read: {fault}", where=str(file), way_out="Mend the file.") from fault


def _one(name: str, info: Mapping[str, Any], file: Path, at: str, of: Method, found: Data) -> dict[str, Any]:
    entry = info.get(name)
    if not isinstance(entry, dict):
        raise RecipeError(
            f"there is no dataset `{name}` in it",
            where=str(file),
            way_out=f"There are {', '.join(info) or 'none'}.",
        )
    told = cast("dict[str, Any]", entry)
    source: dict[str, Any] = {}
    if told.get("hf_hub_url"):
        source["path"] = told["hf_hub_url"]
    elif told.get("file_name"):
        source["path"] = str((file.parent / told["file_name"]).absolute())
    else:
        raise RecipeError(
            f"`{name}` has neither `hf_hub_url` nor `file_name`",
            where=str(file),
            way_out="Write a source by hand.",
        )
    if told.get("subset"):
        source["name"] = told["subset"]
    if told.get("split", "train") != "train":
        source["split"] = told["split"]
    if told.get("num_samples"):
        source["limit"] = told["num_samples"]
    columns = _columns(told, at, of, found)
    known = {"hf_hub_url", "ms_hub_url", "om_hub_url", "file_name", "subset", "split", "columns", "tags", "formatting",
             "ranking", "num_samples"}  # fmt: skip
    found.told += [Told(f"{at}.{key}", "unknown", value) for key, value in told.items() if key not in known]
    return source | ({"columns": columns} if columns else {})


def _columns(told: Mapping[str, Any], at: str, of: Method, found: Data) -> dict[str, str]:
    given = cast("dict[str, str]", told.get("columns") or {})
    tags = cast("dict[str, str]", told.get("tags") or {})
    chats = told.get("formatting") == "sharegpt"
    ours_named = tags.get("role_tag") == "role" and tags.get("content_tag") == "content"
    if "kto_tag" in given:
        found.told.append(
            Told(f"{at}.columns", "by hand", given, "columns", "rows are prompt, completion and label")
        )
        return {"label": given["kto_tag"]} if given["kto_tag"] != "label" else {}
    if of != "sft":
        pairs = {
            "prompt": given.get("prompt"),
            "chosen": given.get("chosen"),
            "rejected": given.get("rejected"),
        }
        columns = {ours: theirs for ours, theirs in pairs.items() if theirs and ours != theirs}
        found.told.append(Told(f"{at}.columns", "by hand", given, "columns", PAIRS))
        return columns
    if chats:
        field = given.get("messages", "conversations")
        found.shapes.add("messages")
        if ours_named:
            found.values["assistant_only_loss"] = True
            found.told.append(
                Told(f"{at}.formatting", "changed", "sharegpt", "assistant_only_loss", ASSISTANT)
            )
        else:
            found.told.append(Told(f"{at}.formatting", "by hand", "sharegpt", why=SHAREGPT))
        return {"messages": field} if field != "messages" else {}
    found.shapes.add("prompt_completion")
    prompt, response = given.get("prompt", "instruction"), given.get("response", "output")
    alone = {"prompt", "response"} >= set(given) and given
    verdict, why = ("renamed", "") if alone else ("by hand", ALPACA)
    found.told.append(Told(f"{at}.columns", verdict, given, "columns", why))
    return {ours: theirs for ours, theirs in (("prompt", prompt), ("completion", response)) if ours != theirs}


def _mixing(values: Mapping[str, Any], found: Data) -> None:
    strategy = values.get("mix_strategy", "concat")
    shares = [float(share) for share in names(str(values.get("interleave_probs") or "")) if share]
    if strategy != "concat" and shares:
        for source, share in zip(found.train, shares, strict=False):
            source["weight"] = share
        why = "the shares are the same; no row is used twice here"
        found.told.append(Told("interleave_probs", "changed", values["interleave_probs"], "weight", why))
    if "mix_strategy" in values:
        repeats = strategy == "interleave_over"
        why = "rows of small sets are repeated there, and never here" if repeats else "as the sources stand"
        found.told.append(Told("mix_strategy", "by hand" if repeats else "dropped", strategy, why=why))
