"""One optimiser step of the preference trainer, and the same step by `tests/naive.py`: benches that cells share."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from data.ledger import LedgerLimits
from data.sources import Mixture
from tests import naive
from tests.training import HOW, write_rows
from trainers.config import PreferOptions
from trainers.engine.batches import JudgedBatches, PairBatches
from trainers.losses.objective import Objective
from trainers.work import Work

SCALE = 8.0
"""lora_alpha over lora_r below."""
ADAPTED = {**HOW["lora"], "lora_alpha": 4 * SCALE}
HOWS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": ADAPTED,
    "qlora": {**ADAPTED, "load_in_4bit": True},
    "qlora-nested": {**ADAPTED, "load_in_4bit": True, "use_bnb_nested_quant": True},
    "qlora-stored": {**ADAPTED, "load_in_4bit": True, "bnb_4bit_quant_storage": "float32"},
    "dora": {**ADAPTED, "use_dora": True},
}

ANSWERS = (
    ("Two and two?", "Four.", "It is five, I think, or six.", 1.0),
    ("Two and two?", "Four.", "No.", 0.25),
    ("Name a colour.", "Blue, as the sky is at noon in the summer.", "Seven", 2.0),
    ("Name a colour.", "Green", "Blue, as the sky is at noon in the summer.", 1.5),
    ("Say yes.", "Yes!", "I would rather not say anything at all today.", 0.5),
    ("What is a heliograph?", "A mirror that sends messages by light, over miles.", "A plane.", 3.0),
    ("Two and two?", "Four, of course; it always was four.", "Four.", 0.0),
    ("Why?", "Because.", "Because.", 1.0),
)


def pair_rows() -> list[dict[str, Any]]:
    """Ragged answers, prompts that come again, an answer on both sides, and a pair of the same answer twice."""
    return [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "agreement": weight,
        }
        for prompt, chosen, rejected, weight in ANSWERS
    ]


def judged_rows() -> list[dict[str, Any]]:
    """Answers of which two in three are wanted."""
    return [
        {
            "prompt": row["prompt"],
            "completion": row["chosen" if i % 3 else "rejected"],
            "label": bool(i % 3),
            "agreement": row["agreement"],
        }
        for i, row in enumerate(pair_rows())
    ]


def prepared(folder: Path, rows: list[dict[str, Any]], **options: Any) -> tuple[PreferOptions, Work]:
    """A stage's folder with its rows tokenised by the product."""
    from trainers.training.prepare import prepare_pairs

    folder.mkdir(parents=True, exist_ok=True)
    file = write_rows(folder / "rows-in.jsonl", rows)
    work = Work(out=folder, say=lambda _: None)
    given: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "max_steps": 1,
        "max_grad_norm": 0,
        "gradient_checkpointing": False,
    }
    chosen = PreferOptions(model="tiny", **{**given, **options})
    prepare_pairs(chosen, "tiny", Mixture.model_validate(str(file)), None, folder, LedgerLimits(), work)
    return chosen, work


