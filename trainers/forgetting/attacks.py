"""Two attacks on a model that has forgotten: a little fine-tuning on what it forgot, and rounding its weights."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.errors import ModelError
from data.forgetting.tofu import Question
from trainers import policy
from trainers.config import ModelOptions
from trainers.engine import engines
from trainers.engine.groups import Group
from trainers.engine.logprobs import completion_log_probs
from trainers.forgetting.config import RelearnOptions, Requantised
from trainers.forgetting.measure import encode, read_answers
from trainers.forgetting.resampling import interval
from trainers.forgetting.truth import probability
from trainers.models import Loaded, load_policy
from trainers.sampling.prompts import context_of
from trainers.work import Work


def taught_again(count: int, options: RelearnOptions, seed: int) -> list[int]:
    """Numbers of the forget questions that are taught again, the same for every model."""
    order = list(range(count))
    random.Random(f"relearn {seed}").shuffle(order)
    return sorted(order[: max(1, round(options.share * count))])


def relearn(
    start: str, asked: Sequence[Question], options: RelearnOptions, work: Work, *, seed: int, resamples: int
) -> dict[str, Any]:
    """Points of {step, taught, others}, each the forget answers' probability with an interval; and the questions."""
    loaded = plain(start, work)
    model: Any = loaded.model
    if loaded.policy.quantization:
        raise ModelError("quantised weights cannot be taught", where=start, way_out="Merge the model first.")
    torch.manual_seed(seed)
    model.float()  # small steps vanish in the rounding of 16-bit weights
    model.requires_grad_(True)
    engine, why = engines.prepare("auto", model)
    work.choose("engine", engine, why)
    longest = context_of(model)
    groups: list[Group] = []
    for one in asked:
        ids = encode(loaded.tokenizer, one, [one.answer], longest)
        groups.append((ids.prompt, ids.answers))
    chosen = taught_again(len(groups), options, seed)
    taught = [groups[i] for i in chosen]
    others = [group for i, group in enumerate(groups) if i not in set(chosen)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.0)
    dice, queue = random.Random(f"relearning {seed}"), list[Group]()
    curve = [_point(model, 0, taught, others, resamples, seed)]
    for step in range(1, options.steps + 1):
        while len(queue) < options.batch_size:
            queue += dice.sample(taught, len(taught))
        batch, queue = queue[: options.batch_size], queue[options.batch_size :]
        model.train()
        loss = _loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        work.progress(done=step, total=options.steps, unit="steps", loss=loss.item())
        if step % options.every == 0 or step == options.steps:
            curve.append(_point(model, step, taught, others, resamples, seed))
    return {"taught": chosen, "curve": curve}


def _loss(model: Any, batch: list[Group]) -> torch.Tensor:
    """Mean over the answers' tokens."""
    if engines.logprobs.installed(model):
        return -completion_log_probs(model, batch).tokens.mean()
    logps: list[torch.Tensor] = []
    for prompt, answers in batch:
        ids = torch.tensor([[*prompt, *answers[0]]], device=model.device)
        found = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        logps.append(found.gather(1, ids[0, len(prompt) :, None])[:, 0])
    return -torch.cat(logps).mean()


def _point(
    model: Any, step: int, taught: list[Group], others: list[Group], resamples: int, seed: int
) -> dict[str, Any]:
    model.eval()
    found: dict[str, Any] = {"step": step}
    for name, groups in (("taught", taught), ("others", others)):
        if groups:
            known = probability([float(np.mean(answers[0].logps)) for answers in read_answers(model, groups)])
            found[name] = asdict(interval(np.mean, known, resamples=resamples, seed=seed))
    return found


def plain(start: str, work: Work) -> Loaded:
    """The policy with its adapters folded in, where its weights allow it."""
    loaded = load_policy(start, None, work)
    if not loaded.policy.adapters or loaded.policy.quantization:
        return loaded
    model: Any = loaded.model
    merged = model.merge_and_unload(adapter_names=list(model.active_adapters))
    return Loaded(merged, loaded.tokenizer, replace(loaded.policy, adapters=()), loaded.device)


def requantised(start: str, code: Requantised, work: Work) -> Loaded:
    """The policy rounded to fewer bits, its adapters folded in before: as somebody would publish and load it."""
    found = policy.read(start)
    if found.quantization:
        raise ModelError(
            "it is quantised already, and was measured so",
            where=start,
            way_out="Leave it out of `attacks.models`.",
        )
    if found.adapters:
        start = str(_merged(start, work))
    if code == "int8":
        options = ModelOptions(model=start, load_in_8bit=True)
    else:
        options = ModelOptions(model=start, load_in_4bit=True, bnb_4bit_quant_type=code)
    return load_policy(start, options, work)


def _merged(start: str, work: Work) -> Path:
    loaded = plain(start, work)
    folder = work.scratch / "merged"
    shutil.rmtree(folder, ignore_errors=True)
    loaded.model.save_pretrained(str(folder))
    loaded.tokenizer.save_pretrained(str(folder))
    return folder.resolve()
