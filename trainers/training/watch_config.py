"""What a recipe may say about the watchdogs of preference training and unlearning; torch-free."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trainers.closed import Closed

Action = Literal["warn", "stop", "roll_back"]
"""`warn`: a line and an event. `stop`: the stage ends with the last good checkpoint as its model. `roll_back`: back to
that checkpoint, and on with a lower learning rate."""
Patience = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Rule(Closed):
    """One watch: what it allows, and what happens beyond that."""

    limit: Above0
    action: Action = "warn"
    patience: Patience = 1
    """How often in a row the figure must be beyond its limit: steps, or measurements where it is measured."""


class ChosenDrop(Rule):
    """How much less likely the chosen answers have become than under the reference."""

    limit: Above0 = 2.0
    """Nats per token."""
    action: Action = "stop"
    patience: Patience = 3


class BothFall(Rule):
    """What chosen and rejected answers have lost together, less what the margin between them has gained."""

    limit: Above0 = 0.5
    """Nats per token."""
    patience: Patience = 3


class Saturated(Rule):
    """Pairs that teach nothing any more: a gradient below a hundredth of the first step's largest."""

    limit: Share = 0.95
    """Share of a step's pairs."""
    patience: Patience = 10


class GradientSpike(Rule):
    """A gradient far above what is usual, before clipping."""

    limit: Annotated[float, Field(gt=1)] = 10.0
    """Times the usual norm: the larger of the medians of the first and of the last 20 steps."""


class GradientRms(Rule):
    """Gradients that AdamW's epsilon outweighs: its steps shrink to nothing."""

    limit: Above0 = 1.0
    """Times epsilon that the median over tensors of the gradient's root mean square must reach."""
    patience: Patience = 2


class AttentionLogits(Rule):
    """Attention that becomes a choice of one token: the largest logit, over layers, heads and probe texts."""

    limit: Annotated[float, Field(gt=1)] = 4.0
    """Times the start's."""
    floor: Annotated[float, Field(ge=0)] = 50.0
    """Logits below this are no fault, whatever they were at the start."""


class LogZ(Rule):
    """Output logits that drift away together, which a softmax does not see until rounding does."""

    limit: Above0 = 10.0
    """Rise of the root mean square of log Z, in nats."""


class EntropyCollapse(Rule):
    """Answers that leave no choice at any token."""

    limit: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of the start's entropy of the next token that must be left, in greedy answers."""
    action: Action = "stop"


class Repetition(Rule):
    """Answers that go round in circles."""

    limit: Share = 0.3
    """How far the share of repeated 4-grams of tokens in greedy answers may rise."""
    action: Action = "stop"


class UtilityDrop(Rule):
    """What should stay known becomes unlikely."""

    limit: Share = 0.3
    """The share of the probe answers' probability per token that may be lost."""
    action: Action = "stop"


class WatchOptions(Closed):
    """What every stage with watchdogs can say of them. Measured figures are held against the model at its start."""

    every: Annotated[int, Field(ge=1)] | None = None
    """Steps between two measurements. Left out: as many as make all measurements together at most 3 % of the stage, and
    at least a twentieth of all steps, and 20, in unlearning 10; a stage with fewer steps is not measured."""
    samples: Annotated[int, Field(ge=1)] | None = None
    """Prompts that are answered greedily at each measurement. Left out: 4; 2 where that would be too dear."""
    max_new_tokens: Annotated[int, Field(ge=8)] | None = None
    """The longest of these answers. Left out: 32; 16 or 10 where that would be too dear."""
    checkpoints: Literal["auto", "measured", "saved"] = "auto"
    """Where a stage can go back to: `measured` writes a checkpoint at each good measurement, `saved` only those of
    `save_steps`. `auto`: `measured` where what is trained is below 2 GiB with its optimiser."""
    roll_backs: Annotated[int, Field(ge=0)] = 2
    """How often a stage may roll back; after that, `roll_back` means `stop`."""
    roll_back_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What each roll-back multiplies the learning rate by."""

    gradient_spike: GradientSpike | bool = Field(default_factory=GradientSpike)
    """A mapping `{limit, action, patience}`, here and below; `false`: not watched. The gradient's norm, in times of
    the usual norm."""
    gradient_rms: GradientRms | bool = Field(default_factory=GradientRms)
    """The median root mean square of the gradients of all trained tensors, in times of AdamW's epsilon."""
    attention_logits: AttentionLogits | bool = Field(default_factory=AttentionLogits)
    """The largest attention logit, in times of the start's; `floor`: below it nothing is said."""
    log_z: LogZ | bool = Field(default_factory=LogZ)
    """The rise of the root mean square of log Z, the logarithm of the output softmax's sum."""
    entropy: EntropyCollapse | bool = Field(default_factory=EntropyCollapse)
    """The share of the start's entropy that greedy answers must keep. In unlearning only while `utility` fell too."""
    repetition: Repetition | bool = Field(default_factory=Repetition)
    """The rise of the share of repeated 4-grams in greedy answers."""

    @property
    def most_samples(self) -> int:
        return self.samples or 4

    @property
    def most_tokens(self) -> int:
        return self.max_new_tokens or 32

    @model_validator(mode="before")
    @classmethod
    def _true_is_the_default(cls, value: object) -> object:
        return {k: {} if v is True else v for k, v in value.items()} if isinstance(value, dict) else value

    def rule(self, name: str) -> Any:
        """The rule of that name; None where it is not watched, or not in this kind of stage."""
        return getattr(self, name, None) or None


class PreferWatch(WatchOptions):
    """What preference training watches."""

    chosen_drop: ChosenDrop | bool = Field(default_factory=ChosenDrop)
    """How far the chosen answers' log-probability per token has fallen below the reference's; of a loss without
    reference, below the start's, on the probe's pairs."""
    both_fall: BothFall | bool = Field(default_factory=BothFall)
    """What both answers have lost together, per token, less what the margin between them has gained."""
    saturated: Saturated | bool = Field(default_factory=Saturated)
    """The share of pairs whose gradient is below a hundredth of the first step's largest."""


FORMER = {
    "max_utility_drop": "utility_drop: {limit: ...}",
    "max_repetition": "repetition: {limit: ...}",
    "min_entropy": "entropy: {limit: ...}",
    "on_collapse": "utility_drop: {action: ...}",
}


class UnlearnWatch(WatchOptions):
    """What unlearning watches: forget answers are meant to fall, so it looks at what is to stay."""

    rows: Annotated[int, Field(ge=1)] = 32
    """Rows held out of `retain` and never trained on, where there is no `probe`; at most a quarter of them."""
    utility_drop: UtilityDrop | bool = Field(default_factory=UtilityDrop)
    """The share that the probe answers' probability per token has lost."""

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, value: object) -> object:
        for old in FORMER.keys() & (value.keys() if isinstance(value, dict) else ()):
            raise ValueError(f"`{old}` is written `{FORMER[old]}`")
        return value
