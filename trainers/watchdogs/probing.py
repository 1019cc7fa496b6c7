"""One measurement of a model on its probe: greedy answers, and the distributions that their tokens came from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainers.config import GenerationOptions
from trainers.engine.groups import lay_out
from trainers.engine.logprobs import sums
from trainers.engine.scoring import score
from trainers.losses.inputs import average
from trainers.sampling.drawing import Row
from trainers.sampling.generate import generate
from trainers.training.watch_config import WatchOptions
from trainers.watchdogs import budget
from trainers.watchdogs.attention_logits import looking
from trainers.watchdogs.rules import Measured, repetition
from trainers.work import Work

Answered = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt, and of one answer to it."""


@dataclass(frozen=True)
class Probe:
    """What is measured: the same texts each time."""

    prompts: Sequence[Sequence[int]]
    """Answered greedily."""
    useful: Sequence[Answered] = ()
    """Answers that are to stay likely."""
    chosen: Sequence[Answered] = ()
    """Better and worse answers, for a loss that has no reference to hold them against."""
    rejected: Sequence[Answered] = ()

    @property
    def read(self) -> int:
        """Answers, or pairs of them, that are read and not written."""
        return len(self.useful or self.chosen)

    def cut(self, size: budget.Size) -> Probe:
        """A part of it, spread over the whole."""
        rows = [_spread(one, size.rows) for one in (self.useful, self.chosen, self.rejected)]
        return Probe(_spread(self.prompts, size.prompts), *rows)


