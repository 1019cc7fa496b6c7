"""The ILLUME loop: explain, judge, keep, tune, and again; every iteration is a folder that is finished or goes on.

`iterations/NN/` holds candidates.jsonl, judged.jsonl, accepted.jsonl (all that is accepted so far), the model, and
done.json, written last. A killed loop goes on inside the iteration it was in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.errors import DataError, TrainingError
from data.illume.items import Item
from data.illume.loop import Judged, Kept, Round, accumulate, count, derived_seed, draw_placebo, mix, why_stop
from data.illume.rows import negatives, pairs, sft_rows, unpaired_rows
from data.jsonl import read_jsonl, replacing, write_jsonl_atomic
from data.pictures import COLUMN
from trainers import policy
from trainers.config import ModelOptions
from trainers.fingerprint import only
from trainers.illume.candidates import ITERATIONS, Loop, draw, judge_all, read_judged
from trainers.illume.config import IllumeOptions
from trainers.illume.measure import SAMPLES, measure
from trainers.illume.tune import Measure, tune
from trainers.models import Loaded, load_policy
from trainers.training import ranks
from trainers.training.loop import MODEL
from trainers.work import Log, Work

__all__ = ["ITERATIONS", "SHAPES", "Loop", "adopt", "illume", "texts_learned"]

DONE = "done.json"
SHAPES = {
    "accepted": "accepted.jsonl",
    "pairs": "pairs.jsonl",
    "unpaired": "unpaired.jsonl",
    "rejected": "rejected.jsonl",
}
"""Files of rows that the loop leaves behind."""


def illume(loop: Loop) -> dict[str, Any]:
    """Iterate until a rule says enough; leave the best model in `out/model` and the rows beside it."""
    if ranks.world_size() > 1:
        raise TrainingError(
            "the ILLUME loop runs in one process, and several were started",
            where=loop.name,
            way_out="Give the stage one GPU: `resources: {gpus: 1}`.",
        )
    _check_apart(loop)
    options, say = loop.options, loop.work.say
    base = _base_figures(loop)
    accepted: dict[str, list[Kept]] = {}
    rounds: list[Round] = []
    found: list[dict[str, Any]] = []
    judged: list[Judged] = []
    stop: str | None = None
    while stop is None:
        k = len(rounds)
        previous = loop.folder(k - 1) / MODEL if k else None
        done = _finished(loop.folder(k))
        if done is None:
            done = _iterate(loop, k, previous, accepted, found)
        accepted = _read_accepted(loop.folder(k))
        judged += read_judged(loop.folder(k))
        found.append(done)
        rounds.append(Round(_value(options, done.get("held_out")), _acceptance(done), done["judged"]))
        say(_line(k, done))
        stop = why_stop(
            rounds,
            base_score=_value(options, base),
            max_iterations=options.max_iterations,
            patience=options.patience,
            target_acceptance=options.target_acceptance,
            max_judgements=options.max_judgements,
        )
    say(f"stops: {stop}")
    best = _best(rounds, options)
    if base is not None and (rounds[best].score or 0.0) <= (_value(options, base) or 0.0):
        say("no iteration explains held-out prompts better than the model that it started from")
    _write_rows(loop, accepted, judged)
    # It is there already where the stage was killed before it could say so, and the iteration's own may be half gone.
    if not (loop.work.out / MODEL / policy.FILE).is_file():
        adopt(loop.folder(best) / MODEL, loop.work.out / MODEL)
    for k in range(len(rounds)):
        shutil.rmtree(loop.folder(k) / MODEL, ignore_errors=True)
    return _figures(base, found, best, stop)


def _iterate(
    loop: Loop, k: int, previous: Path | None, accepted: dict[str, list[Kept]], earlier: list[dict[str, Any]]
) -> dict[str, Any]:
    options, folder = loop.options, loop.folder(k)
    folder.mkdir(parents=True, exist_ok=True)
    work = replace(loop.work, out=folder, log=_after(earlier, loop.work.log))
    spent = sum(one["judged"] for one in earlier)
    candidates = draw(loop, k, str(previous) if previous else loop.start, folder, work)
    judged = judge_all(loop, k, candidates, folder, spent)
    texts = options.placebo_texts[k] if options.placebo_texts is not None else None
    seed = derived_seed(options.seed, "placebo", k)
    taken = judged if options.accept == "critic" else draw_placebo(judged, texts, seed)
    grown = accumulate(accepted, taken, max_per_prompt=options.max_per_prompt, how=options.accumulate)
    known = sum(one.accepted is not None for one in judged)
    if not count(grown.accepted):
        raise TrainingError(
            f"nothing to learn: of {known} judged explanations none was accepted",
            where=str(folder / "judged.jsonl"),
            way_out="Lower the critic's threshold, draw more of them (num_return_sequences, temperatures), or start "
            "from a model that explains better.",
        )
    mixed = mix(
        list(loop.items),
        grown.accepted,
        ratio=options.answer_only_ratio,
        rows=options.answer_only_rows,
        seed=derived_seed(options.seed, "mix", k if options.resample_answer_only else 0),
        weight=options.balance,
        min_weight=options.min_balance,
    )
    write_jsonl_atomic(
        folder / "accepted.jsonl", (one.to_row() for texts in grown.accepted.values() for one in texts)
    )
    work.say(
        f"iteration {k}: {grown.new} new explanations, {len(mixed.explained)} in all on "
        f"{sum(map(bool, grown.accepted.values()))} of {len(loop.items)} prompts; {len(mixed.answered)} answers alone, "
        f"w {mixed.weight:.2f}"
    )
    trained = tune(
        options, loop.start, previous, loop.items, mixed, _measure_of(loop, work), work, name=loop.name
    )
    fits = sum(one.accepted is True for one in judged)
    figures: dict[str, Any] = {
        "iteration": k,
        "candidates": len(judged),
        "judged": known,
        "accepted": fits,
        "acceptance": round(fits / known, 6) if known else None,
        "new": grown.new,
        "duplicates": grown.duplicates,
        "over_cap": grown.over_cap,
        "covered": sum(map(bool, grown.accepted.values())),
        "explanations": len(mixed.explained),
        "answer_only": len(mixed.answered),
        "balance": round(mixed.weight, 6),
        **trained,
    }
    loop.work.log({"event": "iteration", **{k: v for k, v in figures.items() if isinstance(v, int | float)}})
    _write_json(folder / DONE, figures)
    shutil.rmtree(work.scratch, ignore_errors=True)
    return figures


def _after(earlier: list[dict[str, Any]], log: Log) -> Log:
    """Lines of metrics.jsonl that count steps over all iterations: each trainer begins at 0."""
    steps = sum(one["steps"] for one in earlier)

    def counted(line: dict[str, Any]) -> None:
        step = {"step": steps + line["step"]} if "step" in line else {}
        log({**line, "iteration": len(earlier), **step})

    return counted


def _check_apart(loop: Loop) -> None:
    """Acceptance on prompts that were learned would rise by heart."""
    known = {_question(item) for item in loop.items.values()}
    shared = [item.where for item in loop.held_out if _question(item) in known]
    if shared:
        raise DataError(
            f"{len(shared)} held-out prompts stand in `data` too: {', '.join(shared[:3])}",
            where="eval_data",
            way_out="Take them out of one of the two.",
        )


def _question(item: Item) -> tuple[str, Path | None]:
    """The same words about another picture are another question."""
    return json.dumps(item.prompt, sort_keys=True), item.picture


def _measure_of(loop: Loop, work: Work) -> Measure | None:
    if loop.rule is None or not loop.held_out:
        return None
    rule = loop.rule

    def of(loaded: Loaded) -> dict[str, Any]:
        return measure(loaded, loop.held_out, loop.options, rule, loop.second, work)

    return of


def _base_figures(loop: Loop) -> dict[str, Any] | None:
    """The start's own figures, before anything is learned."""
    of = _measure_of(loop, loop.work)
    if of is None:
        return None
    file = loop.work.out / ITERATIONS / "base.json"
    if not file.is_file():
        loaded = load_policy(loop.start, only(ModelOptions, loop.options), loop.work)
        _write_json(file, of(loaded))
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    loop.work.say(f"before: acceptance {found['acceptance']:.3f} on {len(loop.held_out)} held-out prompts")
    return found


