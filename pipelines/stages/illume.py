"""`kind: illume`: a model explains answers, a critic or people pick what fits, the model learns it, and again."""

from __future__ import annotations

import shutil
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from data.illume.critic import Computed, Critic, Rule
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
    """Rows of `prompt` and `answer`, and for a model that sees, `image`: a file below the folder of the rows. A
    simulated critic reads further columns, such as `reference`."""
    eval_data: Annotated[Mixture | None, StageRef("rows")] = None
    """Held-out rows of the same columns, on which every epoch is measured. Left out: the last epoch is taken."""
    critic: Critic
    """Who accepts: `rouge_l` against a reference, a `rubric` with a threshold, a `model` that is asked both ways round,
    `people` on the label page, or people through a `file` of votes for each iteration. While people are asked, the
    command waits and exits 75."""
    judge: Annotated[str | None, Field(min_length=1), StageRef("model")] = None
    """The model that judges, with `critic: {kind: model}`: a stage, an alias, a folder, or `owner/name` on the hub."""
    eval_critic: Annotated[Computed, Field(discriminator="kind")] | None = None
    """Who judges held-out explanations. Left out: `critic`, which must be `rouge_l` or a `rubric` then."""
    second_measure: Annotated[Computed, Field(discriminator="kind")] | None = None
    """Another judge of held-out explanations, that nothing is trained on: to see that it is not the critic that was
    learned."""
    placebo_of: Annotated[str | None, StageRef("rows", only=True)] = None
    """With `accept: placebo`: the illume stage whose number of new texts is drawn here, iteration by iteration."""

    @property
    def rule(self) -> Rule | None:
        """Who judges held-out explanations."""
        if self.eval_critic is not None:
            return self.eval_critic
        return self.critic if isinstance(self.critic, Rule) else None

    def run(self, job: Job) -> Metrics:
        from data.illume.items import read_items
        from data.ledger import Ledger
        from trainers.illume.iterate import Loop, illume

        ledgers = Ledger(name="data"), Ledger(name="eval")
        items = read_items(job.mixture(self.data), job.base, ledgers[0])
        held_out = read_items(job.mixture(self.eval_data), job.base, ledgers[1]) if self.eval_data else []
        loop = Loop(
            self._options(job),
            self.critic,
            job.start(self.model),
            {item.key: item for item in items},
            job.base,
            job,
            self.name,
            held_out,
            self.rule,
            self.second_measure,
            job.start(self.judge) if self.judge else None,
        )
        try:
            figures = illume(loop)
        except VotesMissing as missing:
            raise Waiting(missing.what, how=missing.how) from missing
        shutil.copyfile(job.out / "accepted.jsonl", job.out / ROWS)
        return figures

    def _options(self, job: Job) -> IllumeOptions:
        if self.placebo_of is None:
            return self
        from trainers.illume.iterate import texts_learned

        texts = texts_learned(job.inputs[self.placebo_of].path)
        fewer = min(self.max_iterations, len(texts))
        return self.model_copy(update={"placebo_texts": texts, "max_iterations": fewer})
