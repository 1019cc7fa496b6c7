"""TRL's own files: the YAML of `trl sft`, `trl dpo`, `trl kto` and their scripts, names of today and of before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from data.errors import RecipeError
from pipelines.importing.rules import (
    Data,
    Default,
    Drop,
    Hand,
    Method,
    Put,
    Rule,
    Source,
    Told,
    by_hand,
    dropped,
)
from pipelines.importing.shared import COMMON, EPOCHS, NO_SPLIT, floats, only_true, target_modules

DECISIVE: dict[str, Method] = {
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
    "cpo_alpha": "cpo",
    **dict.fromkeys(
        ("loss_type", "loss_weights", "precompute_ref_log_probs", "rpo_alpha", "ld_alpha", "sync_ref_model",
         "f_divergence_type", "use_weighting", "reference_free", "discopop_tau"), "dpo",
    ),
    **dict.fromkeys(
        ("packing", "packing_strategy", "dataset_text_field", "assistant_only_loss", "completion_only_loss",
         "max_seq_length", "eval_packing", "chat_template_path", "eos_token"), "sft",
    ),
}  # fmt: skip
SUGGESTIVE: dict[str, Method] = {"beta": "dpo", "max_prompt_length": "dpo", "max_completion_length": "dpo"}
NOT_OURS = (
    "reward_funcs",
    "num_generations",
    "vllm_mode",
    "reward_model_path",
    "num_ppo_epochs",
    "teacher_model_name_or_path",
)
BUILDERS = ("json", "csv", "parquet", "text")
HELD_OUT = ("test", "eval", "valid", "dev", "heldout")
MIXED_IN = (
    "the name of this split says that it was held out, and it stands among the training rows: kept as the file has "
    "it, and what is measured on it says nothing about new rows"
)
PEFT_TARGETS = (
    "left out there: PEFT's choice for the architecture (Llama: q_proj and v_proj); here: all linear layers"
)


def method(values: Mapping[str, Any]) -> tuple[Method, str] | None:
    """By the keys that only one trainer has. Those that several have only suggest one: see `suggested`."""
    for key in NOT_OURS:
        if key in values:
            raise RecipeError(
                f"`{key}` belongs to a trainer that has no counterpart here",
                way_out="Import sft, dpo, kto, orpo or cpo files.",
            )
    loss = values.get("loss_type")
    if loss == "simpo":
        return "simpo", "loss_type"
    if loss in ("nll", "dft", "chunked_nll"):
        return "sft", "loss_type"
    return next(((found, key) for key, found in DECISIVE.items() if key in values), None)


def suggested(values: Mapping[str, Any]) -> tuple[Method, str] | None:
    return next(((found, key) for key, found in SUGGESTIVE.items() if key in values), None)


def _loss_type(value: Any) -> Any:
    """Old names of the losses; everything else is judged by our reader."""
    losses = cast("list[Any]", value if isinstance(value, list) else [value])
    if value in ("nll", "chunked_nll"):
        return Drop("the likelihood of the tokens is what `kind: sft` trains")
    if "kto_pair" in losses:
        return Hand("TRL removed kto_pair: take rows with a `label` and `loss_type: kto`, or `apo_zero`")
    renamed = ["aot" if loss == "aot_pair" else loss for loss in losses]
    told = "an old name of `aot`" if renamed != losses else ""
    return Put({"loss_type": renamed if isinstance(value, list) else renamed[0]}, told)


def _rpo(value: Any) -> Any:
    alpha = floats(value)
    if not alpha:
        return Drop("0 or nothing: no such term")
    return Put({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, alpha]})


def _dtype(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


def _packing_strategy(value: Any) -> Any:
    if value in ("bfd", "ffd"):
        return Drop("it is the one there is: whole rows are packed")
    return Hand("it cuts rows to fill the length without counting them: here whole rows are packed")


CHAT = "chat templates and special tokens come with the tokenizer: save them in the model's folder, and start from that"
RULES: dict[str, Rule] = {
    **COMMON,
    "torch_dtype": Rule("dtype", read=_dtype),
    "max_seq_length": Rule("max_length"),
    "lora_target_modules": Rule("lora_target_modules", read=target_modules),
    "loss_type": Rule("loss_type", read=_loss_type),
    "rpo_alpha": Rule("loss_type", "`[sigmoid, sft]` with `loss_weights: [1.0, ALPHA]`: the same sum", _rpo),
    "cpo_alpha": Rule("sft_weight", read=floats),
    "packing_strategy": Rule(None, read=_packing_strategy),
    "padding_free": Rule(None, read=only_true("`packing: true` is the stage's own way to spend nothing on padding")),
    "reference_free": Rule(
        None, read=only_true("the reference is always the policy the stage starts from: `loss_type: cpo` has none")
    ),
    "use_weighting": Rule(None, read=only_true("WPO's weights are not there")),
    "sync_ref_model": Rule(None, read=only_true("the reference is the policy the stage starts from, and stays it")),
    "label_smoothing": Rule("label_smoothing", read=floats),
    **by_hand(
        "the reference is always the policy the stage starts from: `model:` must name the very policy that this "
        "names, or the margins are others",
        "ref_model", "ref_model_name_or_path",
    ),
    **by_hand(CHAT, "chat_template", "chat_template_path", "eos_token", "pad_token"),
    **dropped(
        "one length bounds prompt and answer together here; a longer prompt alone is dropped and counted",
        "max_prompt_length", "max_completion_length", "max_target_length",
    ),
    **dropped("rows are read as they come; a hub dataset is cached", "dataset_streaming", "streaming"),
    **dropped("the tool's own messages are no setting of a run", "log_level", "verbose", "profile"),
    **dropped("a stage starts where its own last checkpoint is", "resume_from_checkpoint"),
}  # fmt: skip
DEFAULTS = (
    EPOCHS,
    Default("dtype", "float32", "weights are loaded in float32 unless it is set; `auto` here takes bfloat16 on CUDA "
            "for weights that are not trained", unless=("dtype", "torch_dtype"), adapters=True),
    Default("lora_dropout", 0.05, "0.05 there, 0 here", unless=("lora_dropout",), methods=("sft",), adapters=True),
    Default("lora_target_modules", None, PEFT_TARGETS, unless=("lora_target_modules", "lora_target_parameters"),
            adapters=True),
    Default("sft_weight", 1.0, "CPO's trainer adds the chosen answer's likelihood at weight 1",
            unless=("cpo_alpha",), methods=("simpo",)),
)  # fmt: skip
"""A value of None: it cannot be written, only told."""
DATA_KEYS = frozenset(
    {
        "dataset_name",
        "dataset_config",
        "dataset_train_split",
        "dataset_test_split",
        "datasets",
        "test_split_size",
    }
)
DATA_DOC = (
    ("`dataset_name`, `dataset_config`, `dataset_train_split`", "`data: {path, name, split}`, `pairs:`", ""),
    ("`dataset_test_split`", "`eval_data:`, `eval_pairs:`", "read where `eval_strategy` is not `no`, as there"),
    ("`datasets: [{path, name, data_files, split, columns}]`", "a list of sources", "`columns` chooses columns there; "
     "here `columns` renames, and what a row is follows from the columns it has"),
    ("`datasets: [{fraction}]`", "`weight`", "the same sizes; here the rows of a source are drawn by a seed, there the "
     "first are taken"),
    ("`test_split_size`", "", NO_SPLIT.format(ours="data")),
)  # fmt: skip


def data(values: Mapping[str, Any], of: Method) -> Data:
    found = Data()
    ours = "data" if of == "sft" else "pairs"
    evaluates = str(values.get("eval_strategy", values.get("evaluation_strategy", "no"))).lower() not in (
        "no",
        "false",
    )
    if values.get("datasets"):
        for index, entry in enumerate(cast("list[Any]", values["datasets"])):
            read_entry(cast("dict[str, Any]", entry), f"datasets[{index}]", found, fraction="fraction")
        if values.get("dataset_name"):
            found.told.append(
                Told("dataset_name", "dropped", why="`datasets` stands here too, and TRL reads that")
            )
    elif values.get("dataset_name"):
        entry = {"path": values["dataset_name"], "name": values.get("dataset_config")}
        split = values.get("dataset_train_split", "train")
        found.train.append(_source(entry, split))
        found.told.append(Told("dataset_name", "renamed", values["dataset_name"], ours))
        held_out_by_name("dataset_train_split", split, found)
        for key in ("dataset_config", "dataset_train_split"):
            if values.get(key) is not None:
                found.told.append(Told(key, "renamed", values[key], f"{ours}.{_PARTS[key]}"))
        test = values.get("dataset_test_split")
        if evaluates:
            found.held_out.append(_source(entry, test or "test"))
            verdict = "renamed" if test else "default"
            found.told.append(Told("dataset_test_split", verdict, test or "test", f"eval_{ours}"))
        elif test:
            found.told.append(
                Told(
                    "dataset_test_split",
                    "dropped",
                    test,
                    why="`eval_strategy` is `no`, and TRL reads none either",
                )
            )
    if values.get("test_split_size"):
        why = NO_SPLIT.format(ours=ours)
        found.told.append(Told("test_split_size", "by hand", values["test_split_size"], why=why))
    return found


_PARTS = {"dataset_config": "name", "dataset_train_split": "split"}


def _source(entry: Mapping[str, Any], split: str) -> dict[str, Any]:
    found: dict[str, Any] = {"path": entry["path"]}
    if entry.get("name") and entry["name"] != "default":
        found["name"] = entry["name"]
    if split != "train":
        found["split"] = split
    return found


def read_entry(entry: Mapping[str, Any], at: str, found: Data, *, fraction: str) -> None:
    """One of `datasets:`; `fraction` is what the project calls its share of the mixture."""
    path = entry.get("path", entry.get("id"))
    files = entry.get("data_files")
    split = entry.get("split", "train")
    sources: list[dict[str, Any]] = []
    if path in BUILDERS and isinstance(files, (str, list)):
        given = [files] if isinstance(files, str) else cast("list[Any]", files)
        sources = [{"path": str(file)} for file in given]
        found.told.append(Told(f"{at}.data_files", "renamed", files, "path"))
    elif path is not None:
        sources = [_source({"path": path, "name": entry.get("name", entry.get("config"))}, split)]
        if files is not None:
            why = "of a hub dataset, one split is read whole: name the files themselves as paths"
            found.told.append(Told(f"{at}.data_files", "by hand", files, why=why))
    found.told.append(Told(f"{at}.{'path' if 'path' in entry else 'id'}", "renamed", path, "path"))
    held_out_by_name(f"{at}.split", split, found)
    share = entry.get(fraction)
    if share is not None and fraction == "fraction":
        sources = [{**source, "weight": float(share)} for source in sources]
        why = "the same sizes; here the rows are drawn by a seed, there the first of each are taken"
        found.told.append(Told(f"{at}.{fraction}", "changed", share, "weight", why))
    for key, value in entry.items():
        if key == "columns":
            why = (
                "chooses columns there; what a row is follows from the columns it has, others are left alone"
            )
            found.told.append(Told(f"{at}.columns", "dropped", value, why=why))
        elif key == "data_dir":
            why = "name the folder or its files as `path`"
            found.told.append(Told(f"{at}.data_dir", "by hand", value, why=why))
        elif key in ("name", "config", "split"):
            found.told.append(Told(f"{at}.{key}", "renamed", value, "split" if key == "split" else "name"))
        elif key not in ("path", "id", "data_files", "fraction", "weight"):
            found.told.append(Told(f"{at}.{key}", "unknown", value))
    found.train += sources


def held_out_by_name(key: str, split: str, found: Data) -> None:
    words = split.replace("-", "_").lower().split("_")
    if any(word.startswith(HELD_OUT) for word in words):
        found.told.append(Told(key, "by hand", split, why=MIXED_IN))


SOURCE = Source(
    name="trl",
    title="TRL",
    signs=frozenset({"dataset_name", "dataset_train_split", "dataset_config", "dataset_test_split"}),
    rules=RULES,
    method=method,
    data=data,
    data_keys=DATA_KEYS,
    defaults=DEFAULTS,
    trl=True,
    data_doc=DATA_DOC,
)
