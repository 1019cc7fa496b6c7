"""axolotl's `datasets:`, whose `type` says how a row becomes a text: what of it a recipe can say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pipelines.importing.rules import Data, Method, Told
from pipelines.importing.shared import NO_SPLIT
from pipelines.importing.trl import BUILDERS, held_out_by_name

DATA_KEYS = frozenset({"datasets", "test_datasets", "val_set_size", "train_on_inputs"})
PROMPTER = (
    "axolotl writes the prompt out of several columns in a wording of its own: write rows of `prompt` and "
    "`completion` (or `messages`) with that wording first"
)
TEMPLATED = (
    "axolotl puts the chat template's marks around these texts; here text stays text: write prompt and answers as "
    "lists of messages, and the tokenizer's template does it"
)
ROLES = "a message is `{role, content}` here: rename these in the rows first"
ASSISTANT = (
    "axolotl's loss is on the assistant's turns: the chat template must mark them with {% generation %}, and the "
    "stage says so when it does not"
)
TURNS = "which turns are learned is not to be chosen by row here"
# Types whose columns are ours by another name: kind of file, then our column and theirs.
COLUMNS: dict[str, dict[str, str]] = {
    "intel": {"prompt": "question"},
    "argilla": {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
    "icr": {"prompt": "input"},
    "prompt_pairs": {},
    "ultra": {},
    "argilla_chat": {},
}
CHATS = ("argilla_chat", "ultra")
"""Preference types whose answers are conversations already."""
DATA_DOC = (
    ("`datasets: [{path, name, split, revision}]`", "`data: [{path, name, split, revision}]`; `pairs:` for `rl:`",
     "`path: json` with `data_files` becomes the files"),
    ("`datasets: [{type: chat_template, field_messages}]`", "`columns: {messages: ...}`, `assistant_only_loss: true`",
     ASSISTANT),
    ("`datasets: [{type: completion, field}]`", "`columns: {text: ...}`", ""),
    ("`datasets: [{type: alpaca}]` and the other prompters", "", PROMPTER),
    ("`datasets: [{type: chatml.intel}]`, `.argilla`, `.icr`", "`columns: {prompt: question}` and such",
     TEMPLATED),
    ("`datasets: [{type: chat_template.default, field_chosen}]`", "`columns: {prompt: ..., chosen: ...}`",
     "a chosen answer is a list of messages here, one of them"),
    ("`test_datasets`", "`eval_data:`, `eval_pairs:`", ""),
    ("`val_set_size`", "", NO_SPLIT.format(ours="data")),
    ("`train_on_inputs: false`", "`assistant_only_loss: true` for messages",
     "prompt/completion rows learn the completion alone anyway"),
)  # fmt: skip
PLAIN = ("path", "name", "split", "revision", "data_files", "ds_type", "type")
MESSAGE_KEYS = ("message_field_role", "message_field_content", "message_property_mappings", "roles")


def data(values: Mapping[str, Any], of: Method) -> Data:
    found = Data()
    ours = "data" if of == "sft" else "pairs"
    for key, into in (("datasets", found.train), ("test_datasets", found.held_out)):
        for index, entry in enumerate(cast("list[Any]", values.get(key) or [])):
            at = f"{key}[{index}]"
            into += _read(cast("dict[str, Any]", entry), at, of, found, values)
            if key == "datasets":
                held_out_by_name(f"{at}.split", str(entry.get("split") or "train"), found)
    if values.get("val_set_size"):
        why = NO_SPLIT.format(ours=ours)
        found.told.append(Told("val_set_size", "by hand", values["val_set_size"], why=why))
    elif "val_set_size" in values:
        found.told.append(
            Told("val_set_size", "dropped", values["val_set_size"], why="0: nothing is split off")
        )
    if "train_on_inputs" in values:
        _inputs(bool(values["train_on_inputs"]), found)
    return found


def _inputs(everything: bool, found: Data) -> None:
    if everything and "assistant_only_loss" in found.values:
        del found.values["assistant_only_loss"]
        found.told = [one for one in found.told if one.to != "assistant_only_loss"]
        found.told.append(
            Told("train_on_inputs", "changed", True, why="all turns are learned, as without it here")
        )
    elif everything:
        found.values["completion_only_loss"] = False
        found.told.append(Told("train_on_inputs", "renamed", True, "completion_only_loss"))
    else:
        found.told.append(
            Told("train_on_inputs", "dropped", False, why="as without it: the answers alone are learned")
        )


def _read(
    entry: Mapping[str, Any], at: str, of: Method, found: Data, values: Mapping[str, Any]
) -> list[dict[str, Any]]:
    source: dict[str, Any] = {"path": entry.get("path")}
    found.told.append(Told(f"{at}.path", "renamed", entry.get("path"), "path"))
    for key in ("name", "split", "revision"):
        if entry.get(key) and not (key == "split" and entry[key] == "train"):
            source[key] = entry[key]
            found.told.append(Told(f"{at}.{key}", "kept", entry[key], key))
    if entry.get("ds_type"):
        found.told.append(
            Told(f"{at}.ds_type", "dropped", entry["ds_type"], why="the file's name tells its format")
        )
    columns = _preference(entry, at, of, found) if of != "sft" else _supervised(entry, at, found, values)
    if columns:
        source["columns"] = columns
    for key, value in entry.items():
        if key in PLAIN or key.startswith("field") or value is None:
            continue
        if key in MESSAGE_KEYS:
            plain = {"role": "role", "content": "content"}
            if key == "message_property_mappings" and value == plain:
                found.told.append(Told(f"{at}.{key}", "dropped", value, why="these are the names here"))
            else:
                found.told.append(Told(f"{at}.{key}", "by hand", value, why=ROLES))
        elif key in (
            "roles_to_train",
            "train_on_eos",
            "message_field_training",
            "message_field_training_detail",
        ):
            plain_value = value in (["assistant"], "turn")
            verdict = "dropped" if plain_value else "by hand"
            why = "as the assistant's turns are learned here" if plain_value else TURNS
            found.told.append(Told(f"{at}.{key}", verdict, value, why=why))
        elif key in ("chat_template", "chat_template_jinja"):
            own = value == "tokenizer_default"
            why = (
                "the tokenizer's own is taken"
                if own
                else "chat templates come with the tokenizer: save it there"
            )
            found.told.append(Told(f"{at}.{key}", "dropped" if own else "by hand", value, why=why))
        elif key in ("shards", "shards_idx", "preprocess_shards"):
            found.told.append(
                Told(f"{at}.{key}", "by hand", value, why="write `limit: ROWS`, or split the file")
            )
        else:
            found.told.append(Told(f"{at}.{key}", "unknown", value))
    return _files(entry, source, at, found)


def _files(entry: Mapping[str, Any], source: dict[str, Any], at: str, found: Data) -> list[dict[str, Any]]:
    files = entry.get("data_files")
    if not files:
        return [source]
    given = [files] if isinstance(files, str) else cast("list[str]", files)
    if source["path"] not in BUILDERS:
        why = "of a hub dataset, one split is read whole: name the files themselves as paths"
        found.told.append(Told(f"{at}.data_files", "by hand", files, why=why))
        return [source]
    found.told.append(Told(f"{at}.data_files", "renamed", files, "path"))
    return [{**source, "path": file} for file in given]


def _supervised(entry: Mapping[str, Any], at: str, found: Data, values: Mapping[str, Any]) -> dict[str, str]:
    kind = entry.get("type")
    name = kind if isinstance(kind, str) else ""
    if name == "completion":
        field = str(entry.get("field") or "text")
        found.shapes.add("text")
        found.told.append(Told(f"{at}.type", "changed", kind, "columns", "rows of plain `text`"))
        return {} if field == "text" else {"text": field}
    if name == "chat_template" or name.startswith("chat_template."):
        field = str(entry.get("field_messages") or "messages")
        found.values["assistant_only_loss"] = True
        found.shapes.add("messages")
        found.told.append(Told(f"{at}.type", "changed", kind, "assistant_only_loss", ASSISTANT))
        if entry.get("field_messages"):
            found.told.append(Told(f"{at}.field_messages", "renamed", field, "columns.messages"))
        return {} if field == "messages" else {"messages": field}
    told = cast("dict[str, Any]", kind) if isinstance(kind, dict) else {}
    found.shapes.add("prompt_completion")
    why = PROMPTER if kind else "rows that are tokenised already are not read here: give the texts"
    found.told.append(Told(f"{at}.type", "by hand", told or kind, why=why))
    found.told += [
        Told(f"{at}.{key}", "by hand", value, why=PROMPTER)
        for key, value in entry.items()
        if key.startswith("field") and value is not None
    ]
    return {}


def _preference(entry: Mapping[str, Any], at: str, of: Method, found: Data) -> dict[str, str]:
    kind = entry.get("type")
    if isinstance(kind, dict):
        return _defined(cast("dict[str, Any]", kind), at, found)
    name = str(kind or "")
    family, _, form = name.partition(".")
    if name.startswith("chat_template"):
        pairs = (("prompt", "messages"), ("chosen", "chosen"), ("rejected", "rejected"))
        columns = {ours: str(entry.get(f"field_{theirs}") or theirs) for ours, theirs in pairs}
        columns = {ours: theirs for ours, theirs in columns.items() if ours != theirs}
        if form and form != "default":
            found.told.append(
                Told(
                    f"{at}.type", "changed", kind, "pairs", "conversations; their shared start is the prompt"
                )
            )
            return {}
        why = "a chosen answer is a list of messages here: put each into a list of one"
        found.told.append(Told(f"{at}.type", "by hand", kind, "columns", why))
        return columns
    if form in CHATS:
        why = "conversations; the tokenizer's own template renders them, not the one that this names"
        found.told.append(Told(f"{at}.type", "changed", kind, "pairs", why))
        return {}
    if form in COLUMNS:
        found.told.append(Told(f"{at}.type", "by hand", kind, "columns", TEMPLATED))
        answers = ("chosen", "rejected") if of == "kto" else ()
        return {ours: theirs for ours, theirs in COLUMNS[form].items() if ours not in answers}
    why = f"no such type of rows is known here ({family}): write rows of prompt, chosen and rejected first"
    found.told.append(Told(f"{at}.type", "by hand", kind, why=why))
    return {}


def _defined(kind: Mapping[str, Any], at: str, found: Data) -> dict[str, str]:
    columns: dict[str, str] = {}
    for key, value in kind.items():
        ours = key.removeprefix("field_")
        if key in ("field_prompt", "field_chosen", "field_rejected", "field_completion", "field_label"):
            found.told.append(Told(f"{at}.type.{key}", "renamed", value, f"columns.{ours}"))
            if ours != value:
                columns[ours] = str(value)
        elif key.endswith("_format") and value == "{" + key.removesuffix("_format") + "}":
            found.told.append(
                Told(f"{at}.type.{key}", "dropped", value, why="the text as it is, as without it")
            )
        else:
            found.told.append(Told(f"{at}.type.{key}", "by hand", value, why=PROMPTER))
    return columns
