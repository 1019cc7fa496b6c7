"""One iteration's candidates and verdicts: drawn once, judged once, each a file that is whole or not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.illume.critic import Critic, VotesCritic, by_rule, by_votes
from data.illume.items import Item
from data.illume.loop import Judged, derived_seed, shuffled
from data.jsonl import read_jsonl, write_jsonl_atomic
from data.sources import Mixture
from trainers.config import ModelOptions, SamplingOptions
from trainers.fingerprint import only
from trainers.illume.config import IllumeOptions
from trainers.illume.measure import Rule
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
    """Every candidate with its verdict. What people said once is on record, and their file is not read again."""
    file = folder / "judged.jsonl"
    if not file.is_file():
        if isinstance(loop.critic, VotesCritic):
            limit = loop.options.max_judgements
            sizes = {row["id"]: len(row["candidates"]) for row in candidates}
            shown, left = folder / "candidates.jsonl", None if limit is None else limit - spent
            verdicts = by_votes(loop.critic, loop.base, k, shown, sizes, budget=left)
        else:
            judge = by_rule(loop.critic)
            verdicts = {
                row["id"]: [
                    judge(one["text"], loop.items[row["id"]].row, loop.items[row["id"]].where)
                    for one in row["candidates"]
                ]
                for row in candidates
            }
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_jsonl_atomic(
            file,
            (
                Judged(
                    id=row["id"],
                    iteration=k,
                    prompt=one["prompt"],
                    image=row["image"],
                    candidate=one["text"],
                    temperature=one["temperature"],
                    accepted=accepted,
                    score=score,
                    judge=loop.critic.kind,
                    time=now,
                ).to_row()
                for row in candidates
                for one, (accepted, score) in zip(row["candidates"], verdicts[row["id"]], strict=True)
            ),
        )
    return read_judged(folder)


def read_judged(folder: Path) -> list[Judged]:
    return [Judged(**row) for row in read_jsonl(folder / "judged.jsonl")]
