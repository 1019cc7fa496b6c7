"""`kind: judge`: a critic, a person's file of votes, or people on the label page turn candidates into pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from data.critics import Rubric
from data.feedback.critic import People
from data.judging import VotesFile, VotesMissing, make_pairs
from pipelines.stage import ROWS, Job, Metrics, Stage, StageRef, Waiting

Critic = Annotated[Rubric | VotesFile | People, Field(discriminator="kind")]


class Judge(Stage):
    """Preference pairs from candidates."""

    makes: ClassVar[frozenset[str]] = frozenset({"pairs", "rows"})

    kind: Literal["judge"]
    candidates: Annotated[str, StageRef("candidates", only=True)]
    """The stage that sampled them."""
    critic: Critic
    """Who decides."""
    pairing: Literal["best_worst", "all"] = "best_worst"
    """`best_worst`: one pair a prompt, the best over the worst; `all`: every two that differ by `min_margin`."""
    min_margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Smallest difference in score that makes a pair."""
    max_pairs_per_prompt: Annotated[int, Field(ge=1)] = 6
    """The widest margins are kept."""

    def files(self, base: Path, stages: set[str]) -> list[Path]:
        votes = base / self.critic.path if isinstance(self.critic, VotesFile) else None
        return [*super().files(base, stages), *([votes] if votes is not None and votes.is_file() else [])]

    def run(self, job: Job) -> Metrics:
        candidates, out = job.inputs[self.candidates].path / ROWS, job.out / ROWS
        try:
            if isinstance(self.critic, People):
                from data.feedback.collecting import collect

                return collect(
                    candidates,
                    self.critic,
                    out,
                    base=job.base,
                    pairing=self.pairing,
                    min_margin=self.min_margin,
                    max_pairs_per_prompt=self.max_pairs_per_prompt,
                )
            return make_pairs(
                candidates,
                self.critic,
                out,
                base=job.base,
                pairing=self.pairing,
                min_margin=self.min_margin,
                max_pairs_per_prompt=self.max_pairs_per_prompt,
            )
        except VotesMissing as missing:
            raise Waiting(missing.what, how=missing.how) from missing
