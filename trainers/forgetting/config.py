"""What a recipe may say about measuring forgetting and attacking it; torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainers.config import Closed

WrongMean = Literal["geometric", "arithmetic"]
"""How the wrong answers' probabilities become one: `geometric` as both public codes compute it (they average
log-probabilities), `arithmetic` as the TOFU paper writes it."""
Requantised = Literal["nf4", "fp4", "int8"]
"""bitsandbytes' codes that a model can be loaded in again."""


class RelearnOptions(Closed):
    """A little fine-tuning on a part of what was forgotten: how soon is it back, and does the rest come along?"""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The part of the forget questions that is taught again, drawn by the seed; the others are only watched."""
    steps: Annotated[int, Field(ge=1)] = 20
    """Steps of AdamW at a constant rate."""
    every: Annotated[int, Field(ge=1)] = 2
    """Steps between two points of the curve."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Of every weight; adapters are merged first."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Questions a step."""


class Attacks(Closed):
    """What is tried to bring forgotten answers back."""

    relearn: RelearnOptions | None = None
    """Fine-tune on a part of the forgotten answers: a mapping `{share, steps, every, learning_rate, batch_size}`; `{}`
    takes the defaults."""
    requantise: Requantised | None = None
    """Load the model in `nf4` (4 bits), `fp4` or `int8` and measure it again: rounding may undo small changes."""
    models: tuple[str, ...] | None = None
    """Labels of the models that are attacked. Left out: all but the first, so the retrained one is among them: what
    it learns from scratch is what the others are compared with."""


class SuiteOptions(Closed):
    """How forgetting is measured."""

    retrained: str | None = None
    """The label of the model that never saw the forget rows. Forget quality and privacy leak are distances to it."""
    truth_ratio: WrongMean = "geometric"
    """Mean of the wrong answers' probabilities in the truth ratio: `geometric` as the public codes compute it,
    `arithmetic` as the TOFU paper writes it."""
    rouge_tokens: Literal["stems", "words"] = "stems"
    """What ROUGE-L compares: `stems` as TOFU does, for English; `words` for every other language."""
    min_k: Annotated[float, Field(gt=0, le=1)] = 0.4
    """The share of an answer's least likely tokens that MIN-K% reads."""
    attacks: Attacks | None = None
    """`{relearn: {...}, requantise: nf4, models: [...]}`: what is tried to bring the forgotten answers back."""
