"""Preference training: TRL's DPO loop, our losses, and a reference that is the policy training starts from."""

from __future__ import annotations

from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from data.errors import TrainingError
from trainers import checkpoints, losses
from trainers.arguments import build, training_arguments
from trainers.completions import CompletionsOnly
from trainers.config import PreferOptions
from trainers.loop import run_training
from trainers.models import TRAINED, Loaded, activate, below_names, load_policy
from trainers.objective import Objective
from trainers.pair_metrics import pair_metrics
from trainers.prepare import check_context, load_rows
from trainers.reference import Reference
from trainers.scoring import REFERENCE, choose_engine, score
from trainers.watching import FiniteLoss, Teller
from trainers.work import Work

KEYS = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
STEP0_TOLERANCE = {False: 0.01, True: 0.1}
"""Share of the expected first loss it may be off, in float32 and in mixed precision."""


class PreferenceTrainer(FiniteLoss, CompletionsOnly, checkpoints.SealedCheckpoints, DPOTrainer):
    """TRL's DPOTrainer whose reference is, by construction, the policy that training starts from.

    The reference log-probabilities are taken from the model before its first step and before any checkpoint is
    loaded: there is no second model in memory, and neither a resume nor a restart can move them.
    """

    def __init__(
        self, *args: Any, loaded: Loaded, reference: Reference, loss: Objective, engine: str, **kwargs: Any
    ) -> None:
        self.loaded = loaded
        self.reference = reference
        self.loss = loss
        self.engine = "padded"
        self.engine_asked = engine
        self.first_loss: float | None = None
        super().__init__(*args, model=loaded.model, processing_class=loaded.tokenizer, **kwargs)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # tokenised, cut and counted already

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if REFERENCE[0] in dataset.column_names:
            return dataset
        if name == "train":  # once: TRL measures the training rows first
            self._undo_ref_adapter()
            self.engine = choose_engine(self.engine_asked, self, self.reference.work)
        return (
            self.reference.add_to(dataset, name, batch_size, self) if self.loss.needs_reference else dataset
        )

    def _undo_ref_adapter(self) -> None:
        """Take back the copy that TRL adds to every PEFT model: of the wrong adapter when they are stacked."""
        peft_config = getattr(self.model, "peft_config", {})
        if "ref" in peft_config:
            model: Any = self.model
            model.delete_adapter("ref")
        activate(self.model, below_names(self.loaded.policy), trained=TRAINED in peft_config)

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool) -> Any:
        found = score(self, model, inputs)
        ref_chosen, ref_rejected = (inputs.get(column) for column in REFERENCE)
        pairs = losses.Pairs(
            found.chosen,
            found.rejected,
            found.chosen_length,
            found.rejected_length,
            ref_chosen,
            ref_rejected,
            found.chosen_plain,
        )
        loss, parts = losses.combine(self.loss.terms, pairs, self.loss.settings)
        if self.aux_loss_enabled and found.outputs is not None and found.outputs.aux_loss is not None:
            loss = loss + self.router_aux_loss_coef * found.outputs.aux_loss
            parts["aux_loss"] = found.outputs.aux_loss.detach()
        self._check_first(loss)
        pair_metrics(self, found.outputs, pairs, parts if len(parts) > 1 else {}, inputs)
        return (loss, found.outputs) if return_outputs else loss

    def _check_first(self, loss: torch.Tensor) -> None:
        """While policy and reference are the same model, most losses have a value known beforehand."""
        model: Any = self.model
        if self.first_loss is not None or not model.training or self.state.global_step:
            return
        self.first_loss = loss.item()
        expected = losses.step0(self.loss.terms, self.loss.settings)
        args: Any = self.args
        if expected is None or self.aux_loss_enabled or not args.disable_dropout:
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
    loaded = load_policy(start, options, work, train=options, exact=True, seed=options.seed)
    check_context(loaded.model, work)
    reference = Reference(work, start)
    trainer = build(
        PreferenceTrainer,
        loaded=loaded,
        reference=reference,
        loss=loss,
        engine=options.engine,
        args=args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        callbacks=[Teller(work)],
    )
    metrics = run_training(trainer, loaded, work, name=name, keep=options.save_total_limit, keys=KEYS)
    metrics["engine"] = trainer.engine
    if loss.needs_reference:
        metrics["reference_gap"] = reference.gap
    if trainer.first_loss is not None:
        metrics["first_loss"] = trainer.first_loss
    return metrics
