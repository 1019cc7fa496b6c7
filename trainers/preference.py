"""Preference training: TRL's DPO loop, our losses, and a reference that is the policy training starts from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from data.errors import TrainingError
from trainers import losses
from trainers.config import PreferOptions
from trainers.engine.batches import JudgedBatches, PairBatches
from trainers.engine.scoring import choose_engine, score
from trainers.fingerprint import start_identity
from trainers.losses.objective import Objective
from trainers.models import TRAINED, Loaded, activate, below_names, load_policy
from trainers.store.reference import Reference
from trainers.training import checkpoints
from trainers.training.adapter_types import give_back, trained_types
from trainers.training.arguments import build, training_arguments
from trainers.training.loop import run_training
from trainers.training.pair_metrics import pair_metrics
from trainers.training.prepare import check_context, load_rows, longest_row
from trainers.training.watch_config import PreferWatch
from trainers.training.watching import FiniteLoss, Teller
from trainers.watchdogs.guard import Watchdogs
from trainers.watchdogs.probing import pair_probe
from trainers.work import Work

KEYS = (
    "loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected",
    "rho", "clamped", "saturated",
)  # fmt: skip
STEP0_TOLERANCE = {False: 0.01, True: 0.1}
"""Share of the expected first loss it may be off, in float32 and in mixed precision."""


class PreferenceTrainer(FiniteLoss, checkpoints.SealedCheckpoints, DPOTrainer):
    """TRL's DPOTrainer whose reference is, by construction, the policy that training starts from.

    The reference log-probabilities are taken from the model before its first step and before any checkpoint is
    loaded: there is no second model in memory, and neither a resume nor a restart can move them.
    """

    # Means go over all pairs of an optimiser step, not over those of a micro-batch: see `get_batch_samples`.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        loaded: Loaded,
        reference: Reference,
        loss: Objective,
        batches: PairBatches | JudgedBatches,
        engine: str,
        longest: int,
        watch: Watchdogs | None = None,
        **kwargs: Any,
    ) -> None:
        self.watch = watch
        self.loaded = loaded
        self.reference = reference
        self.loss = loss
        self.batches = batches
        self.engine = "padded"
        self.engine_asked = engine
        self.longest = longest
        self.first_loss: float | None = None
        self.expected_first_loss: float | None = None
        self.step_totals: losses.Totals | None = None
        self.number_types = trained_types(loaded.model)
        super().__init__(
            *args,
            model=loaded.model,
            processing_class=loaded.tokenizer,
            data_collator=batches,  # pyright: ignore[reportArgumentType]
            **kwargs,
        )
        if watch is not None:
            self.add_callback(watch.callback(self))

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # tokenised, cut and counted already

    def _set_signature_columns_if_needed(self) -> None:
        """Our collator knows the columns; none is taken away before it."""
        self._signature_columns = list(self.train_dataset.column_names)  # pyright: ignore

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if name == "train":  # once: TRL measures the training rows first
            self._undo_ref_adapter()
            give_back(self.model, self.number_types)
            self.engine = choose_engine(self.engine_asked, self, self.longest, self.reference.work)
            self.batches.engine = self.engine
        if self.loss.needs_reference:
            self.reference.add(dataset, name, self, batch_size)
            self.batches.reference = self.reference
        return dataset

    def _undo_ref_adapter(self) -> None:
        """Take back the copy that TRL adds to every PEFT model: of the wrong adapter when they are stacked."""
        peft_config = getattr(self.model, "peft_config", {})
        if "ref" in peft_config:
            model: Any = self.model
            model.delete_adapter("ref")
        activate(self.model, below_names(self.loaded.policy), trained=TRAINED in peft_config)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Also adds up what the step's means divide by, over its micro-batches and all processes."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if samples:
            found = [self.batches.totals(batch) for batch in samples]
            summed = torch.stack([torch.stack((one.rows, one.tokens)) for one in found]).sum(dim=0)
            rows, tokens = self.accelerator.reduce(summed.to(device), reduction="sum")  # pyright: ignore
            self.step_totals = losses.Totals(rows, tokens)
        return samples, items

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        training = self.model.training  # pyright: ignore[reportOptionalMemberAccess]
        scored = score(self, model, inputs["layout"])
        read: Any = self.batches.inputs(inputs, scored)
        if isinstance(read, losses.Rows) and read.kl is not None:
            mean: Any = self.accelerator.reduce(read.kl, reduction="mean")
            read = replace(read, kl=mean.clamp(min=0))
            self._metrics["train" if training else "eval"]["kl"].append(mean.clamp(min=0).item())
        weights = inputs["weight"] if self.loss.weighted else None
        over = self.step_totals if training else None
        loss, parts = losses.combine(self.loss.terms, read, self.loss.settings, weights=weights, over=over)
        processes = self.accelerator.num_processes if training else 1
        loss = (
            loss * processes
        )  # DDP takes the mean of the processes' gradients, and the totals are of all of them
        if scored.aux_loss is not None and self.aux_loss_enabled:
            share = self.current_gradient_accumulation_steps if training else 1
            loss = loss + self.router_aux_loss_coef * scored.aux_loss / share
            parts["aux_loss"] = scored.aux_loss.detach()
        if self.first_loss is None and training and not self.state.global_step:
            self._check_first(read, weights)
        if self.watch is not None and training:
            self.watch.steps.batch(self, read)
        pair_metrics(self, scored, read, parts if len(parts) > 1 else {}, inputs)
        return (loss, None) if return_outputs else loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.watch is not None:
            self.watch.steps.norm = norm
        return norm

    def _check_first(self, read: Any, weights: torch.Tensor | None) -> None:
        """While policy and reference are the same model, most losses have a value known beforehand."""
        with torch.no_grad():
            mean, _ = losses.combine(self.loss.terms, read, self.loss.settings, weights=weights)
        self.first_loss = mean.item()
        expected = losses.step0(self.loss.terms, self.loss.settings)
        args: Any = self.args
        if expected is None or self.aux_loss_enabled or not args.disable_dropout:
            expected = None  # Dropout and a router's loss come on top of it.
        self.expected_first_loss = expected
        told = {"first_loss": self.first_loss} | (
            {} if expected is None else {"expected_first_loss": expected}
        )
        self.reference.work.log({"event": "first_loss", "step": 0, **told})
        if expected is None:
            return
        tolerance = STEP0_TOLERANCE[bool(args.bf16 or args.fp16)] * max(1.0, abs(expected))
        if not abs(self.first_loss - expected) <= tolerance:
            raise TrainingError(
                f"the first loss is {self.first_loss:.6g}; of a policy that is its own reference it is {expected:.6g}",
                where=str(self.args.output_dir),
                way_out="Policy and reference are not the same model: dropout that stays on, another kernel or "
                "number type for one of them, or weights that changed while the reference was measured.",
            )


def train_preference(options: PreferOptions, start: str, work: Work, *, name: str) -> dict[str, Any]:
    """Train, or go on training, from the newest whole checkpoint; leave the policy in `out/model`."""
    trainer = preference_trainer(options, start, work)
    keep, reference = options.save_total_limit, trainer.reference
    metrics = run_training(trainer, trainer.loaded, work, name=name, keep=keep, keys=KEYS)
    metrics["engine"] = trainer.engine
    if trainer.loss.needs_reference:
        metrics["reference_gap"] = reference.gap
        metrics["reference_measured"] = reference.measured
        metrics["reference_read"] = reference.read_back
    if trainer.first_loss is not None:
        metrics["first_loss"] = trainer.first_loss
    if trainer.expected_first_loss is not None:
        metrics["expected_first_loss"] = trainer.expected_first_loss
    return metrics


def preference_trainer(options: PreferOptions, start: str, work: Work) -> PreferenceTrainer:
    """The trainer of the rows that were prepared, its reference measured, before its first step."""
    train_rows, eval_rows = load_rows(work.out)
    args = training_arguments(
        DPOConfig,
        options,
        work.scratch / checkpoints.FOLDER,
        work,
        beta=options.beta,
        ld_alpha=options.ld_alpha,
        max_length=None,  # rows come cut to it
        precompute_ref_log_probs=True,
        # TRL switches dropout off in preference training, the adapter's too, unless it is told not to.
        disable_dropout=options.lora_dropout == 0,
    )
    loss = Objective(options, args)
    loss.tell(work)
    loaded = load_policy(start, options, work, train=options, exact=True, seed=options.seed)
    check_context(loaded.model, work)
    pad: Any = loaded.tokenizer.pad_token_id
    return build(
        PreferenceTrainer,
        loaded=loaded,
        reference=Reference(work, start_identity(start)),
        loss=loss,
        batches=JudgedBatches(pad)
        if loss.judged
        else PairBatches(pad, options.ld_alpha, repeats=not loss.weighted),
        engine=options.engine,
        longest=longest_row(work),
        watch=_watchdogs(options, loss, train_rows, eval_rows, work),
        args=args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        callbacks=[Teller(work)],
    )


def _watchdogs(
    options: PreferOptions, loss: Objective, rows: Any, eval_rows: Any, work: Work
) -> Watchdogs | None:
    if not options.watch:
        return None
    watch = PreferWatch() if options.watch is True else options.watch
    # Held-out prompts where there are any: what is learned by heart looks well for longer.
    answers = not loss.needs_reference and not loss.judged
    probe = pair_probe(rows if eval_rows is None else eval_rows, watch.most_samples, answers=answers)
    return Watchdogs(watch, probe, work)
