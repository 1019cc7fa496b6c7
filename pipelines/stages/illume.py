"""`kind: illume`: a model explains answers, a critic or people pick what fits, the model learns it, and again."""

from __future__ import annotations

import shutil
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from data.illume.critic import Computed, Critic, VotesCritic
from data.sources import Mixture
from data.votes import VotesMissing
from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef, Waiting
from trainers.illume.config import IllumeOptions


class Illume(Stage, IllumeOptions):
    """The ILLUME loop (arXiv 2208.08241), with its judged candidates as rows for later stages."""

    makes: ClassVar[frozenset[str]] = frozenset({"model", "pairs", "rows"})

    kind: Literal["illume"]
    model: Annotated[str, StageRef("model")]
    """Who explains first: an earlier stage, an alias, a folder, or `owner/name` on the hub."""
    data: Annotated[Mixture, StageRef("rows")]
    """Rows of `prompt` and `answer`; a simulated critic reads further columns, such as `reference`."""
    eval_data: Annotated[Mixture | None, StageRef("rows")] = None
    """Held-out rows of the same columns, on which every epoch is measured. Left out: the last epoch is taken."""
    critic: Critic
    """Who accepts: `rouge_l` against a reference, a `rubric` with a threshold, or people through a `file` of votes for
    each iteration (the command waits for it, and exits 75)."""
    eval_critic: Annotated[Computed, Field(discriminator="kind")] | None = None
    """Who judges held-out explanations. Left out: `critic`, which must be no `file` then."""
    second_measure: Annotated[Computed, Field(discriminator="kind")] | None = None
    """Another judge of held-out explanations, that nothing is trained on: to see that it is not the critic that was
    learned."""
    rows: Literal["accepted", "pairs", "unpaired", "rejected"] = "accepted"
    """What later stages find as this one's rows: prompts with accepted explanations, pairs of accepted over rejected,
    single ones with a `label`, or the rejected alone. The others lie beside them."""

    @model_validator(mode="after")
    def _can_be_measured(self) -> Illume:
        if self.eval_data is None:
            if self.patience is not None:
                raise ValueError("patience looks at held-out prompts: give `eval_data:`")
        elif self.eval_critic is None and isinstance(self.critic, VotesCritic):
            raise ValueError(
                "people judge `data` alone, and held-out explanations need a rule: give `eval_critic:`"
            )
        if self.select_by == "second" and self.second_measure is None:
            raise ValueError("`select_by: second` needs a `second_measure:`")
        return self

    def run(self, job: Job) -> Metrics:
        from data.illume.items import read_items
        from data.ledger import Ledger
        from trainers.illume.iterate import SHAPES, Loop, illume

        ledgers = Ledger(name="data"), Ledger(name="eval")
        items = read_items(job.mixture(self.data), job.base, ledgers[0])
        held_out = read_items(job.mixture(self.eval_data), job.base, ledgers[1]) if self.eval_data else []
        rule = self.eval_critic
        if rule is None and not isinstance(self.critic, VotesCritic):
            rule = self.critic
        loop = Loop(
            self,
            self.critic,
            job.start(self.model),
            {item.key: item for item in items},
            job.base,
            job,
            self.name,
            held_out,
            rule,
            self.second_measure,
        )
        try:
            figures = illume(loop)
        except VotesMissing as missing:
            raise Waiting(missing.what, how=missing.how) from missing
        shutil.copyfile(job.out / SHAPES[self.rows], job.out / ROWS)
        return figures
