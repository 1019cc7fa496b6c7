"""Several models answer the same held-out prompts greedily, and a rubric compares them prompt by prompt."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from data.critics import Rubric
from data.errors import DataError, RecipeError
from data.jsonl import read_jsonl, replacing, write_jsonl_atomic
from data.ledger import Ledger
from data.overlap import compare_sources
from data.sources import Mixture, read
from trainers import policy
from trainers.comparison import compare, lines
from trainers.config import Dtype, GenerationOptions, ModelOptions
from trainers.fingerprint import fingerprint, only, start_identity
from trainers.models import load_policy
from trainers.sampling.generate import Answer, generate
from trainers.sampling.prompts import context_of, read_prompts
from trainers.work import Work

COMPARISON = "comparison.json"
RESERVED = ("differences", "lines", "overlap", "samples", "score")


def evaluate(
    options: GenerationOptions,
    starts: Mapping[str, str],
    prompts: Mixture,
    critic: Rubric,
    base: Path,
    samples: int,
    bootstrap: int,
    work: Work,
    *,
    dtype: Dtype = "auto",
    trained_on: Mapping[str, Mixture] | None = None,
) -> dict[str, Any]:
    """Figures by label, their paired differences, and lines to print. A label whose answers are there is not redone."""
    files = _files(starts, work.out)
    dtype = _shared_dtype(starts) if dtype == "auto" else dtype
    held_out = _held_out(prompts, base, critic)
    answers: dict[str, list[dict[str, Any]]] = {}
    for label, start in starts.items():
        mark = fingerprint(only(GenerationOptions, options), critic, start_identity(start), held_out, dtype)
        found = _earlier(files[label], mark)
        if found is None:
            asked = [answer["id"] for answer in next(iter(answers.values()))] if answers else None
            found = _answer(options, label, start, dtype, prompts, critic, base, asked, work)
            write_jsonl_atomic(files[label], ({**answer, "made_from": mark} for answer in found))
        else:
            work.say(f"{label}: its {len(found)} answers are there already")
        answers[label] = found
    figures: dict[str, Any] = {label: _figures(found) for label, found in answers.items()}
    figures["overlap"] = _overlap(trained_on or {}, prompts, base, work)
    scores = {label: [answer["score"] for answer in found] for label, found in answers.items()}
    # Figures that are plain values stand in the run's closing table.
    figures["score"] = " -> ".join(f"{label} {figures[label]['score']:.3f}" for label in answers)
    figures["differences"] = compare(scores, resamples=bootstrap, seed=options.seed)
    figures["samples"] = [
        {
            "prompt": first["prompt"],
            "answers": {label: found[i]["answer"] for label, found in answers.items()},
        }
        for i, first in enumerate(next(iter(answers.values()))[:samples])
    ]
    with replacing(work.out / COMPARISON) as file:
        file.write(json.dumps(figures, indent=2, ensure_ascii=False).encode() + b"\n")
    figures["lines"] = lines(list(answers), figures, options.max_new_tokens)
    return figures


def _held_out(prompts: Mixture, base: Path, critic: Rubric) -> list[dict[str, Any]]:
    """All rows; one that the critic cannot judge is told before a model spends hours on answers."""
    rows: list[dict[str, Any]] = []
    for where, row in read(prompts, base, Ledger(name="prompts")):
        try:
            critic.score("an answer", row)
        except DataError as fault:
            raise DataError(fault.what, where=where, way_out=fault.way_out) from fault
        rows.append(row)
    return rows


def _shared_dtype(starts: Mapping[str, str]) -> Dtype:
    """So that a base and what was trained from it are compared in the same numbers."""
    made = [policy.read(start).dtype for start in starts.values()]
    return cast("Dtype", next((dtype for dtype in made if dtype != "auto"), "auto"))


def _overlap(
    trained_on: Mapping[str, Mixture], prompts: Mixture, base: Path, work: Work
) -> dict[str, dict[str, int]]:
    """How many held-out prompts stand in what each stage was trained on."""
    found: dict[str, dict[str, int]] = {}
    for name, training in trained_on.items():
        ledger = Ledger(name=f"rows of {name}")
        compare_sources(ledger, "evaluate", training, prompts, base, evaluation_among=("prompt",))
        shared = ledger.overlap["evaluate"]
        found[name] = {"prompts": shared.prompts, "exact": shared.exact, "near": shared.near}
        work.say(
            f"{shared.exact} exact and {shared.near} near copies among {shared.prompts} held-out prompts "
            f"stand in the rows of {name}"
        )
        for place in shared.examples:
            work.say(f"  {place}")
    return found


def _answer(
    options: GenerationOptions,
    label: str,
    start: str,
    dtype: Dtype,
    prompts: Mixture,
    critic: Rubric,
    base: Path,
    asked: list[str] | None,
    work: Work,
) -> list[dict[str, Any]]:
    # A policy that a stage made has a number type of its own; a model from outside is read in the one they share.
    made = policy.read(start).dtype != "auto"
    loaded = load_policy(start, ModelOptions(model=start, dtype="auto" if made else dtype), work)
    found, _ = read_prompts(
        prompts,
        base,
        loaded.tokenizer,
        context_of(loaded.model),
        work,
        room=options.max_new_tokens,
        eyes=loaded.eyes,
    )
    keys = [prompt.key for prompt in found]
    if asked is not None and keys != asked:
        raise DataError(
            f"{label} can answer {len(keys)} of the prompts, the models before it {len(asked)}: "
            "models are compared on the same ones",
            way_out="shorten or leave out the prompts that do not fit the shortest context",
        )
    by_key: dict[str, Answer] = {}
    work.say(f"{label}: answers {len(found)} prompts")
    generate(
        loaded.model,
        loaded.tokenizer,
        {prompt.key: prompt.ids for prompt in found},
        options,
        greedy=True,
        on_done=lambda made: by_key.update((answer.key, answer) for answer in made),
        work=work,
    )
    del loaded
    _free()
    rows: list[dict[str, Any]] = []
    for prompt in found:
        answer = by_key[prompt.key]
        scored = critic.score(answer.text, prompt.row)
        rows.append(
            {
                "id": prompt.key,
                "prompt": prompt.row["prompt"],
                "answer": answer.text,
                "score": scored.score,
                "parts": dict(scored.parts),
                "finished": answer.finished,
                "tokens": len(answer.ids),
            }
        )
    return rows


def _free() -> None:
    """Before the next model is loaded; two side by side might not fit."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _files(starts: Mapping[str, str], out: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for label in starts:
        if label in RESERVED:
            raise RecipeError(f"a model cannot be labelled `{label}`", way_out="choose another label")
        file = out / f"answers-{re.sub(r'[^A-Za-z0-9._-]+', '_', label)}.jsonl"
        if file in files.values():
            raise RecipeError(f"the label `{label}` gives the same file name as another: {file.name}")
        files[label] = file
    return files


def _earlier(file: Path, mark: str) -> list[dict[str, Any]] | None:
    if not file.is_file():
        return None
    rows = read_jsonl(file)
    if not rows or any(row.pop("made_from", None) != mark for row in rows):
        return None
    return rows


def _figures(answers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "prompts": len(answers),
        "score": round(fmean(answer["score"] for answer in answers), 6),
        "parts": {
            name: round(fmean(answer["parts"][name] for answer in answers), 6) for name in answers[0]["parts"]
        },
        "words": round(fmean(len(answer["answer"].split()) for answer in answers), 2),
        "cut": round(fmean(not answer["finished"] for answer in answers), 4),
    }
