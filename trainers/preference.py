"""Preference training: TRL's DPO loop and losses, with the reference measured once on the policy it starts from."""

from __future__ import annotations

from typing import Any

from trl import DPOConfig, DPOTrainer

from trainers import checkpoints
from trainers.arguments import training_arguments
from trainers.completions import CompletionsOnly
from trainers.config import PreferOptions
from trainers.loop import run_training
from trainers.models import TRAINED, Loaded, activate, below_names, load_policy
from trainers.prepare import load_rows
from trainers.reference import Reference
from trainers.watching import FiniteLoss, Teller
from trainers.work import Work

KEYS = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")


class PreferenceTrainer(FiniteLoss, CompletionsOnly, checkpoints.SealedCheckpoints, DPOTrainer):
    """TRL's DPOTrainer whose reference is, by construction, the policy that training starts from.

    The reference log-probabilities are taken from the model before its first step and before any checkpoint is
    loaded: there is no second model in memory, and neither a resume nor a restart can move them.
    """

    def __init__(self, *args: Any, loaded: Loaded, reference: Reference, **kwargs: Any) -> None:
        self.loaded = loaded
        self.reference = reference
        super().__init__(*args, model=loaded.model, processing_class=loaded.tokenizer, **kwargs)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # tokenised, cut and counted already

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if "ref_chosen_logps" in dataset.column_names:
            return dataset
        self._undo_ref_adapter()
        return self.reference.add_to(dataset, name, batch_size, self)

    def _undo_ref_adapter(self) -> None:
        """Take back the copy that TRL adds to every PEFT model: of the wrong adapter when they are stacked."""
        peft_config = getattr(self.model, "peft_config", {})
        if "ref" in peft_config:
            model: Any = self.model
            model.delete_adapter("ref")
        activate(self.model, below_names(self.loaded.policy), trained=TRAINED in peft_config)


def train_preference(options: PreferOptions, start: str, work: Work, *, name: str) -> dict[str, Any]:
    """Train, or go on training, from the newest whole checkpoint; leave the policy in `out/model`."""
    train_rows, eval_rows = load_rows(work.out)
    loaded = load_policy(start, options, work, train=options, exact=True, seed=options.seed)
    losses = [options.loss_type] if isinstance(options.loss_type, str) else list(options.loss_type)
    args = training_arguments(
        DPOConfig,
        options,
        work.scratch / checkpoints.FOLDER,
        work,
        beta=options.beta,
        loss_type=losses,
        loss_weights=list(options.loss_weights) if options.loss_weights else None,
        label_smoothing=options.label_smoothing,
        ld_alpha=options.ld_alpha,
        max_length=None,  # rows come cut to it
        precompute_ref_log_probs=True,
    )
    reference = Reference(work, start)
    trainer = PreferenceTrainer(
        loaded=loaded,
        reference=reference,
        args=args,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        callbacks=[Teller(work)],
    )
    metrics = run_training(trainer, loaded, work, name=name, keep=options.save_total_limit, keys=KEYS)
    return {**metrics, "reference_gap": reference.gap}