def _spread(whole: Sequence[Any], count: int) -> Sequence[Any]:
    return [whole[i * len(whole) // count] for i in range(count)] if whole else whole


def affordable(trainer: Any, probe: Probe, options: WatchOptions, fewest: int) -> budget.Plan | None:
    """How often this stage is measured, and on how much of the probe."""
    args, weights = trainer.args, sum(p.numel() for p in trainer.model.parameters())
    layers = getattr(trainer.model.config.get_text_config(), "num_hidden_layers", 0)
    floor = budget.least(args.device.type, layers, weights)
    whole = budget.Size(len(probe.prompts), options.most_tokens, probe.read)
    smallest = budget.Size(
        options.samples or budget.PROMPTS, options.max_new_tokens or budget.TOKENS, budget.ROWS
    )
    prompt = _mean([len(one) for one in probe.prompts])
    sides = [[len(prompt) + len(answer) for prompt, answer in one] for one in _sides(probe)]
    row = sum(_mean(one) for one in sides)
    batch = args.per_device_train_batch_size * _row_tokens(trainer.train_dataset)
    step = budget.step_cost(batch, args.gradient_accumulation_steps, floor)
    return budget.plan(
        trainer.state.max_steps,
        fewest,
        step,
        whole,
        smallest,
        lambda size: budget.probe_cost(size, prompt, row, floor),
    )


def _sides(probe: Probe) -> list[Sequence[Answered]]:
    return [one for one in (probe.useful, probe.chosen, probe.rejected) if one]


def _mean(lengths: Sequence[int]) -> float:
    return sum(lengths) / len(lengths) if lengths else 0.0


def _row_tokens(rows: Any) -> float:
    """Tokens of a training row, its prompt counted once: of up to 64, spread over the data."""
    found = [rows[i] for i in range(0, len(rows), max(1, len(rows) // 64))]
    return _mean(
        [
            sum(len(ids) for name, ids in row.items() if name.endswith("_ids"))
            + sum(len(ids) for ids in row.get("completions", ()))
            for row in found
        ]
    )


def pair_probe(rows: Any, size: int, *, answers: bool) -> Probe:
    """From rows of any preference kind, spread over the data: different prompts, and with `answers` a pair of each."""
    found: dict[tuple[int, ...], Mapping[str, Any]] = {}
    step = max(1, len(rows) // size)
    # The spread first, then whatever is left, until there are enough different prompts.
    for place in itertools.chain(range(0, len(rows), step), range(len(rows))):
        if len(found) == size:
            break
        row = rows[place]
        found.setdefault(tuple(row["prompt_ids"]), row)
    prompts = [list(prompt) for prompt in found]
    if not answers:
        return Probe(prompts)
    both = [_pair(row) for row in found.values()]
    sides = [[(prompt, pair[side]) for prompt, pair in zip(prompts, both, strict=True)] for side in (0, 1)]
    return Probe(prompts, chosen=sides[0], rejected=sides[1])


def _pair(row: Mapping[str, Any]) -> tuple[Sequence[int], Sequence[int]]:
    if "pairs" in row:
        better, worse = row["pairs"][0]
        return row["completions"][better], row["completions"][worse]
    return row["chosen_ids"], row["rejected_ids"]


def measure(trainer: Any, probe: Probe, max_new_tokens: int, work: Work) -> Measured:
    """Draws no random number and changes nothing, so that a run with it is the run without it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), trainer.accelerator.autocast():
            found = _answers(trainer, model, probe, max_new_tokens, work)
            if probe.useful:
                found["utility"] = _per_token(trainer, model, probe.useful).exp().mean().item()
            if probe.chosen:
                found["chosen_logps"] = _per_token(trainer, model, probe.chosen).mean().item()
                found["rejected_logps"] = _per_token(trainer, model, probe.rejected).mean().item()
    finally:
        for module in training:
            module.training = True
    # One verdict for all processes.
    values = torch.tensor(list(found.values()), dtype=torch.float64, device=trainer.accelerator.device)
    agreed = trainer.accelerator.reduce(values, reduction="mean").tolist()
    return Measured(trainer.state.global_step, **dict(zip(found, agreed, strict=True)))


def _per_token(trainer: Any, model: Any, rows: Sequence[Answered]) -> torch.Tensor:
    """The mean token log-probability of each answer."""
    found: list[torch.Tensor] = []
    size = trainer.args.per_device_train_batch_size
    for at in range(0, len(rows), size):
        groups = [(prompt, [answer]) for prompt, answer in rows[at : at + size]]
        layout = lay_out(groups, trainer.engine, pad=trainer.batches.pad)
        scored = score(trainer, model, layout.to(trainer.accelerator.device))
        lengths = scored.offsets.diff().to(scored.tokens.device)
        found.append(average(sums(scored.tokens, scored.offsets), lengths).double())
    return torch.cat(found)


def _answers(trainer: Any, model: Any, probe: Probe, max_new_tokens: int, work: Work) -> dict[str, float]:
    """Repetition of the greedy answers; entropy and log Z of the distributions their tokens came from; and the largest
    attention logit, while the prompts are read."""
    prompts = {str(i): prompt for i, prompt in enumerate(probe.prompts)}
    written: dict[str, list[int]] = {}
    entropies: list[torch.Tensor] = []
    squares: list[torch.Tensor] = []

    def see(rows: Sequence[Row], logits: torch.Tensor) -> None:
        logits = logits[[not row.over for row in rows]]
        normaliser = logits.logsumexp(-1)
        logps = logits - normaliser[:, None]
        entropies.append(-(logps.exp() * logps).sum(-1).double())
        squares.append(normaliser.double() ** 2)

    with looking(model) as largest:
        generate(
            model,
            trainer.loaded.tokenizer,
            prompts,
            GenerationOptions(max_new_tokens=max_new_tokens, generation_engine="prefill"),
            greedy=True,
            on_done=lambda answers: written.update({answer.key: answer.ids for answer in answers}),
            work=Work(out=work.out, say=lambda _: None),
            seen=see,
        )
    found = {
        "repetition": repetition(list(written.values())),
        "entropy": torch.cat(entropies).mean().item(),
        "log_z_squared": torch.cat(squares).mean().item(),
    }
    return found if largest.value is None else {**found, "attention_logits": largest.value}
