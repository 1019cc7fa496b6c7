"""Train a cross-encoder on groups with sentence-transformers' loop, our loss and checkpoints that survive a kill."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from data.errors import DataError, TrainingError
from trainers.losses.groups import GroupCrossEntropy
from trainers.radio.config import RerankerOptions
from trainers.radio.reranking import encode_pairs, load_reranker
from trainers.training import checkpoints
from trainers.training.arguments import build, training_arguments
from trainers.training.loop import MODEL, LogTheEnd, mean_loss
from trainers.training.watching import FiniteLoss, Teller, summary
from trainers.work import Work

WEIGHTS = "trained.safetensors"
"""In a checkpoint: the parameters that are trained, under their names in the cross-encoder."""


class EpochOrder(DefaultBatchSampler):
    """A permutation that seed and epoch alone decide, so that a resumed run sees the order of an undisturbed one."""

    def __iter__(self) -> Iterator[list[int]]:
        dice = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        rows: Any = self.sampler  # DefaultBatchSampler puts the dataset there
        order = torch.randperm(len(rows), generator=dice).tolist()
        size = self.batch_size
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            if len(batch) == size or not self.drop_last:
                yield batch


class RerankerTrainer(FiniteLoss, checkpoints.SealedCheckpoints, CrossEncoderTrainer):
    """sentence-transformers' CrossEncoderTrainer whose checkpoints are sealed and hold only what is trained."""

    # The loss is a mean over the batch's groups; transformers must divide it by the number of accumulated batches.
    loss_is_scaled_for_ga = False

    def add_model_card_callback(self, default_args_dict: Any) -> None:
        """No card: its statistics tokenise the whole training set, and ours is written once, beside the model."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from safetensors.torch import save_file

        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().cpu().contiguous() for name, p in _trained(self.model)}, folder / WEIGHTS)

    # The two classes below it name the folder differently; transformers passes it by place.
    def _load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, resume_from_checkpoint: str, model: Any = None
    ) -> None:
        from safetensors.torch import load_file

        found = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        expected = dict(_trained(self.model))
        if found.keys() != expected.keys():
            raise TrainingError(
                "the checkpoint holds other parameters than those that are trained",
                where=resume_from_checkpoint,
                way_out="it was made with other settings: delete the stage's folder and run again",
            )
        with torch.no_grad():
            for name, parameter in expected.items():
                parameter.copy_(found[name])


def train_reranker(
    options: RerankerOptions,
    start: str | CrossEncoder,
    groups: Iterable[Mapping[str, Any]],
    work: Work,
) -> dict[str, Any]:
    """Train, or go on from the newest whole checkpoint; leave what `CrossEncoder(out/model)` loads. Returns figures."""
    model: Any = start
    if isinstance(start, str):
        model = load_reranker(start, max_length=options.max_length, seed=options.seed)
    rows, figures = training_rows(groups, options)
    figures["cut_pairs"] = _count_cut(model, rows)
    if figures["cut_pairs"]:
        work.say(f"{figures['cut_pairs']:,} pairs are longer than {model.max_seq_length} tokens and were cut")
    if options.use_peft:
        _add_lora(model, options)
    args = training_arguments(
        CrossEncoderTrainingArguments,
        options,
        work.scratch / checkpoints.FOLDER,
        work,
        batch_sampler=EpochOrder,
        remove_unused_columns=False,
    )
    trainer: Any = build(
        RerankerTrainer,
        model=model,
        args=args,
        train_dataset=rows,
        loss=GroupCrossEntropy(
            model,
            tau=options.tau,
            in_batch_negatives=options.in_batch_negatives,
            forward_tokens=options.forward_tokens,
        ),
        callbacks=[Teller(work), LogTheEnd()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.keep_checkpoints = options.save_total_limit
    checkpoint = checkpoints.newest(work.scratch / checkpoints.FOLDER, work.say)
    if checkpoint is not None:
        work.say(f"going on from {checkpoint.name}")
    started = time.monotonic()
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.state.global_step == 0:
        raise TrainingError("not one step was made", where=str(work.out), way_out="Give more groups.")
    if options.use_peft:
        # The adapter is folded in: what is saved loads anywhere without PEFT and without the base.
        model[0].model = model[0].model.merge_and_unload()
    if trainer.args.should_save:
        save_reranker(model, work.out / MODEL)
    return {
        **figures,
        "steps": trainer.state.global_step,
        "epochs": round(float(trainer.state.epoch or 0), 4),
        "train_loss": mean_loss(trainer.state.log_history, result.training_loss),
        "train_seconds": round(time.monotonic() - started, 2),
        **summary(trainer.state.log_history, ("loss",)),
    }


def save_reranker(model: CrossEncoder, out: Path) -> None:
    """The whole model, or nothing."""
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(aside), create_model_card=False)
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)


def training_rows(
    groups: Iterable[Mapping[str, Any]], options: RerankerOptions
) -> tuple[Dataset, dict[str, int]]:
    """The groups as query, positive, negatives; where there is a choice it is drawn from seed and place."""
    rows: list[dict[str, Any]] = []
    counts = Counter[str](groups=0, pairs=0, drawn_positives=0, drawn_negatives=0, short_groups=0)
    for place, group in enumerate(groups):
        dice = random.Random(f"{options.seed}/{place}")
        positives, negatives = list(group["pos"]), list(group["neg"])
        if len(positives) > 1:
            counts["drawn_positives"] += 1
            positives = [positives[int(dice.random() * len(positives))]]
        wanted = (options.train_group_size or len(negatives) + 1) - 1
        if len(negatives) > wanted:
            counts["drawn_negatives"] += 1
            keep = sorted(sorted(range(len(negatives)), key=lambda _: dice.random())[:wanted])
            negatives = [negatives[i] for i in keep]
        counts["short_groups"] += len(negatives) < wanted
        counts["groups"] += 1
        counts["pairs"] += 1 + len(negatives)
        rows.append({"query": group["query"], "positive": positives[0], "negatives": negatives})
    if not rows:
        raise DataError(
            "there are no groups to train on", way_out="look at the counts of the stage that made them"
        )
    return Dataset.from_list(rows), dict(counts)


def _trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _count_cut(model: Any, rows: Dataset) -> int:
    limit, cut = model.max_seq_length, 0
    if limit is None:
        return 0
    for row in rows:
        found: Any = row
        pairs = [(found["query"], text) for text in (found["positive"], *found["negatives"])]
        cut += sum(length > limit for length in encode_pairs(model, pairs, cut=False)[1])
    return cut


def _add_lora(model: Any, options: RerankerOptions) -> None:
    from peft import LoraConfig, get_peft_model

    targets = options.lora_target_modules
    set_seed(options.seed)  # the adapter's first values depend on the seed alone
    config = LoraConfig(
        task_type="SEQ_CLS",  # keeps the scoring head trainable, in full
        r=options.lora_r,
        lora_alpha=options.lora_alpha,  # pyright: ignore[reportArgumentType] PEFT takes floats
        lora_dropout=options.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(options.lora_modules_to_save) or None,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )
    model[0].model = get_peft_model(model[0].model, config)
