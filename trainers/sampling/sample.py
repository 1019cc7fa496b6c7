"""Candidates: a model answers each prompt several times, and whatever is finished survives a kill.

Finished prompts are appended to `<out>.part`, whole lines only. The same call goes on from there and in the end writes
the file that an uninterrupted run writes: prompts in their order, one row each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from data.jsonl import append_jsonl, read_jsonl, replacing
from data.sources import Mixture
from trainers.config import ModelOptions, SamplingOptions
from trainers.fingerprint import fingerprint, only, start_identity
from trainers.models import load_policy
from trainers.sampling.candidates import figures, finished, write
from trainers.sampling.generate import Answer, Tally, generate, plan_of
from trainers.sampling.parts import ROWS, finished_part, write_part
from trainers.sampling.prompts import Prompt, context_of, read_prompts
from trainers.work import LEDGER, Work


@dataclass
class _Asked:
    """A model with the prompts it is to answer."""

    model: Any
    tokenizer: Any
    prompts: list[Prompt]
    dropped: int
    mark: str
    """Of everything that the answers depend on."""


def sample(
    options: SamplingOptions,
    model_options: ModelOptions,
    start: str,
    prompts: Mixture,
    base: Path,
    out: Path,
    work: Work,
    *,
    pictures: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Write one row of candidates for each prompt to `out`; return the figures.

    `pictures` are the rows' pictures by their ids, where they do not lie beside the rows.
    """
    asked = _open(options, model_options, start, prompts, base, work, pictures)
    if (earlier := finished(out, asked.mark)) is not None:
        return earlier
    part = out.with_name(out.name + ".part")
    rows, tally = _answer(asked, options, part, asked.mark, asked.prompts, work)
    found_figures = figures(rows, asked.dropped) | {
        "tokens_per_second": round(tally.tokens / tally.seconds, 1) if tally.answers else None,
    }
    return write(out, rows, found_figures, asked.mark, options, work, part)


def sample_shards(
    options: SamplingOptions,
    model_options: ModelOptions,
    start: str,
    prompts: Mixture,
    base: Path,
    works: Mapping[int, Work],
    count: int,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Make these of `count` shards, each of whole batches; `parts.join` puts them together."""
    asked, ledger = None, b""
    for index, work in works.items():
        work.out.mkdir(parents=True, exist_ok=True)
        if asked is None:
            asked = _open(options, model_options, start, prompts, base, work)
            ledger = (work.out / LEDGER).read_bytes()
        with replacing(work.out / LEDGER) as file:
            file.write(ledger)
        # The batches, and with them the shards, depend on it, though the answers do not.
        whole = {"fingerprint": asked.mark, "batch_size": options.batch_size, "shards": count}
        mark = fingerprint(whole, index)
        metrics = finished_part(work.out, mark)
        if metrics is None:
            places = {prompt.key: place for place, prompt in enumerate(asked.prompts)}
            batches = plan_of(asked.model, _ids(asked.prompts), options, greedy=False)
            keys = {key for batch in batches[index::count] for key in batch}
            mine = [prompt for prompt in asked.prompts if prompt.key in keys]
            part = work.out / (ROWS + ".part")
            rows, tally = _answer(asked, options, part, mark, mine, work)
            metrics = {
                "prompts": len(rows), "answers": tally.answers, "tokens": tally.tokens,
                "seconds": round(tally.seconds, 3),
            }  # fmt: skip
            told = {**whole, "prompts": len(asked.prompts), "dropped": asked.dropped}
            write_part(work.out, rows, [places[p.key] for p in mine], told, mark, metrics, work.resolved)
            part.unlink(missing_ok=True)
        yield index, metrics


def _open(
    options: SamplingOptions,
    model_options: ModelOptions,
    start: str,
    prompts: Mixture,
    base: Path,
    work: Work,
    pictures: Mapping[str, Path] | None = None,
) -> _Asked:
    loaded = load_policy(start, model_options, work)
    found, ledger = read_prompts(
        prompts,
        base,
        loaded.tokenizer,
        context_of(loaded.model),
        work,
        room=options.max_new_tokens,
        reserved=("candidates",),
        eyes=loaded.eyes,
        pictures=pictures,
    )
    mark = fingerprint(
        only(SamplingOptions, options),
        only(ModelOptions, model_options),
        start_identity(start),
        [[prompt.key, prompt.ids, prompt.row] for prompt in found],
    )
    return _Asked(loaded.model, loaded.tokenizer, found, ledger.rows_dropped, mark)


def _ids(prompts: list[Prompt]) -> dict[str, list[int]]:
    return {prompt.key: prompt.ids for prompt in prompts}


def _answer(
    asked: _Asked, options: SamplingOptions, part: Path, mark: str, wanted: list[Prompt], work: Work
) -> tuple[list[dict[str, Any]], Tally]:
    """Rows for these prompts, in their order; those that an interrupted call left in `part` are taken from it."""
    rows = _resume(part, mark, work)
    if rows:
        work.say(f"goes on: {len(rows)} of {len(wanted)} prompts have their candidates")
    by_key = {prompt.key: prompt for prompt in wanted}

    def keep(answers: list[Answer]) -> None:
        made = [
            _row(by_key[key], list(group)) for key, group in groupby(answers, key=lambda answer: answer.key)
        ]
        append_jsonl(part, made)
        rows.update((row["id"], row) for row in made)

    tally = generate(
        asked.model,
        asked.tokenizer,
        _ids(asked.prompts),
        options,
        greedy=False,
        on_done=keep,
        work=work,
        done=frozenset(rows),
        among=frozenset(by_key),
    )
    return [rows[prompt.key] for prompt in wanted], tally


def _row(prompt: Prompt, answers: list[Answer]) -> dict[str, Any]:
    candidates = [
        {
            "text": answer.text,
            "index": answer.index,
            "finished": answer.finished,
            "ended_by": answer.ended_by,
            "logprob": None if answer.logprob_sum is None else round(answer.logprob_sum, 4),
            "tokens": len(answer.ids),
        }
        for answer in answers
    ]
    return {"id": prompt.key, "prompt": prompt.row["prompt"], "candidates": candidates} | prompt.row


def _resume(part: Path, mark: str, work: Work) -> dict[str, dict[str, Any]]:
    """Rows that an interrupted call left; the file starts with the mark of what they were made from."""
    if part.is_file():
        lines = read_jsonl(part, torn="skip")
        if lines and lines[0].get("fingerprint") == mark:
            return {row["id"]: row for row in lines[1:]}
        if lines:
            aside = part.with_name(part.name + ".old")
            os.replace(part, aside)
            work.say(f"{aside} was sampled with other settings, prompts or weights: not used")
    append_jsonl(part, [{"fingerprint": mark}])
    return {}
