"""How training went: the figures of every training stage as small charts, with the value expected at step 0."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from pipelines.report.charts import Curve, Flag, Level, line_chart
from pipelines.report.gather import Recorded, RunRecord
from pipelines.report.history import Event, number_of
from pipelines.report.markup import code, folded, number, part, tiles
from trainers.watchdogs.words import SEEN

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Loss", ("loss", "eval_loss")),
    ("Parts of the loss", ("loss/*", "aux_loss")),
    ("Reward margin: chosen above rejected", ("rewards/margins",)),
    ("Rewards: β times the log-ratio to the reference", ("rewards/chosen", "rewards/rejected")),
    ("Share of pairs the right way round", ("rewards/accuracies",)),
    ("Log-probability of the answers", ("logps/chosen", "logps/rejected", "logps/forget", "logps/retain")),
    ("Weight of what is to be forgotten", ("weights/forget",)),
    ("Utility on the probe", ("watch/utility",)),
    ("Entropy of the next token", ("entropy", "watch/entropy")),
    ("Share of tokens that were the first guess", ("mean_token_accuracy",)),
    ("Norm of the gradient", ("grad_norm",)),
)
ALWAYS_FOLDED = ("learning_rate", "epoch", "num_tokens")
SHARES = frozenset({"Share of pairs the right way round", "Share of tokens that were the first guess"})
NAMES = {
    "rewards/margins": "margin", "rewards/chosen": "chosen", "rewards/rejected": "rejected",
    "rewards/accuracies": "right", "logps/chosen": "chosen", "logps/rejected": "rejected",
    "logps/forget": "to forget", "logps/retain": "to keep", "eval_loss": "held out",
    "watch/utility": "utility", "watch/entropy": "on the probe's answers",
}  # fmt: skip
COLOURS = {
    "loss": 2,
    "chosen": 3,
    "rejected": 4,
    "margin": 6,
    "right": 2,
    "to forget": 4,
    "to keep": 3,
    "eval_loss": 5,
}
STARTS = {
    "loss": ("first_loss", "expected_first_loss"),
    "loss/forget": ("first_forget_loss", "expected_first_forget_loss"),
}
"""Figures of a stage that say where a curve began, and where it had to."""
ACTIONS = {"warn": "it went on", "stop": "it was stopped", "roll_back": "it went back"}
TOLD = {"resumed": "went on from a checkpoint", "watched": "", "first_loss": ""}
FIGURES = {
    "rows": "rows",
    "steps": "steps",
    "epochs": "epochs",
    "train_loss": "mean loss",
    "rewards/accuracies": "pairs right",
    "rewards/margins": "margin at the end",
    "engine": "engine",
}
"""Of the stage's record, what is told above its curves."""


def curves(run: RunRecord, *, brief: bool = False) -> str:
    """One part for each stage that logged steps. `brief`: figures that nobody waits for are counted and left out."""
    return "".join(_stage(stage, brief) for stage in run.stages if stage.history.curves)


def _stage(stage: Recorded, brief: bool) -> str:
    key = f"train-{stage.name}"
    shown = list(charts([("", stage)]))
    more = [chart for chart, quiet in shown if quiet]
    body = f'<div class="charts">{"".join(chart for chart, quiet in shown if not quiet)}</div>'
    if more and brief:
        body += (
            f'<p class="missing">{len(more)} more figures are in {code(f"{stage.name}/metrics.jsonl")}.</p>'
        )
    elif more:
        body += folded(f"{len(more)} more", f'<div class="charts">{"".join(more)}</div>', kind="more")
    return part(
        f"{stage.name}: {stage.kind}", _figures(stage) + first_loss(stage) + _notes(stage) + body, key=key
    )


def charts(stages: Sequence[tuple[str, Recorded]]) -> Iterator[tuple[str, bool]]:
    """Charts of one stage, or of the same stage of two runs laid over each other; and whether each may be folded.

    The first of `stages` names its run and is drawn solid, the second is dashed.
    """
    keys = list(dict.fromkeys(key for _, stage in stages for key in stage.history.curves))
    groups: dict[str, list[str]] = {}
    left = [key for key in keys if key not in ALWAYS_FOLDED]
    for title, patterns in GROUPS:
        found = [key for key in left if any(_fits(key, pattern) for pattern in patterns)]
        if found:
            groups[title] = found
            left = [key for key in left if key not in found]
    for key in [*left, *(key for key in ALWAYS_FOLDED if key in keys)]:
        groups[key] = [key]
    known = {title for title, _ in GROUPS}
    for title, members in groups.items():
        yield _chart(title, members, stages), title not in known


