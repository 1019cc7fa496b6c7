"""Answers in batches: each prompt is read once, its cache repeated for all its samples, finished answers leave.

An answer's random numbers depend on (seed, prompt key, sample index) and on nothing else. Its text is therefore the
same in every batch, up to the rounding of batched matrix products; and the batches depend on the prompts alone, so
that an interrupted run that goes on gives the same answers to the last bit. Continuous batching, where a recipe asks
for it, promises neither for drawn answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch

from data.errors import TrainingError
from trainers.config import GenerationOptions, SamplingOptions
from trainers.sampling.continuous import by_continuous, choose_engine
from trainers.sampling.decoding import by_model_generate, by_prefill, obstacle_to_prefill
from trainers.sampling.drawing import EndedBy, Row, Seen, read_rules
from trainers.sampling.stopping import text_of
from trainers.work import Work


@dataclass(frozen=True)
class Answer:
    """One finished answer."""

    key: str
    index: int
    ids: list[int]
    """Its tokens, with the end token or those of the stop string."""
    text: str
    """Without what ended it."""
    ended_by: EndedBy
    """`length`: it was cut at max_new_tokens."""
    logprob_sum: float | None
    """Of all its tokens under the model's own distribution: before temperature, penalties and truncation. None where
    continuous batching drew from another one."""

    @property
    def finished(self) -> bool:
        return self.ended_by != "length"


@dataclass
class Tally:
    """What one call wrote."""

    answers: int = 0
    tokens: int = 0
    ended_by_eos: int = 0
    ended_by_stop: int = 0
    """Answers that a stop string ended."""
    cut: int = 0
    """Answers that stopped at max_new_tokens."""
    seconds: float = 0.0

    def count(self, rows: Sequence[Row], fresh: Sequence[Row]) -> None:
        """`fresh` are those of the rows that had not been written before."""
        self.answers += len(fresh)
        self.tokens += sum(len(row.ids) for row in rows)
        self.ended_by_eos += sum(row.ended_by == "eos" for row in fresh)
        self.ended_by_stop += sum(row.ended_by == "stop" for row in fresh)
        self.cut += sum(row.ended_by == "length" for row in fresh)


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Mapping[str, Sequence[int]],
    options: GenerationOptions,
    *,
    greedy: bool,
    on_done: Callable[[list[Answer]], None],
    work: Work,
    done: Collection[str] = (),
    among: Collection[str] | None = None,
    seen: Seen | None = None,
) -> Tally:
    """Answer every prompt (key to token ids), `num_return_sequences` times unless greedy.

    `on_done` gets the answers of whole prompts, one batch of prompts at a time. Pass all prompts again to go on after
    an interruption, and in `done` the keys that have their answers: the batches are then the same as before. So they
    are where only the prompts `among` are to be answered, if those are whole batches.
    """
    samples = _samples(options, greedy)
    asked = len(prompts) if among is None else len(among)
    left_out = frozenset[str]() if among is None else frozenset(prompts) - frozenset(among)
    rules = replace(read_rules(model, tokenizer, options, greedy=greedy, work=work), seen=seen)
    obstacle = obstacle_to_prefill(model)
    continuous = choose_engine(model, rules, options, work) == "continuous"
    if continuous:
        work.choose(
            "sampler",
            "continuous batching",
            "an answer that is over makes room for the next",
        )
    elif obstacle:
        work.choose(
            "sampler", "model.generate", f"{obstacle}: every prompt is read once for each of its samples"
        )
    else:
        work.choose("sampler", "prefill once", "the cache of a prompt is repeated for its samples")
    tally, already = Tally(), len(set(done)) * samples
    began = time.perf_counter()

    def report(open_rows: Sequence[Row]) -> None:
        over = tally.answers + sum(row.over for row in open_rows)
        written = tally.tokens + sum(len(row.ids) for row in open_rows)
        speed = written / max(time.perf_counter() - began, 1e-9)
        total = asked * samples
        work.progress(done=already + over, total=total, unit="answers", tokens_per_second=round(speed, 1))

    def take(rows: Sequence[Row]) -> None:
        fresh = [row for row in rows if row.key not in done and row.key not in left_out]
        tally.count(rows, fresh)
        on_done([_answer(row, tokenizer) for row in fresh])
        report(())

    try:
        with torch.no_grad():
            if continuous:
                left = {k: ids for k, ids in prompts.items() if k not in done and k not in left_out}
                if left:
                    with closing(by_continuous(model, rules, options, left, samples, report)) as written:
                        for rows in written:
                            take(rows)
            else:
                write = by_model_generate if obstacle else by_prefill
                for group in plan_of(model, prompts, options, greedy=greedy):
                    if not all(key in done or key in left_out for key in group):
                        batch = {key: prompts[key] for key in group}
                        take(list(write(model, rules, batch, samples, options.batch_size, report)))
    except torch.OutOfMemoryError as full:
        raise TrainingError(
            f"memory ran out with {options.batch_size} answers side by side",
            way_out=f"Set batch_size to {max(1, options.batch_size // 2)}: answers stay the same.",
        ) from full
    tally.seconds = time.perf_counter() - began
    return tally


def plan_of(
    model: Any, prompts: Mapping[str, Sequence[int]], options: GenerationOptions, *, greedy: bool
) -> list[list[str]]:
    """The batches in which this model answers, whichever of them are its to answer now."""
    same_length = obstacle_to_prefill(model) is not None
    return list(plan(prompts, _samples(options, greedy), options.batch_size, same_length=same_length))


def _samples(options: GenerationOptions, greedy: bool) -> int:
    return 1 if greedy or not isinstance(options, SamplingOptions) else options.num_return_sequences


def plan(
    prompts: Mapping[str, Sequence[int]], samples: int, batch_size: int, *, same_length: bool = False
) -> Iterator[list[str]]:
    """Prompts that are answered side by side; the longest first, so that memory runs out early or never."""
    room = max(1, batch_size // samples)
    group: list[str] = []
    for key in sorted(prompts, key=lambda key: -len(prompts[key])):
        if group and (len(group) == room or (same_length and len(prompts[key]) != len(prompts[group[0]]))):
            yield group
            group = []
        group.append(key)
    if group:
        yield group


def _answer(row: Row, tokenizer: Any) -> Answer:
    text = text_of(tokenizer, row.ids) if row.text is None else row.text
    return Answer(row.key, row.index, row.ids, text, row.ended_by or "length", row.logprob)
