"""The watchdogs of one stage: figures of each step and measurements every few, against rules; warn, stop, roll back."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from trainers.training import checkpoints
from trainers.training.watch_config import WatchOptions
from trainers.watchdogs.budget import Plan
from trainers.watchdogs.going_back import GoingBack
from trainers.watchdogs.probing import Probe, affordable, measure
from trainers.watchdogs.rules import Firing, Measured, Reading, finite, readings
from trainers.watchdogs.state import WatchState, read_state, write_state
from trainers.watchdogs.steps import StepFigures
from trainers.watchdogs.words import seen, way_out
from trainers.work import Work

RULES = (
    "chosen_drop", "both_fall", "saturated", "gradient_spike", "gradient_rms",
    "attention_logits", "log_z", "entropy", "repetition", "utility_drop",
)  # fmt: skip
PROBED = frozenset({"attention_logits", "log_z", "entropy", "repetition", "utility_drop"})
TENTH = 10
"""Steps between two looks at the gradients, besides those at a measurement."""
AFFORDABLE = 2 * 2**30
"""Bytes of trained weights and their optimiser that a checkpoint at each measurement may have."""


class Watchdogs:
    """Everything that looks after one stage. Its trainer tells it each batch and each gradient norm."""

    def __init__(self, options: WatchOptions, probe: Probe, work: Work, *, forgets: bool = False) -> None:
        self.options, self.work, self.forgets = options, work, forgets
        self.whole = self.probe = probe
        self.rules = {name: rule for name in RULES if (rule := options.rule(name)) is not None}
        self.state = WatchState()
        self.steps = StepFigures(self.rules, self.state)
        self.back = GoingBack(options, work)
        self.every: int | None = None
        self.max_new_tokens = options.most_tokens
        self.off = False
        self.checkpoint_each = False
        self.ended: str | None = None
        """Why the stage was stopped."""
        self.seconds = 0.0
        """Spent on measuring, in this attempt."""

    # ------------------------------------------------------------ what the trainer calls

    def callback(self, trainer: Any) -> TrainerCallback:
        return _Watcher(self, trainer)

    def begin(self, trainer: Any) -> None:
        """Before the first step of a pass: take up what the checkpoint kept, or measure what all is held against."""
        self.back.fired, self.back.target = [], None
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            self.off = True
            self.work.choose("watch", "off", "it has not been tried under FSDP and DeepSpeed")
            return
        kept = self.back.resumed
        self.state = WatchState() if kept is None else read_state(kept)
        self.steps = StepFigures(self.rules, self.state)
        self.back.lower(trainer, self.state)
        self._leave_room(trainer.model.config.get_text_config())
        self._settle(trainer)
        if self.every is None:
            return
        self.checkpoint_each = self._affordable(trainer)
        if self.state.start is None:
            self.state.start = self._measure(trainer)
            self.work.say(f"watching every {self.every} steps: {_words(self.state.start)}")

    def _leave_room(self, config: Any) -> None:
        """Only prompts that can be answered within the positions the model was made for."""
        most = getattr(config, "max_position_embeddings", None) or math.inf
        prompts = self.whole.prompts
        fit = [one for one in prompts if len(one) and len(one) + self.options.most_tokens <= most]
        if len(fit) < len(prompts):
            self.work.say(
                f"watching {len(fit)} of {len(prompts)} prompts: the others leave no room for an answer"
            )
        self.whole = replace(self.whole, prompts=fit)

    def _settle(self, trainer: Any) -> None:
        """How often is measured, and on how much."""
        self.every, self.probe = self.options.every, self.whole
        if not (PROBED & self.rules.keys() or self.whole.chosen) or not self.whole.prompts:
            self.every = None
        elif self.every is None:
            # Forgetting is quicker than aligning, and collapse nearer.
            fewest = 10 if self.forgets else 20
            plan = affordable(trainer, self.whole, self.options, fewest)
            if plan is not None:
                self.every, self.max_new_tokens = plan.every, plan.size.tokens
                self.probe = self.whole.cut(plan.size)
            self._say_how_often(plan, fewest, trainer.state.max_steps)

    def _say_how_often(self, plan: Plan | None, fewest: int, steps: int) -> None:
        if plan is not None:
            size = plan.size
            rows = f", and {size.rows} that are read" if size.rows else ""
            why = (
                f"{plan.measurements} measurements of {size.prompts} answers of {size.tokens} tokens{rows}: "
                f"{plan.share:.1%} of the stage"
            )
            self.work.choose("watch.every", plan.every, why)
        elif steps >= fewest:
            self.work.choose(
                "watch.every", "never", "of so short a stage two measurements would be too large a part"
            )

    def _affordable(self, trainer: Any) -> bool:
        if self.options.checkpoints != "auto":
            return self.options.checkpoints == "measured"
        trained = sum(
            p.numel() * (p.element_size() + 8) for p in trainer.model.parameters() if p.requires_grad
        )
        small = trained <= AFFORDABLE
        self.work.choose(
            "watch.checkpoints",
            "measured" if small else "saved",
            f"{trained / 2**20:,.1f} MiB each; where they are large, save_steps alone says when",
        )
        return small

    def gradient(self, trainer: Any) -> None:
        """Before the optimiser's step, of the gradients as it will get them."""
        step = trainer.state.global_step + 1
        if not self.off and (step % TENTH == 0 or self._due(step, trainer.state.max_steps)):
            self.steps.gradients(trainer)

    def after_step(self, trainer: Any, control: Any) -> None:
        if self.off:
            return
        step = trainer.state.global_step
        found = self.steps.finish(trainer)
        start = self.state.start
        if start is not None and self._due(step, trainer.state.max_steps):
            now = self._measure(trainer)
            found |= readings(self.rules, now, start, forgets=self.forgets)
            told = {f"watch/{name}": value for name, value in now.figures().items()}
            if trainer.args.should_save:
                self.work.log({"event": "watched", "step": step, **told})
            self.state.last = now
        for name, value in self.steps.figures.items():
            trainer._metrics["train"][f"watch/{name}"].append(value)
        self._judge(trainer, step, found, control)

    def _due(self, step: int, last: int) -> bool:
        return self.every is not None and (step % self.every == 0 or step >= last)

    def _measure(self, trainer: Any) -> Measured:
        began = time.perf_counter()
        found = measure(trainer, self.probe, self.max_new_tokens, self.work)
        self.seconds += time.perf_counter() - began
        return found

    # ------------------------------------------------------------ verdicts

    def _judge(self, trainer: Any, step: int, found: dict[str, Reading], control: Any) -> None:
        acting: list[tuple[str, Reading]] = []
        for name, reading in found.items():
            rule, streak = self.rules[name], self.state.streak(name)
            # Asked before: it says how far back the fault may reach.
            since = streak.quiet + 1
            # A step's own figures are of the weights that it began with, measured ones of those it left.
            of = step - 1 if name in self.steps.figures else step
            if not streak.add(of, reading, rule.patience):
                continue
            if rule.action != "warn":
                acting.append((name, reading))
                continue
            firing = Firing(name, step, finite(reading.value), reading.bound, "warn", since)
            self.state.firings.append(firing)
            self._tell(trainer, firing, reading, "It goes on")
        if acting:
            self._act(trainer, step, acting, control)
        elif self.state.start is not None and self.state.last and self.state.last.step == step:
            good = not any(self.state.streaks[name].count for name in self._looked())
            control.should_save = control.should_save or (good and self.checkpoint_each)

    def _looked(self) -> set[str]:
        """The watches that can end the stage, and have looked."""
        acting = {name for name, rule in self.rules.items() if rule.action != "warn"}
        return acting & self.state.streaks.keys()

    def good_until(self) -> int:
        """The last step at which nothing that can end the stage was at fault, or could have been unseen."""
        return min((self.state.streaks[name].quiet for name in self._looked()), default=0)

    def _act(self, trainer: Any, step: int, acting: list[tuple[str, Reading]], control: Any) -> None:
        """One stops for all; several that fire at once are one fault, told each."""
        since = self.good_until() + 1
        good = self.back.good(since - 1, trainer.accelerator)
        asked = {self.rules[name].action for name, _ in acting}
        again = asked == {"roll_back"} and good is not None and self.back.left()
        for name, reading in acting:
            firing = Firing(
                watch=name,
                step=step,
                value=finite(reading.value),
                limit=reading.bound,
                action="roll_back" if again else "stop",
                since=since,
                to=None if good is None else checkpoints.step_of(good),
            )
            self.back.fired.append(firing)
            self.ended = self.ended or f"step {step}: {seen(name, reading)}"
            self._tell(trainer, firing, reading, self.back.told(firing, asked))
        self.back.target = good
        # A checkpoint of it would be what the next attempt goes on from.
        control.should_save = False
        control.should_training_stop = True

    def _tell(self, trainer: Any, firing: Firing, reading: Reading, what_now: str) -> None:
        if not trainer.args.should_save:
            return
        self.work.log({"event": "watchdog", **firing.to_json()})
        out = way_out(firing.watch, forgets=self.forgets)
        since = "" if firing.since == firing.step else f" (since step {firing.since} at most)"
        line = f"watchdog {firing.watch}, step {firing.step}: {seen(firing.watch, reading)}{since}. {what_now}. {out}"
        self.work.say(line)

    # ------------------------------------------------------------ what the loop calls

    def recall(self) -> None:
        """Before an attempt looks for its newest checkpoint."""
        self.back.recall()

    def resume(self, checkpoint: Path | None) -> None:
        """Before a pass of training."""
        self.back.resumed = checkpoint

    def again(self, trainer: Any) -> Path | None:
        """After a pass: the checkpoint to go on from; None when training is over. A stage that was stopped has its
        last good model then."""
        if self.back.pending:
            self.ended = None
            return self.back.roll_back(trainer)
        if self.back.fired:
            self.state = self.back.keep_good(trainer, forgets=self.forgets)
        return None

    def save(self, folder: Path) -> None:
        """Into a checkpoint that is about to be sealed."""
        if not self.off:
            write_state(self.state, folder)

    def spared(self) -> int | None:
        """The newest checkpoint up to this step must not be rotated away."""
        return None if self.off else self.good_until()

    def figures(self) -> dict[str, Any]:
        """For the run's record."""
        if self.off:
            return {}
        acted = [firing for group in [*self.back.rolled, self.back.fired] for firing in group]
        told = sorted([*acted, *self.state.firings], key=lambda firing: firing.step)
        found: dict[str, Any] = {"watchdogs": [firing.to_json() for firing in told]}
        if self.state.start is not None:
            found["watch_seconds"] = round(self.seconds, 2)
            for when, one in (("start", self.state.start), ("end", self.state.last)):
                if one is not None:
                    found |= {f"{name}_{when}": value for name, value in one.figures().items()}
        if self.back.kept is not None:
            found["kept_step"] = self.back.kept
        return found


def _words(found: Measured) -> str:
    parts = {
        "utility": "probability per token {:.3g}",
        "repetition": "repeated 4-grams {:.0%}",
        "entropy": "entropy {:.3g} nats",
        "attention_logits": "largest attention logit {:.3g}",
    }
    known = found.figures()
    return ", ".join(words.format(known[name]) for name, words in parts.items() if name in known)


class _Watcher(TrainerCallback):
    def __init__(self, watch: Watchdogs, trainer: Any) -> None:
        self.watch, self.trainer = watch, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.begin(self.trainer)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.gradient(self.trainer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.after_step(self.trainer, control)