def _chart(title: str, keys: Sequence[str], stages: Sequence[tuple[str, Recorded]]) -> str:
    lines: list[Curve] = []
    flags: list[Flag] = []
    level: Level | None = None
    notes: list[str] = []
    for place, (run, stage) in enumerate(stages):
        for i, key in enumerate(keys):
            name = NAMES.get(key, key.removeprefix("loss/"))
            label = f"{run}: {name}" if run else name
            points = list(stage.history.curves.get(key, ()))
            # Of two runs with one line each, the colours are the runs'.
            colour = (2, 5)[place] if run and len(keys) == 1 else COLOURS.get(name, i + 2)
            begun = STARTS.get(key)
            if begun is not None:
                first, expected = (number_of(stage.first(name)) for name in begun)
                if first is not None and points and points[0][0] > 0:
                    points = [(0.0, first), *points]
                if expected is not None:
                    level = Level(expected, f"expected at step 0: {words_of(expected)}")
            lines.append(Curve(label, colour, points, dashed=place > 0))
            if lost := stage.history.not_finite.get(key):
                notes.append(f"{lost} values of {escape(label)} were not finite")
        flags += [
            Flag(event.step, told(event), event.kind)
            for event in stage.history.events
            if event.step is not None and told(event)
        ]
    whole = (0.0, 1.0) if title in SHARES else None
    return line_chart(title, lines, flags=flags, level=level, whole=whole, note="; ".join(notes))


def _fits(key: str, pattern: str) -> bool:
    return key.startswith(pattern[:-1]) if pattern.endswith("*") else key == pattern


def told(event: Event) -> str:
    """The event in words; nothing for one that is a curve already."""
    at = f"step {event.step:g}: " if event.step is not None else ""
    if event.kind in TOLD:
        return at + TOLD[event.kind] if TOLD[event.kind] else ""
    if event.kind != "watchdog":
        return at + event.kind
    watch, value, limit = (
        str(event.values.get("watch", "")),
        event.values.get("value"),
        event.values.get("limit"),
    )
    says = str(event.values.get("what", ""))
    if watch in SEEN and isinstance(value, int | float) and isinstance(limit, int | float):
        says = SEEN[watch].format(value=value, bound=limit)
    elif not says and "value" in event.values:
        says = f"{number(value) if value is not None else 'not finite'}, {number(limit)} is the limit"
    action = ACTIONS.get(str(event.values.get("action")), str(event.values.get("action", "")))
    to = number_of(event.values.get("to"))
    action += f" to step {to:g}" if to is not None else ""
    return at + "; ".join(words for words in (watch, says, action) if words)


def first_loss(stage: Recorded) -> str:
    """What the first loss was, beside what it had to be."""
    found = [
        (name, first, number_of(stage.first(known)))
        for name, known in STARTS.values()
        if (first := number_of(stage.first(name))) is not None
    ]
    return "".join(_first(name, first, expected) for name, first, expected in found)


def _first(name: str, first: float, expected: float | None) -> str:
    what = "forget term" if "forget" in name else "loss"
    if expected is None:
        return f'<p class="step0">The first {what} was <b>{number(first, 6)}</b>.</p>'
    gap = abs(first - expected)
    good = gap <= 0.01 * max(1.0, abs(expected))
    return (
        f'<p class="step0 {"good" if good else "bad"}"><b>{"✓" if good else "✗"}</b> The first {what} was '
        f"<b>{number(first, 6)}</b>; of a policy that is its own reference it is <b>{words_of(expected)}</b> "
        f"(off by {number(gap, 2)}).</p>"
    )


def words_of(value: float) -> str:
    for text, known in (("ln 2", math.log(2)), ("½", 0.5), ("1", 1.0)):
        if abs(value - known) < 1e-6:
            return f"{text} = {number(value)}" if text == "ln 2" else text
    return number(value, 6)


def _figures(stage: Recorded) -> str:
    metrics: Mapping[str, object] = stage.metrics
    return tiles({words: number(metrics[key]) for key, words in FIGURES.items() if key in metrics}, "small")


def _notes(stage: Recorded) -> str:
    lines = [told(event) for event in stage.history.events if event.kind == "watchdog"]
    body = "".join(f'<li class="watchdog">{escape(line)}</li>' for line in lines if line)
    if stage.history.redone:
        body += (
            "<li>Steps after a checkpoint were made twice, by an attempt that was interrupted or taken back; the later "
            "ones are drawn.</li>"
        )
    if collapsed := stage.metrics.get("collapsed"):
        kept = escape(str(stage.metrics.get("kept_step")))
        body += f'<li class="watchdog">collapsed at {escape(str(collapsed))}; its model is that of step {kept}</li>'
    return f'<ul class="remarks">{body}</ul>' if body else ""