def _value(options: IllumeOptions, held_out: dict[str, Any] | None) -> float | None:
    if held_out is None:
        return None
    return float(held_out["acceptance" if options.select_by == "last" else options.select_by])


def _acceptance(done: dict[str, Any]) -> float | None:
    return done["held_out"]["acceptance"] if "held_out" in done else done["acceptance"]


def _best(rounds: Sequence[Round], options: IllumeOptions) -> int:
    scores = [one.score for one in rounds]
    if options.select_by == "last" or None in scores:
        return len(rounds) - 1
    return max(range(len(scores)), key=lambda k: (scores[k] or 0.0, -k))


def _line(k: int, done: dict[str, Any]) -> str:
    held = done.get("held_out")
    told = f"; held out: acceptance {held['acceptance']:.3f}" if held else ""
    if held and "second" in held:
        told += f", second measure {held['second']:.3f}"
    if held:
        told += f", right answers {held['answer_accuracy']:.3f}"
    share = "none judged" if done["acceptance"] is None else f"{done['acceptance']:.3f} accepted"
    return f"iteration {k}: {share} of {done['judged']}, {done['covered']} prompts covered{told}"


def _figures(
    base: dict[str, Any] | None, found: Sequence[dict[str, Any]], best: int, stop: str
) -> dict[str, Any]:
    chosen = found[best]
    figures: dict[str, Any] = {
        "iterations": len(found),
        "chosen_iteration": best,
        "stopped": stop,
        "candidates": sum(one["candidates"] for one in found),
        "judged": sum(one["judged"] for one in found),
        "explanations": found[-1]["explanations"],
        "covered": " -> ".join(str(one["covered"]) for one in found),
        "steps": sum(one["steps"] for one in found),
    }
    if base is not None:
        for key in ("acceptance", "second", "answer_accuracy"):
            if key in base:
                values = [base[key], *(one["held_out"][key] for one in found)]
                figures[f"held_out_{key}"] = " -> ".join(f"{value:.3f}" for value in values)
        figures["acceptance_before"] = base["acceptance"]
        figures["acceptance_after"] = chosen["held_out"]["acceptance"]
    return figures


