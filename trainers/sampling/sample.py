"""Candidates: a model answers each prompt several times, and whatever is finished survives a kill.

Finished prompts are appended to `<out>.part`, whole lines only. The same call goes on from there and in the end writes
the file that an uninterrupted run writes: prompts in their order, one row each.
"""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path
from typing import Any

from data.jsonl import append_jsonl, read_jsonl
from data.sources import Mixture
from trainers.config import ModelOptions, SamplingOptions
from trainers.fingerprint import fingerprint, only, start_identity
from trainers.models import load_policy
from trainers.sampling.candidates import figures, finished, write
from trainers.sampling.generate import Answer, generate
from trainers.sampling.prompts import Prompt, context_of, read_prompts
from trainers.work import Work


def sample(
    options: SamplingOptions,
    model_options: ModelOptions,
    start: str,
    prompts: Mixture,
    base: Path,
    out: Path,
    work: Work,
) -> dict[str, Any]:
    """Write one row of candidates for each prompt to `out`; return the figures."""
    loaded = load_policy(start, model_options, work)
    model, tokenizer = loaded.model, loaded.tokenizer
    found, ledger = read_prompts(
        prompts,
        base,
        tokenizer,
        context_of(model),
        work,
        room=options.max_new_tokens,
        reserved=("candidates",),
    )
    mark = fingerprint(
        only(SamplingOptions, options),
        only(ModelOptions, model_options),
        start_identity(start),
        [[prompt.key, prompt.ids, prompt.row] for prompt in found],
    )
    if (earlier := finished(out, mark)) is not None:
        return earlier
    part = out.with_name(out.name + ".part")
    rows = _resume(part, mark, work)
    if rows:
        work.say(f"goes on: {len(rows)} of {len(found)} prompts have their candidates")
    by_key = {prompt.key: prompt for prompt in found}

    def keep(answers: list[Answer]) -> None:
        made = [
            _row(by_key[key], list(group)) for key, group in groupby(answers, key=lambda answer: answer.key)
        ]
        append_jsonl(part, made)
        rows.update((row["id"], row) for row in made)

    tally = generate(
        model,
        tokenizer,
        {prompt.key: prompt.ids for prompt in found},
        options,
        greedy=False,
        on_done=keep,
        work=work,
        done=frozenset(rows),
    )
    ordered = [rows[prompt.key] for prompt in found]
    found_figures = figures(ordered, ledger.rows_dropped) | {
        "tokens_per_second": round(tally.tokens / tally.seconds, 1) if tally.answers else None,
    }
    return write(out, ordered, found_figures, mark, options, work, part)


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