def dataset(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Dataset:
    from trainers.training.prepare import load_rows

    prepared(folder, rows, **options)
    return load_rows(folder)[0]


@functools.cache
def plain_model() -> Any:
    """The model below all of this, in float64."""
    from transformers import AutoModelForCausalLM

    from trainers import aliases

    found = AutoModelForCausalLM.from_pretrained(
        aliases.resolve("tiny"), dtype=torch.float64, attn_implementation="sdpa"
    )
    return wide_norms(found.eval())


def wide_norms(model: Any) -> Any:
    """Llama's norms go by way of float32, whatever the type of the model is."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.variance_epsilon).sqrt()

    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):
            module.forward = types.MethodType(forward, module)
    return model


def frozen_weights(model: Any) -> dict[str, Tensor]:
    """Below the adapters, in float64: those of the file, or what bitsandbytes says that its codes mean."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    found = dict(plain_model().named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            weight: Any = module.weight
            whole = dequantize_4bit(weight.data, weight.quant_state).to(torch.float32)
            found[_plain(name) + ".weight"] = whole.double()
    return {name: weight.detach().clone() for name, weight in found.items()}


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def naive_model(trained: Any) -> naive.Model:
    """Of the weights that the trainer holds; adapters as W + scale * B A, and DoRA's as m * that / its row norms."""
    start = frozen_weights(trained)
    leaves = {name: p for name, p in trained.named_parameters() if p.requires_grad}
    adapted = any(".lora_A." in name for name in leaves)

    def weights(given: Any) -> dict[str, Tensor]:
        if not adapted:
            return dict(given)
        made = dict(start)
        for name, down in given.items():
            if ".lora_A." not in name:
                continue
            below = _plain(name.split(".lora_A.")[0]) + ".weight"
            whole = start[below] + SCALE * given[name.replace(".lora_A.", ".lora_B.")] @ down
            size = given.get(name.replace(".lora_A.default.weight", ".lora_magnitude_vector.default.weight"))
            if size is not None:
                # The norm is held constant for the gradient (arXiv 2402.09353, section 4.3).
                whole = whole * (size / whole.norm(dim=1).detach())[:, None]
            made[below] = whole
        return made

    return naive.Model(plain_model(), leaves, weights, start)


class Bench:
    """A trainer that was built once, moved off its start, and the naive model of the same weights."""

    def __init__(self, folder: Path, how: str, engine: str, **options: Any) -> None:
        from trainers.preference import preference_trainer

        chosen, work = prepared(folder / "pairs", pair_rows(), engine=engine, **HOWS[how], **options)
        self.trainer: Any = preference_trainer(chosen, "tiny", work)
        self.engine = self.trainer.engine
        self.datasets = {"pairs": self.trainer.train_dataset}
        more = {
            "weighted": (pair_rows(), {"weight_column": "agreement"}),
            "judged": (judged_rows(), {"loss_type": "kto"}),
            "judged-weighted": (judged_rows(), {"loss_type": "kto", "weight_column": "agreement"}),
            "grouped": ([*pair_rows(), *pair_rows()[:2]], {"group_by_prompt": True}),
            "grouped-weighted": (
                pair_rows()[:6],
                {"group_by_prompt": True, "weight_column": "agreement"},
            ),
        }
        for name, (rows, given) in more.items():
            self.datasets[name] = dataset(folder / name, rows, **given)
            self.trainer.reference.add(self.datasets[name], name, self.trainer, 4)
        self.move()
        self.plain_model = naive_model(self.trainer.model)

    def move(self) -> None:
        """A start is no test: half of an adapter's gradient is 0 there, and so is every margin."""
        draw = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, p in self.trainer.model.named_parameters():
                if p.requires_grad and p.dim() > 1:
                    size = 0.02 if ".lora_" not in name else 0.05
                    p += size * torch.randn(p.shape, generator=draw)

    def set(self, kind: str, loss: PreferOptions, arguments: dict[str, Any]) -> None:
        """Make the trainer one of another loss."""
        trainer = self.trainer
        config = copy.copy(trainer.args)
        for name, value in arguments.items():
            setattr(config, name, value)
        trainer.loss = Objective(loss, config)
        pad = trainer.batches.pad
        trainer.batches = (
            JudgedBatches(pad)
            if trainer.loss.judged
            else PairBatches(pad, loss.ld_alpha, repeats=not trainer.loss.weighted)
        )
        trainer.batches.engine = self.engine
        trainer.batches.reference = trainer.reference if trainer.loss.needs_reference else None
        trainer.data_collator = trainer.batches

    def step(self, rows: list[list[dict[str, Any]]], checkpointing: bool) -> tuple[float, dict[str, Tensor]]:
        """Loss and gradients of one optimiser step of these micro-batches, through transformers' own parts."""
        trainer, model = self.trainer, self.trainer.model
        if checkpointing:
            kwargs = trainer.args.activation_checkpointing_kwargs
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
        else:
            model.activation_checkpointing_disable()
        trainer.first_loss = 0.0  # not the first step of a run: the model has moved
        model.zero_grad()
        found = [trainer.batches(batch) for batch in rows]
        samples, items = trainer.get_batch_samples(iter(found), len(found), trainer.args.device)
        trainer.current_gradient_accumulation_steps = len(samples)
        loss = sum(trainer.training_step(model, sample, items).item() for sample in samples)
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return loss, grads


def micro_batches(rows: Sequence[Any], accumulation: int) -> list[list[Any]]:
    size = -(-len(rows) // accumulation)
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]


def pairs_of(row: Any, weighted: bool) -> Iterator[naive.Pair]:
    prompt = tuple(row["prompt_ids"])
    if "pairs" in row:
        answers = [(prompt, tuple(ids)) for ids in row["completions"]]
        for (better, worse), weight in zip(row["pairs"], row["weights"], strict=True):
            # Without weights of their own, pairs have the number of their rows as one.
            times = 1 if weighted else int(weight)
            yield from [(answers[better], answers[worse], weight / times)] * times
    else:
        yield (
            (prompt, tuple(row["chosen_ids"])),
            (prompt, tuple(row["rejected_ids"])),
            row.get("weight", 1.0),
        )


def judged_of(row: Any) -> naive.Judged:
    prompt = tuple(row["prompt_ids"])
    other = (prompt, tuple(row["mismatched_ids"])) if "mismatched_ids" in row else None
    return (prompt, tuple(row["completion_ids"])), other, bool(row["label"]), row.get("weight", 1.0)


def by_hand(
    model: naive.Model, how: naive.How, terms: dict[str, float], rows: list[list[Any]], kind: str
) -> tuple[float, dict[str, Tensor]]:
    step = naive.Step(model, how)
    loss = (
        naive.judged_step(step, next(iter(terms)), [[judged_of(row) for row in batch] for batch in rows])
        if kind.startswith("judged")
        else naive.pair_step(
            step,
            terms,
            [[pair for row in batch for pair in pairs_of(row, "weighted" in kind)] for batch in rows],
        )
    )
    return loss.item(), step.gradient(loss)


def far(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative error of a parameter's gradient; one that is nearly 0 is measured by a thousandth of all."""
    assert set(found) == set(expected)
    whole = sum(float(one.norm()) ** 2 for one in expected.values()) ** 0.5
    return max(
        float((found[name].double() - one).norm()) / max(float(one.norm()), 1e-3 * whole, 1e-12)
        for name, one in expected.items()
    )
