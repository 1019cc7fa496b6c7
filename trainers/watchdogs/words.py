"""What a watch says when it fires: what was seen, in one plain sentence, and the way out."""

from __future__ import annotations

from trainers.watchdogs.rules import Reading

SEEN: dict[str, str] = {
    "chosen_drop": "chosen answers have lost {value:.3g} nats per token, {bound:.3g} are allowed",
    "both_fall": "chosen and rejected answers fall together: {value:.3g} nats per token lost by both and not won by "
    "the margin, {bound:.3g} are allowed",
    "saturated": "{value:.0%} of the pairs teach nothing any more, {bound:.0%} are allowed",
    "gradient_spike": "the gradient's norm is {value:.3g} times what is usual, {bound:.3g} times is allowed",
    "gradient_rms": "gradients have a root mean square of {value:.2g}, and AdamW's epsilon asks for {bound:.2g}",
    "attention_logits": "the largest attention logit is {value:.4g}, {bound:.4g} is allowed",
    "log_z": "the output logits have drifted: log Z has grown by {value:.3g} nats, {bound:.3g} are allowed",
    "entropy": "the next token's entropy is {value:.3g} nats, and {bound:.3g} must be left",
    "repetition": "{value:.0%} of the 4-grams in greedy answers are repeated, {bound:.0%} are allowed",
    "utility_drop": "probe answers have {value:.3g} of probability per token, and {bound:.3g} must be left",
}
WAY_OUT: dict[str, str] = {
    "chosen_drop": "Lower learning_rate, raise beta, or add the chosen answers' likelihood (sft_weight).",
    "both_fall": "Look for pairs that contradict each other or hardly differ; add sft_weight, or lower learning_rate.",
    "saturated": "Stop earlier (max_steps), or take harder pairs or a smaller beta.",
    "gradient_spike": "Lower learning_rate, add warmup_steps, set max_grad_norm; look at that step's rows.",
    "gradient_rms": "Write `training: {adam_epsilon: 1.0e-12}`, or stop earlier: nothing is learned any more.",
    "attention_logits": "Lower learning_rate, or train fewer weights (use_peft).",
    "log_z": "Lower learning_rate, or add weight_decay.",
    "entropy": "Lower learning_rate, stop earlier (max_steps), or raise beta.",
    "repetition": "Lower learning_rate, stop earlier (max_steps), or add sft_weight.",
    "utility_drop": "Lower learning_rate or gamma, give retain more weight (alpha), or stop earlier (max_steps).",
}
FORGETTING = "Lower learning_rate or gamma, give retain more weight (alpha), or stop earlier (max_steps)."


def seen(name: str, reading: Reading) -> str:
    return SEEN[name].format(value=reading.value, bound=reading.bound)


def way_out(name: str, *, forgets: bool) -> str:
    """In unlearning there is no margin and no sft_weight to turn."""
    return FORGETTING if forgets and name in ("entropy", "repetition") else WAY_OUT[name]
