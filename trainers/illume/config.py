"""The options of the ILLUME loop: how explanations are drawn, what is kept, how it is learned, when it ends.

Torch-free, as all that a recipe is checked against.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainers.config import COSMETIC, AdapterOptions, ModelOptions, TrainingOptions


class IllumeOptions(ModelOptions, AdapterOptions, TrainingOptions):
    """What the loop adds to a model and its training."""

    temperatures: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.3, 0.8)
    """Explanations are drawn at each of them."""
    num_return_sequences: Annotated[int, Field(ge=1, le=1024)] = 5
    """Explanations of each prompt, temperature and connective."""
    top_vocabulary: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Draw from this share of the vocabulary, the most likely tokens of it, chosen before the temperature."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 100
    """Longest explanation and longest answer in tokens."""
    batch_size: Annotated[int, Field(ge=1, json_schema_extra=COSMETIC)] = 32
    """Answers written side by side."""
    connectives: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """What asks for the explanation after the answer. Left out: `because` after plain text, `Why?` as the next turn
    of a conversation."""
    lowercase: bool = False
    """Keep explanations in small letters, as the original does."""

    accept: Literal["critic", "placebo"] = "critic"
    """`placebo`: learn as many texts as the critic accepts, drawn uniformly over all candidates. For comparison."""
    placebo_texts: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """How many the placebo draws in each iteration. Left out: as many as the critic accepts of the placebo's own."""
    max_per_prompt: Annotated[int, Field(ge=1)] | None = None
    """Accepted explanations of one prompt, at most."""
    accumulate: Literal["union", "latest"] = "union"
    """`union`: what was accepted once stays. `latest`: each iteration learns its own alone."""

    answer_only_ratio: Annotated[float, Field(ge=0)] = 10.0
    """Rows of question and answer alone for each explanation, among the prompts that have none."""
    answer_only_rows: Annotated[int, Field(ge=0)] | None = None
    """Or so many of them, whatever the number of explanations."""
    resample_answer_only: bool = False
    """Draw other ones in every iteration."""
    explanation_weight: Annotated[float, Field(ge=0)] = 1.0
    """m in L_ans + m * w * L_exp."""
    balance: Annotated[float, Field(gt=0)] | None = None
    """w. Left out: rows without explanation over rows with one, and at least `min_balance`."""
    min_balance: Annotated[float, Field(ge=0)] = 1.0
    """w falls to 0 when nearly every prompt has an explanation, and the explanations with it."""
    each_iteration: Literal["continue", "restart"] = "continue"
    """Tune the model of the iteration before, or the stage's start again; the optimiser is fresh in both."""
    num_train_epochs: Annotated[float, Field(gt=0)] = 5.0
    """Passes over the data in each iteration."""

    select_by: Literal["acceptance", "score", "second", "last"] = "acceptance"
    """Which epoch, and in the end which iteration, is taken: the best on held-out prompts by the share accepted, the
    mean score or the second measure; or the last."""
    eval_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Held-out explanations are drawn at this one, of the model's own answers."""
    eval_samples: Annotated[int, Field(ge=1)] = 1
    """Explanations of each held-out prompt."""

    max_iterations: Annotated[int, Field(ge=1)] = 4
    """Iterations at most."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """End after so many iterations without a better one by `select_by`."""
    target_acceptance: Annotated[float, Field(gt=0, le=1)] | None = None
    """End when so large a share is accepted: of the held-out explanations; without such, of those drawn."""
    max_judgements: Annotated[int, Field(ge=1)] | None = None
    """End after so many judged candidates; people are asked for no more than these."""

    max_pairs_per_prompt: Annotated[int, Field(ge=1)] = 6
    """Pairs of accepted over rejected that are written for each prompt."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-5
    """Peak learning rate of AdamW. The original's 1.12e-3 belongs to its own adapters."""

    @model_validator(mode="after")
    def _enough_numbers(self) -> Self:
        if self.placebo_texts is not None and len(self.placebo_texts) < self.max_iterations:
            raise ValueError(
                f"placebo_texts has {len(self.placebo_texts)} numbers for {self.max_iterations} iterations: write one "
                "for each"
            )
        return self
