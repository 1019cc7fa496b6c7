"""Ends unlearning when the model collapses: what it should still know becomes unlikely, or its answers gibberish."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from data.errors import TrainingError
from data.jsonl import replacing
from trainers.config import GenerationOptions, WatchOptions
from trainers.engine.logprobs import sums
from trainers.engine.scoring import score
from trainers.forgetting.batches import EpochSampler, probe_layout
from trainers.forgetting.prepare import UnlearnRows
from trainers.losses.inputs import average
from trainers.models import save_policy
from trainers.sampling.generate import generate
from trainers.work import Work

GRAM = 4
LAST_GOOD = "last-good"
"""The folder of the last policy that was measured and found whole."""


@dataclass(frozen=True)
class Measured:
    """What one measurement found."""

    step: int
    utility: float | None
    """Mean over the probe's answers of exp(mean token log-probability); None where only prompts are known."""
    repetition: float
    """Share of 4-grams of tokens in greedy answers that stood before in the same answer."""
    entropy: float
    """Nats, of the next token, mean over the greedy answers' tokens."""


class Watch:
    """Measures the model as it goes, keeps the last good one, and decides when to stop."""

    def __init__(self, options: WatchOptions, rows: UnlearnRows, work: Work, name: str) -> None:
        self.options, self.work, self.name = options, work, name
        probe: Any = rows.probe
        self.rows: list[Any] = [probe[i] for i in range(min(len(probe), options.rows))]
        self.answered = rows.answered
        self.start: Measured | None = None
        self.last: Measured | None = None
        self.good: Measured | None = None
        self.collapsed: str | None = None
        self.kept = work.scratch / LAST_GOOD

    def callback(self, trainer: Any) -> TrainerCallback:
        return _Watcher(self, trainer)

    def begin(self, trainer: Any) -> None:
        """Measure what everything is compared with; `trainer.model` must hold the starting policy."""
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            self.work.choose("watch", "off", "it has not been tried under FSDP and DeepSpeed")
            return
        self.start = self.last = self.measure(trainer)
        self.work.say(f"watching {len(self.rows)} probe rows: {_words(self.start)}")
        self._recall()

    def _recall(self) -> None:
        """What an earlier attempt of this stage kept."""
        file = self.kept / "measured.json"
        if file.exists():
            self.good = Measured(**json.loads(file.read_text(encoding="utf-8")))

    def after_step(self, trainer: Any, control: Any) -> None:
        step = trainer.state.global_step
        due = step % self.options.every == 0 or control.should_save or step >= trainer.state.max_steps
        if self.start is None or not due:
            return
        self.last = found = self.measure(trainer)
        figures = {k: v for k, v in asdict(found).items() if v is not None and k != "step"}
        if trainer.args.should_save:
            self.work.log({"event": "watched", "step": step, **{f"watch/{k}": v for k, v in figures.items()}})
        why = self.verdict(found)
        if why is None:
            self.good = found
            self._keep(trainer)
            return
        self.collapsed = f"step {step}: {why}"
        # A checkpoint of it would be what the next attempt goes on from.
        control.should_save = False
        control.should_training_stop = True

    def verdict(self, found: Measured) -> str | None:
        """Why the model has collapsed; None when it has not."""
        start, limits = self.start, self.options
        assert start is not None
        fell = 0.0
        if found.utility is not None and start.utility:
            fell = 1 - found.utility / start.utility
            if not fell <= limits.max_utility_drop:
                return (
                    f"probe answers have {found.utility:.3g} of probability per token, {start.utility:.3g} at the "
                    f"start: {fell:.0%} lost, max_utility_drop is {limits.max_utility_drop:.0%}"
                )
        rise = found.repetition - start.repetition
        if not rise <= limits.max_repetition:
            return (
                f"{found.repetition:.0%} of the 4-grams in greedy answers are repeated, {start.repetition:.0%} at the "
                f"start, max_repetition allows a rise of {limits.max_repetition:.0%}"
            )
        # A model that learns the retain rows grows surer too: it is no collapse unless they became less likely.
        if fell > 0 and not found.entropy >= limits.min_entropy * start.entropy:
            return (
                f"the next token's entropy is {found.entropy:.3g} nats, {start.entropy:.3g} at the start, "
                f"min_entropy is {limits.min_entropy:.0%} of that"
            )
        return None

    def measure(self, trainer: Any) -> Measured:
        """Draws no random number and changes nothing, so that a run with it is the run without it."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            with torch.no_grad(), trainer.accelerator.autocast():
                utility = self._utility(trainer, model) if self.answered else None
                repetition, entropy = self._answers(trainer, model)
        finally:
            for module in training:
                module.training = True
        # One verdict for all processes.
        device = trainer.accelerator.device
        values = torch.tensor([utility or 0.0, repetition, entropy], dtype=torch.float64, device=device)
        agreed = trainer.accelerator.reduce(values, reduction="mean").tolist()
        return Measured(trainer.state.global_step, agreed[0] if self.answered else None, *agreed[1:])

    def _utility(self, trainer: Any, model: Any) -> float:
        found: list[float] = []
        size = trainer.args.per_device_train_batch_size
        for at in range(0, len(self.rows), size):
            layout = probe_layout(self.rows[at : at + size], trainer.engine, trainer.batches.pad)
            scored = score(trainer, model, layout.to(trainer.accelerator.device))
            lengths = scored.offsets.diff().to(scored.tokens.device)
            found += average(sums(scored.tokens, scored.offsets), lengths).double().exp().tolist()
        return float(np.mean(found))

    def _answers(self, trainer: Any, model: Any) -> tuple[float, float]:
        """Repetition and entropy of greedy answers to the first prompts."""
        prompts = {str(i): list(row["prompt_ids"]) for i, row in enumerate(self.rows[: self.options.samples])}
        written: dict[str, list[int]] = {}
        how = GenerationOptions(max_new_tokens=self.options.max_new_tokens, generation_engine="prefill")
        quiet = Work(out=self.work.out, say=lambda _: None)
        generate(
            model,
            trainer.loaded.tokenizer,
            prompts,
            how,
            greedy=True,
            on_done=lambda answers: written.update({answer.key: answer.ids for answer in answers}),
            work=quiet,
        )
        entropies: list[torch.Tensor] = []
        for key, ids in written.items():
            both = torch.tensor([prompts[key] + ids], device=trainer.accelerator.device)
            logits = model(input_ids=both, use_cache=False).logits[0, len(prompts[key]) - 1 : -1]
            logps = logits.double().log_softmax(-1)
            entropies.append(-(logps.exp() * logps).sum(-1))
        return repetition(list(written.values())), torch.cat(entropies).mean().item()

    def _keep(self, trainer: Any) -> None:
        if trainer.args.should_save:
            model = trainer.accelerator.unwrap_model(trainer.model)
            save_policy(model, trainer.loaded.tokenizer, trainer.loaded.policy, self.name, self.kept)
            assert self.good is not None
            with replacing(self.kept / "measured.json") as file:
                file.write((json.dumps(asdict(self.good)) + "\n").encode())
        trainer.accelerator.wait_for_everyone()

    def figures(self) -> dict[str, Any]:
        """For the run's record."""
        found: dict[str, Any] = {}
        for when, one in (("start", self.start), ("end", self.good)):
            if one is not None:
                values = {k: v for k, v in asdict(one).items() if v is not None and k != "step"}
                found |= {f"{key}_{when}": value for key, value in values.items()}
        if self.collapsed is not None:
            found |= {"collapsed": self.collapsed, "kept_step": self.good.step if self.good else 0}
        return found

    def refuse_or_keep(self, model: Path, *, main: bool) -> None:
        """Ends a stage whose model has collapsed: with its last good model, or with an error that names it."""
        way_out = (
            "Lower learning_rate or gamma, give retain more weight (alpha), or stop earlier (max_steps)."
        )
        if self.good is None:
            raise TrainingError(
                f"the model has collapsed at {self.collapsed}",
                where=str(self.work.out),
                way_out=f"No step before it was measured and good: write a smaller `every`. {way_out}",
            )
        if self.options.on_collapse == "keep_last_good":
            if main:
                self.kept.rename(model)
            self.work.say(
                f"collapsed at {self.collapsed}; the stage's model is that of step {self.good.step}"
            )
            return
        folder = self.work.out / LAST_GOOD
        if main:
            shutil.rmtree(folder, ignore_errors=True)
            self.kept.rename(folder)
        raise TrainingError(
            f"the model has collapsed at {self.collapsed}",
            where=str(self.work.out),
            way_out=f"The last good model, of step {self.good.step}, is in {folder}; "
            f"`watch: {{on_collapse: keep_last_good}}` ends the stage with it. {way_out}",
        )


def repetition(answers: Sequence[Sequence[int]]) -> float:
    """The share of 4-grams that stood before in the same answer, mean over the answers; 0 for one too short."""
    shares: list[float] = []
    for ids in answers:
        grams = [tuple(ids[i : i + GRAM]) for i in range(len(ids) - GRAM + 1)]
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return float(np.mean(shares)) if shares else 0.0


def _words(found: Measured) -> str:
    utility = "" if found.utility is None else f"probability per token {found.utility:.3g}, "
    return f"{utility}repeated 4-grams {found.repetition:.0%}, entropy {found.entropy:.3g} nats"


class _Watcher(TrainerCallback):
    def __init__(self, watch: Watch, trainer: Any) -> None:
        self.watch, self.trainer = watch, trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.after_step(self.trainer, control)


class EpochTeller(TrainerCallback):
    """Tells the sampler its epoch; accelerate does not reach it in every nesting of samplers, as after a resume."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A fraction of an epoch where training goes on in the middle of one.
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))
