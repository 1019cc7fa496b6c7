"""Settings of an illume stage that do not go together: who judges, what is measured, and what would be ignored."""

from __future__ import annotations

from collections.abc import Iterator

from data.illume.critic import MOST_SHOWN, ModelCritic, PeopleCritic
from pipelines.stages.illume import Illume

Finding = tuple[tuple[str, ...], str, tuple[str, ...]]


def illume_findings(stage: Illume) -> Iterator[Finding]:
    yield from _judges(stage)
    yield from _measured(stage)
    for key in ("placebo_texts", "placebo_of"):
        if getattr(stage, key) is not None and stage.accept != "placebo":
            message = "nothing is drawn at random here: write `accept: placebo` too, or leave it out"
            yield (key, "accept"), message, (key,)
    if stage.placebo_texts is not None and stage.placebo_of is not None:
        yield (
            ("placebo_texts", "placebo_of"),
            "`placebo_of` says how many already: keep one",
            ("placebo_texts",),
        )


def _judges(stage: Illume) -> Iterator[Finding]:
    critic = stage.critic
    if isinstance(critic, ModelCritic):
        if critic.server is None and stage.judge is None:
            message = "a model judges: say which, as `judge: MODEL` on the stage or `server:` in the critic"
            yield ("critic", "judge"), message, ("critic",)
        elif critic.server is not None and stage.judge is not None:
            yield ("critic", "judge"), "the critic's `server` judges already: keep one of them", ("judge",)
    elif stage.judge is not None:
        message = f"the critic is `{critic.kind}`, and asks no model: write `critic: {{kind: model}}`, or leave it out"
        yield ("critic", "judge"), message, ("judge",)
    drawn = len(stage.temperatures) * max(len(stage.connectives), 1) * stage.num_return_sequences
    if isinstance(critic, PeopleCritic) and drawn > MOST_SHOWN:
        message = (
            f"{len(stage.temperatures)} temperatures make up to {drawn} explanations of a prompt, and the label page "
            f"shows at most {MOST_SHOWN} side by side"
        )
        yield ("num_return_sequences", "temperatures", "connectives"), message, ("num_return_sequences",)


def _measured(stage: Illume) -> Iterator[Finding]:
    if stage.eval_data is None:
        unread = [
            key for key in ("eval_critic", "second_measure", "patience") if getattr(stage, key) is not None
        ]
        # What was left out has a default, and asks for nothing.
        if "select_by" in stage.model_fields_set and stage.select_by != "last":
            unread.append("select_by")
        for key in unread:
            yield ("eval_data", key), "it looks at held-out prompts: give `eval_data:`", (key,)
        return
    if stage.rule is None:
        who = {"people": "people judge", "file": "people judge", "model": "a model judges"}[stage.critic.kind]
        message = f"{who} `data` alone, and held-out explanations need a rule: give `eval_critic:`"
        yield ("eval_data", "critic", "eval_critic"), message, ("eval_data",)
    if stage.select_by == "second" and stage.second_measure is None:
        yield ("select_by", "second_measure"), "it needs a `second_measure:`", ("select_by",)
