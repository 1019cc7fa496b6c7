"""The two sides: TRL's DPOTrainer and ours, with the same weights, adapter, rows, optimiser and loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from benchmarks.dpo.rows import Row
from data.arrow import write_arrow
from trainers.config import PreferOptions
from trainers.engine.groups import lay_out
from trainers.engine.scoring import score
from trainers.preference import preference_trainer
from trainers.work import LEDGER, Work

BETA = 0.1
RATE = 1e-5
RANK = 16
Step = Callable[[], float]
"""Runs one optimiser step, and returns its loss."""


def perturb(model: Any) -> None:
    """LoRA starts with a zero half, behind which no gradient flows: give both sides the same small one."""
    draw = torch.Generator().manual_seed(1)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name and parameter.requires_grad:
            values = torch.randn(parameter.shape, generator=draw) * 0.02
            parameter.data.copy_(values.to(parameter))


def trl_trainer(
    model: Path, rows: Sequence[Row], folder: Path, *, lora: bool, bf16: bool, precomputed: bool
) -> Any:
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset  # the very columns that TRL makes of text

    config = DPOConfig(
        output_dir=str(folder / "trl"),
        beta=BETA,
        learning_rate=RATE,
        per_device_train_batch_size=max(1, len(rows)),
        max_length=None,
        bf16=bf16,
        gradient_checkpointing=False,
        precompute_ref_log_probs=precomputed,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    adapter = (
        LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=32, target_modules="all-linear")
        if lora
        else None
    )
    dtype = torch.bfloat16 if bf16 and lora else torch.float32
    loaded = AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    made = Tokenised(
        model=loaded,
        args=config,
        train_dataset=Dataset.from_list(list(rows)),
        peft_config=adapter,
        processing_class=tokenizer,
    )
    perturb(made.model)
    return _ready(made)


def our_trainer(
    model: Path, rows: Sequence[Row], folder: Path, *, lora: bool, bf16: bool, engine: str = "tree"
) -> Any:
    """Prepared as a stage prepares it: rows in arrow, reference measured into the store."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    work = Work(out=folder, say=lambda _: None)
    work.scratch.mkdir(exist_ok=True)
    write_arrow(work.scratch / "train.arrow", iter(rows))
    (folder / LEDGER).write_text(json.dumps({"train": {"longest": 0}}))
    options = PreferOptions(
        model=str(model),
        use_peft=lora,
        lora_r=RANK,
        lora_alpha=32,
        beta=BETA,
        learning_rate=RATE,
        per_device_train_batch_size=len(rows),
        gradient_checkpointing=False,
        dtype="bfloat16" if bf16 and lora else "float32",
        bf16=bf16,
        engine=engine,  # pyright: ignore[reportArgumentType]
    )
    made = preference_trainer(options, str(model), work)
    perturb(made.model)
    made.first_loss = 0.0  # the check of the first loss would find, rightly, that policy and reference differ
    return _ready(made)


def _ready(trainer: Any) -> Any:
    trainer.create_optimizer()
    trainer.model = trainer.accelerator.prepare_model(trainer.model)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def trl_step(trainer: Any, batches: Sequence[Sequence[Row]], *, only_answers: bool) -> Step:
    from trainers.engine.completions import completions_only

    reference: dict[int, Row] = {}
    if trainer.precompute_ref_logps:
        for row in trainer.train_dataset:
            reference[hash(tuple(row["chosen_ids"]))] = row
        batches = [[reference[hash(tuple(row["chosen_ids"]))] for row in batch] for batch in batches]

    def step() -> float:
        trainer.current_gradient_accumulation_steps = len(batches)
        loss = 0.0
        with completions_only() if only_answers else contextlib.nullcontext():
            for batch in batches:
                inputs = trainer.data_collator(list(batch))
                loss += float(trainer.training_step(trainer.model, inputs, None))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return loss

    return step


def our_step(trainer: Any, batches: Sequence[Sequence[Row]], *, stored: bool) -> Step:
    """Without the store, the reference of the rows is measured in the step, as their first epoch does it."""

    def step() -> float:
        loss = 0.0
        if not stored:
            for batch in batches:
                _measure(trainer, batch)
        inputs = [trainer.data_collator(list(batch)) for batch in batches]
        device = trainer.accelerator.device
        samples, _ = trainer.get_batch_samples(iter(inputs), len(inputs), device)
        for one in samples:
            loss += float(trainer.training_step(trainer.model, one, None))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return loss

    return step


def _measure(trainer: Any, batch: Sequence[Row]) -> torch.Tensor:
    """The reference's forward: the model without the adapter that is trained."""
    groups = [
        (row["prompt_ids"], row.get("completions") or [row["chosen_ids"], row["rejected_ids"]])
        for row in batch
    ]
    layout = lay_out(groups, trainer.engine, pad=trainer.data_collator.pad)
    below = getattr(trainer.model, "disable_adapter", contextlib.nullcontext)
    with torch.no_grad(), below():
        return score(trainer, trainer.model, layout.to(trainer.accelerator.device)).tokens


def gradients(trainer: Any) -> dict[str, torch.Tensor]:
    """Of the adapter, or of all weights, in double precision; cleared afterwards."""
    found = {
        name.removeprefix("base_model.model."): parameter.grad.detach().double().clone()
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }
    trainer.model.zero_grad()
    return found


def naive_gradients(model_folder: Path, trainer: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """By the definition, pair by pair, in double precision: full logits, log_softmax, no trainer."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(model_folder), dtype=torch.float64)
    if hasattr(trainer.model, "peft_config"):
        model = get_peft_model(model, trainer.model.peft_config["default"])
    model.to(trainer.accelerator.device).eval()
    values = dict(trainer.model.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.data.copy_(values[name].data)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def log_prob(prompt: list[int], answer: list[int]) -> torch.Tensor:
        ids = torch.tensor([prompt + answer], device=trainer.accelerator.device)
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).sum()

    for row in rows:
        sides = (row["chosen_ids"], row["rejected_ids"])
        with torch.no_grad(), getattr(model, "disable_adapter", contextlib.nullcontext)():
            reference = [log_prob(row["prompt_ids"], side) for side in sides]
        for parameter in learning:  # PEFT switches them off with the adapter, and not on again
            parameter.requires_grad_(True)
        policy = [log_prob(row["prompt_ids"], side) for side in sides]
        margin = (policy[0] - reference[0]) - (policy[1] - reference[1])
        # Pair by pair: the graph of all of them in double precision would not fit.
        (-torch.nn.functional.logsigmoid(BETA * margin) / len(rows)).backward()
    return {
        name.removeprefix("base_model.model."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Relative distance of two gradients, over all parameters together."""
    if one.keys() != other.keys():
        raise RuntimeError(f"gradients of other parameters: {sorted(one.keys() ^ other.keys())[:3]}")
    gap = sum(float((one[name] - other[name]).square().sum()) for name in one)
    return (gap / sum(float(value.square().sum()) for value in other.values())) ** 0.5