def _write_rows(loop: Loop, accepted: dict[str, list[Kept]], judged: Sequence[Judged]) -> None:
    most = loop.options.max_pairs_per_prompt
    made = (sft_rows(accepted), pairs(judged, max_per_prompt=most), unpaired_rows(judged), negatives(judged))
    for name, rows in zip(SHAPES.values(), made, strict=True):
        write_jsonl_atomic(loop.work.out / name, rows)
    write_jsonl_atomic(loop.work.out / "judged.jsonl", (one.to_row() for one in judged))
    # A row's picture lies below the folder of the row: so do those of the rows that were just written, and of samples.
    for item in [*loop.items.values(), *loop.held_out[:SAMPLES]]:
        if item.picture is not None:
            copy = loop.work.out / str(item.row[COLUMN])
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item.picture, copy)


def texts_learned(folder: Path) -> tuple[int, ...]:
    """How many texts each iteration of a finished loop accepted that it had not before."""
    found = [_finished(one) for one in sorted((folder / ITERATIONS).glob("[0-9]*"))]
    return tuple(int(one["new"]) for one in found if one is not None)


def _read_accepted(folder: Path) -> dict[str, list[Kept]]:
    found: dict[str, list[Kept]] = {}
    for row in read_jsonl(folder / "accepted.jsonl"):
        found.setdefault(row["id"], []).append(Kept(**row))
    return found


def _finished(folder: Path) -> dict[str, Any] | None:
    file = folder / DONE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _write_json(file: Path, content: dict[str, Any]) -> None:
    with replacing(file) as handle:
        handle.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def adopt(source: Path, out: Path) -> None:
    """Copy a policy to another folder, whole or not at all; what lies inside it stays inside."""
    found, home = policy.read(str(source)), source.resolve()
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)

    def moved(path: Path) -> Path:
        return aside.resolve() / path.relative_to(home) if path.is_relative_to(home) else path

    inside = Path(found.base).is_absolute()
    base = str(moved(Path(found.base))) if inside else found.base
    policy.write(replace(found, base=base, adapters=tuple(map(moved, found.adapters))), aside)
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)
