"""One iteration's candidates and verdicts: drawn once, judged once, each a file that is whole or not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.illume.critic import Critic, Rule
from data.illume.items import Item
from data.illume.loop import Judged, derived_seed, shuffled
from data.illume.verdicts import Found, Sheet
from data.jsonl import read_jsonl, write_jsonl_atomic
from data.sources import Mixture
from trainers.config import ModelOptions, SamplingOptions
from trainers.fingerprint import only
from trainers.illume.config import IllumeOptions
from trainers.illume.critics import verdicts_of
from trainers.sampling.sample import sample
from trainers.work import Work

ITERATIONS = "iterations"


@dataclass(frozen=True)
class Loop:
    """All that stays the same from one iteration to the next."""

    options: IllumeOptions
    critic: Critic
    start: str
    items: dict[str, Item]
    base: Path
    """Against which paths of votes are read."""
    work: Work
    name: str
    held_out: Sequence[Item] = ()
    rule: Rule | None = None
    """Judges held-out explanations."""
    second: Rule | None = None
    judge: str | None = None
    """The model that judges, where one does and no server."""

    def folder(self, iteration: int) -> Path:
        return self.work.out / ITERATIONS / f"{iteration:02d}"

    @property
    def connectives(self) -> tuple[str | None, ...]:
        return self.options.connectives or (None,)


def draw(loop: Loop, k: int, model: str, folder: Path, work: Work) -> list[dict[str, Any]]:
    """One row for each prompt with its different explanations, in an order that tells nothing of their origin."""
    file = folder / "candidates.jsonl"
    if file.is_file():
        return read_jsonl(file)
    options = loop.options
    drawn: dict[str, dict[str, dict[str, Any]]] = {}
    pictures = {key: item.picture for key, item in loop.items.items() if item.picture is not None}
    for c, connective in enumerate(loop.connectives):
        asked = folder / "scratch" / f"prompts-{c}.jsonl"
        rows = [
            {"id": key, "prompt": item.explain(item.answer, connective)} for key, item in loop.items.items()
        ]
        write_jsonl_atomic(asked, rows)
        for temperature in options.temperatures:
            out = folder / "scratch" / f"drawn-{c}-{temperature:g}"
            out.mkdir(parents=True, exist_ok=True)
            how = SamplingOptions(
                num_return_sequences=options.num_return_sequences,
                temperature=temperature,
                top_vocabulary=options.top_vocabulary,
                max_new_tokens=options.max_new_tokens,
                batch_size=options.batch_size,
                seed=derived_seed(options.seed, "draw", k, c, temperature),
                generation_engine="prefill",
            )
            mixture = Mixture.model_validate(str(asked))
            sample(
                how,
                only(ModelOptions, options),
                model,
                mixture,
                loop.base,
                out / "rows.jsonl",
                replace(work, out=out),
                pictures=pictures,
            )
            for row in read_jsonl(out / "rows.jsonl"):
                for one in row["candidates"]:
                    text = one["text"].strip()
                    text = text.lower() if options.lowercase else text
                    if text:
                        extra = {"text": text, "temperature": temperature, "prompt": row["prompt"]}
                        drawn.setdefault(row["id"], {}).setdefault(text, extra)
    made: list[dict[str, Any]] = []
    for key, item in loop.items.items():
        texts = drawn.get(key, {})
        if texts:
            order = shuffled(texts, options.seed, key)
            shown = {"prompt": item.explain(item.answer, loop.connectives[0]), "image": item.row.get("image")}
            made.append({"id": key, **shown, "candidates": [texts[text] for text in order]})
    if not made:
        raise DataError("the model wrote nothing but empty explanations", where=str(folder))
    write_jsonl_atomic(file, made)
    return made


def judge_all(loop: Loop, k: int, candidates: list[dict[str, Any]], folder: Path, spent: int) -> list[Judged]:
    """Every candidate with its verdict. What was said once is on record, and nobody is asked again."""
    file = folder / "judged.jsonl"
    if not file.is_file():
        limit = loop.options.max_judgements
        left = None if limit is None else limit - spent
        sheet = Sheet(k, candidates, loop.items, folder / "candidates.jsonl", left)
        work = replace(loop.work, out=folder)
        found = verdicts_of(loop.critic, sheet, loop.work.out, loop.base, loop.judge, loop.options, work)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if found.figures:
            told = ", ".join(f"{value} {key}" for key, value in found.figures.items())
            loop.work.say(f"iteration {k}, {loop.critic.kind}: {told}")
        write_jsonl_atomic(
            file,
            (one.to_row() for row in candidates for one in _judged(row, found, k, loop.critic.kind, now)),
        )
    return read_judged(folder)


def _judged(row: dict[str, Any], found: Found, k: int, kind: str, now: str) -> Iterator[Judged]:
    shared: dict[str, Any] = {"id": row["id"], "iteration": k, "image": row["image"], "time": now}
    for one, said in zip(row["candidates"], found.verdicts[row["id"]], strict=True):
        yield Judged(
            prompt=one["prompt"],
            candidate=one["text"],
            temperature=one["temperature"],
            accepted=said.accepted,
            score=said.score,
            judge=said.judge,
            n_votes=said.n_votes,
            agreement=said.agreement,
            vote_ids=list(said.vote_ids),
            **shared,
        )
    for one in found.written.get(row["id"], ()):
        yield Judged(
            prompt=row["prompt"],
            candidate=one.text,
            temperature=None,
            accepted=True,
            score=1.0,
            judge=kind,
            n_votes=1,
            agreement=1.0,
            vote_ids=[one.vote_id],
            **shared,
        )


def read_judged(folder: Path) -> list[Judged]:
    return [Judged(**row) for row in read_jsonl(folder / "judged.jsonl")]
