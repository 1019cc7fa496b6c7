"""The alignment-handbook's recipes: those with a `dataset_mixer`, and the later ones with a `dataset_mixture`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pipelines.importing import trl
from pipelines.importing.rules import Data, Method, Rule, Source, Told, by_hand, dropped
from pipelines.importing.shared import NO_SPLIT

SHARE = (
    "the share of this dataset's rows that is taken; how many rows that is only the dataset tells: all are read here, "
    "write `limit: ROWS` with the source"
)
RULES: dict[str, Rule] = {
    **trl.RULES,
    **dropped("rows are read as they are, and the chat template decides what stands at the start",
              "auto_insert_empty_system_msg"),
    **dropped("rows are tokenised once, before training", "preprocessing_num_workers", "dataset_num_proc"),
    **by_hand("the tokenizer always comes with the model: save both in one folder", "tokenizer_name_or_path"),
    **by_hand("a conversation is `messages`; continued pre-training is `kind: sft` on rows of `text`",
              "text_column"),
    **by_hand("a policy of base and adapter is a folder: merge it, or name the run's stage", "base_model_revision"),
}  # fmt: skip
DATA_DOC = (
    ("`dataset_mixer: {NAME: SHARE}`", "a list of sources", SHARE),
    ("`dataset_splits: [train_x, test_x]`", "`split` of `data:` and of `eval_data:`; `pairs:`, `eval_pairs:`",
     "those with `test` in their name are held out, as there"),
    ("`dataset_configs`", "`name` of each source", ""),
    ("`dataset_mixture: {datasets: [{id, config, split}]}`", "a list of sources", ""),
    ("`dataset_mixture: {datasets: [{weight}]}`", "", SHARE + " (`weight` here is a share of the mixture)"),
    ("`dataset_mixture: {test_split_size}`", "", NO_SPLIT.format(ours="data")),
    ("`dataset_mixture: {seed}`", "", "it shuffles what is then split; the stage's `seed` orders the rows here"),
)  # fmt: skip


def data(values: Mapping[str, Any], of: Method) -> Data:
    ours = "data" if of == "sft" else "pairs"
    if values.get("dataset_mixture"):
        return _mixture(cast("dict[str, Any]", values["dataset_mixture"]), ours)
    if values.get("dataset_mixer"):
        return _mixer(values, ours)
    return trl.data(values, of)


def _mixer(values: Mapping[str, Any], ours: str) -> Data:
    found = Data()
    mixer = cast("dict[str, Any]", values["dataset_mixer"])
    splits = cast("list[str]", values.get("dataset_splits") or ["train", "test"])
    configs = cast("list[Any]", values.get("dataset_configs") or [None] * len(mixer))
    for (name, share), config in zip(mixer.items(), configs, strict=False):
        base: dict[str, Any] = {"path": name} | ({"name": config} if config and config != "default" else {})
        for split in splits:
            placed = found.held_out if "test" in split else found.train
            placed.append(base | ({"split": split} if split != "train" else {}))
        if float(share) == 1:
            found.told.append(Told(f"dataset_mixer.{name}", "renamed", share, ours))
        else:
            found.told.append(Told(f"dataset_mixer.{name}", "by hand", share, ours, SHARE))
    verdict = "renamed" if "dataset_splits" in values else "default"
    found.told.append(Told("dataset_splits", verdict, splits, "split"))
    if values.get("dataset_configs"):
        found.told.append(Told("dataset_configs", "renamed", configs, "name"))
    return found


def _mixture(mixture: Mapping[str, Any], ours: str) -> Data:
    found = Data()
    for index, entry in enumerate(cast("list[dict[str, Any]]", mixture.get("datasets") or [])):
        at = f"dataset_mixture.datasets[{index}]"
        trl.read_entry(entry, at, found, fraction="weight")
        share = entry.get("weight")
        if share is not None and float(share) != 1:
            found.told.append(Told(f"{at}.weight", "by hand", share, why=SHARE))
        elif share is not None:
            found.told.append(Told(f"{at}.weight", "dropped", share, why="1: all its rows, as without it"))
    if mixture.get("test_split_size"):
        why = NO_SPLIT.format(ours=ours)
        found.told.append(
            Told("dataset_mixture.test_split_size", "by hand", mixture["test_split_size"], why=why)
        )
    if "seed" in mixture:
        why = "it shuffles what is then split; the stage's `seed` orders the rows here"
        found.told.append(Told("dataset_mixture.seed", "dropped", mixture["seed"], why=why))
    found.told += [
        Told(f"dataset_mixture.{key}", "unknown", value)
        for key, value in mixture.items()
        if key not in ("datasets", "test_split_size", "seed")
    ]
    return found


SOURCE = Source(
    name="alignment-handbook",
    title="alignment-handbook",
    signs=frozenset({"dataset_mixer", "dataset_mixture", "dataset_splits", "dataset_configs",
                     "preprocessing_num_workers", "auto_insert_empty_system_msg"}),
    rules=RULES,
    method=trl.method,
    data=data,
    data_keys=trl.DATA_KEYS | {"dataset_mixer", "dataset_mixture", "dataset_splits", "dataset_configs"},
    defaults=trl.DEFAULTS,
    trl=True,
    data_doc=DATA_DOC,
)  # fmt: skip
