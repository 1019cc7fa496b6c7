"""One measurement of a model on its probe: greedy answers and what their tokens' distributions look like."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainers.config import GenerationOptions
from trainers.engine.groups import lay_out
from trainers.engine.logprobs import causal_lm, sums
from trainers.engine.scoring import score
from trainers.losses.inputs import average
from trainers.sampling.generate import generate
from trainers.training.watch_config import WatchOptions
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


def measure(trainer: Any, probe: Probe, options: WatchOptions, work: Work) -> Measured:
    """Draws no random number and changes nothing, so that a run with it is the run without it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), trainer.accelerator.autocast():
            found = _answers(trainer, model, probe, options, work)
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


def _answers(trainer: Any, model: Any, probe: Probe, options: WatchOptions, work: Work) -> dict[str, float]:
    """Repetition of the greedy answers, and of their tokens' distributions entropy, log Z and attention logits."""
    prompts = {str(i): prompt for i, prompt in enumerate(probe.prompts)}
    written: dict[str, list[int]] = {}
    how = GenerationOptions(max_new_tokens=options.max_new_tokens, generation_engine="prefill")
    generate(
        model,
        trainer.loaded.tokenizer,
        prompts,
        how,
        greedy=True,
        on_done=lambda answers: written.update({answer.key: answer.ids for answer in answers}),
        work=Work(out=work.out, say=lambda _: None),
    )
    entropies: list[torch.Tensor] = []
    squares: list[torch.Tensor] = []
    with looking(model) as largest:
        # One text at a time: its logits are all that exists of [tokens, vocabulary], and nothing is padded.
        for key, ids in written.items():
            both = torch.tensor([[*prompts[key], *ids]], device=trainer.accelerator.device)
            logits = _logits(model, both, len(ids)).double()
            normaliser = logits.logsumexp(-1)
            logps = logits - normaliser[:, None]
            entropies.append(-(logps.exp() * logps).sum(-1))
            squares.append(normaliser**2)
    found = {
        "repetition": repetition(list(written.values())),
        "entropy": torch.cat(entropies).mean().item(),
        "log_z_squared": torch.cat(squares).mean().item(),
    }
    return found if largest.value is None else {**found, "attention_logits": largest.value}


def _logits(model: Any, ids: torch.Tensor, count: int) -> torch.Tensor:
    """Those that predict the last `count` tokens; the prompt's are left out where the model can leave them out."""
    takes = inspect.signature(causal_lm(model).forward).parameters
    fewer = {"logits_to_keep": count + 1} if "logits_to_keep" in takes else {}
    return model(input_ids=ids, use_cache=False, **fewer).logits[0, -count - 1 : -1]
