"""Unlearning: preference training's loop, engine and reference, with a forget term and a retain term in each step."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback
from trl import DPOConfig

from data.errors import RecipeError, TrainingError
from trainers.config import UnlearnOptions
from trainers.fingerprint import start_identity
from trainers.forgetting.batches import Drawn, EpochSampler, ForgetBatches
from trainers.forgetting.loss import ForgetLoss, split, tolerance
from trainers.forgetting.prepare import UnlearnRows, load_unlearn
from trainers.forgetting.retain_kl import Start, divergence, score_with_states
from trainers.models import below_names, load_policy
from trainers.preference import PreferenceTrainer
from trainers.store.reference import Reference
from trainers.training import checkpoints
from trainers.training.arguments import build, training_arguments
from trainers.training.loop import run_training
from trainers.training.prepare import check_context, longest_row
from trainers.training.watch_config import UnlearnWatch
from trainers.training.watching import Teller
from trainers.watchdogs.guard import Watchdogs
from trainers.watchdogs.probing import Probe
from trainers.work import Work

KEYS = (
    "loss", "loss/forget", "loss/retain", "weights/forget", "logps/forget", "logps/template", "logps/retain",
    "retain_kl",
)  # fmt: skip
FIRST_KL = {False: 1e-3, True: 0.1}
"""Nats per token that the first KL may be, in float32 and in mixed precision: it is 0 but for rounding."""


class UnlearnTrainer(PreferenceTrainer):
    """One forward for the forget and retain rows of a batch; the reference is the policy it starts from."""

    loss: Any
    batches: Any

    def __init__(self, *args: Any, rows: Drawn, **kwargs: Any) -> None:
        self.start: Start | None = None
        self.rows = rows
        self.places = EpochSampler(rows)
        super().__init__(*args, train_dataset=rows.forget, eval_dataset=None, **kwargs)
        self.add_callback(EpochTeller(self.places))

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        super()._precompute_ref_logps(dataset, name, batch_size)
        if self.loss.retain == "kl":
            self.start = Start(self, below_names(self.loaded.policy), self.reference.work)
        return self.rows  # TRL takes nothing but a Dataset at first, and trains on what comes back from here

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.places

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        training = self.model.training  # pyright: ignore[reportOptionalMemberAccess]
        # Before the policy's own forward: the adapter must be on again when gradients are computed.
        below = self.start.states(self, model, inputs["retain_layout"]) if self.start else None
        scored, states = score_with_states(self, model, inputs["layout"])
        read = self.batches.inputs(inputs, scored)
        forget_over, retain_over = split(self.step_totals if training else None)
        forget = self.loss.forget(read, forget_over)
        loss = self.loss.gamma * forget
        parts = {"loss/forget": self.loss.forget(read, None).detach(), **self.loss.figures(read)}
        if below is not None and states is not None:
            tokens = divergence(states, below, self.loss.direction)
            loss = loss + self.loss.alpha * self.loss.kl(tokens, retain_over)
            parts["loss/retain"] = parts["retain_kl"] = tokens.detach().mean()
        elif read.retain is not None:
            loss = loss + self.loss.alpha * self.loss.nll(read.retain, retain_over)
            parts["loss/retain"] = self.loss.nll(read.retain, None).detach()
        # DDP takes the mean of the processes' gradients, and the totals are of all of them.
        loss = loss * (self.accelerator.num_processes if training else 1)
        if scored.aux_loss is not None and self.aux_loss_enabled:
            share = self.current_gradient_accumulation_steps if training else 1
            loss = loss + self.router_aux_loss_coef * scored.aux_loss / share
            parts["aux_loss"] = scored.aux_loss.detach()
        if self.first_loss is None and training and not self.state.global_step:
            self._check_start(parts)
        self._tell(parts, inputs["layout"], "train" if training else "eval")
        return (loss, None) if return_outputs else loss

    def _tell(self, parts: dict[str, torch.Tensor], layout: Any, mode: str) -> None:
        gather = self.accelerator.gather
        for name, value in parts.items():
            self._metrics[mode][name].append(gather(value).mean().item())  # pyright: ignore
        tokens = layout.input_ids.numel() if layout.attention_mask is None else layout.attention_mask.sum()
        seen = gather(torch.as_tensor(tokens, device=layout.input_ids.device)).sum().item()  # pyright: ignore
        self._total_train_tokens += seen // self._tp_size if mode == "train" else 0
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def _check_start(self, parts: dict[str, torch.Tensor]) -> None:
        """While policy and reference are the same model, NPO's and DPO's terms are known, and any KL is 0."""
        self.first_loss = parts["loss/forget"].item()
        args: Any = self.args
        if self.aux_loss_enabled or not args.disable_dropout:
            return
        half = bool(args.bf16 or args.fp16) or next(self.model.parameters()).dtype != torch.float32  # pyright: ignore
        expected = self.loss.start()
        found: list[tuple[str, float, float, float]] = []
        if expected is not None:
            self.expected_first_loss = expected
            found.append(("forget term", self.first_loss, expected, tolerance(expected, half)))
        if "retain_kl" in parts:
            found.append(("retain KL", parts["retain_kl"].item(), 0.0, FIRST_KL[half]))
        for what, value, known, room in found:
            if not abs(value - known) <= room:
                raise TrainingError(
                    f"the first {what} is {value:.6g}; of a policy that is its own reference it is {known:.6g}",
                    where=str(args.output_dir),
                    way_out="Policy and reference are not the same model: dropout that stays on, another kernel or "
                    "number type for one of them, or weights that changed while the reference was measured.",
                )


def train_unlearn(options: UnlearnOptions, start: str, work: Work, *, name: str) -> dict[str, Any]:
    """Train, or go on training, from the newest whole checkpoint; leave the policy in `out/model`."""
    trainer = unlearn_trainer(options, start, work)
    watch = trainer.watch
    metrics = run_training(trainer, trainer.loaded, work, name=name, keep=options.save_total_limit, keys=KEYS)
    metrics["engine"] = trainer.engine
    if trainer.loss.needs_reference:
        metrics |= {
            "reference_gap": trainer.reference.gap,
            "reference_measured": trainer.reference.measured,
            "reference_read": trainer.reference.read_back,
        }
    if trainer.first_loss is not None and math.isfinite(trainer.first_loss):
        metrics["first_forget_loss"] = trainer.first_loss
    if trainer.expected_first_loss is not None:
        metrics["expected_first_forget_loss"] = trainer.expected_first_loss
    if watch is not None and watch.back.fired:
        metrics["collapsed"] = watch.ended
    return metrics


def unlearn_trainer(options: UnlearnOptions, start: str, work: Work) -> UnlearnTrainer:
    """The trainer of the rows that were prepared, its reference measured, before its first step."""
    rows = load_unlearn(work)
    args = training_arguments(
        DPOConfig,
        options,
        work.scratch / checkpoints.FOLDER,
        work,
        beta=options.beta or 0.1,
        max_length=None,  # rows come cut to it
        precompute_ref_log_probs=True,
        # TRL switches dropout off in preference training, the adapter's too, unless it is told not to.
        disable_dropout=options.lora_dropout == 0,
    )
    if args.train_sampling_strategy != "random":
        raise RecipeError(
            "unlearning draws its rows by seed and epoch, and has no other order",
            where="training.train_sampling_strategy",
            way_out="Leave it out.",
        )
    loss = ForgetLoss(options, retain=rows.retain is not None)
    for line in loss.lines():
        work.say(line)
    if loss.retain == "kl":
        work.choose("kl_direction", loss.direction, "the recipe's, or what open-unlearning computes")
    loaded = load_policy(start, options, work, train=options, exact=True, seed=options.seed)
    check_context(loaded.model, work)
    pad: Any = loaded.tokenizer.pad_token_id
    return build(
        UnlearnTrainer,
        loaded=loaded,
        reference=Reference(work, start_identity(start)),
        loss=loss,
        batches=ForgetBatches(pad, kl=loss.retain == "kl"),
        engine=options.engine,
        longest=longest_row(work),
        rows=Drawn(rows.forget, rows.retain, options.seed),
        watch=_watchdogs(options, rows, work),
        args=args,
        callbacks=[Teller(work)],
    )


def _watchdogs(options: UnlearnOptions, rows: UnlearnRows, work: Work) -> Watchdogs | None:
    if not options.watch:
        return None
    watch = UnlearnWatch() if options.watch is True else options.watch
    found: Any = rows.probe
    probe = [found[i] for i in range(min(len(found), watch.rows))]
    prompts = [list(row["prompt_ids"]) for row in probe[: watch.most_samples]]
    answers = [(row["prompt_ids"], row["completion_ids"]) for row in probe] if rows.answered else []
    return Watchdogs(watch, Probe(prompts, useful=answers), work, forgets=True)


class EpochTeller(TrainerCallback):
    """Tells the sampler its epoch; accelerate does not reach it in every nesting of samplers, as after a resume."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A fraction of an epoch where training goes on in the middle of one.
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))
