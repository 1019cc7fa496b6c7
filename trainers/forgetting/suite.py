"""Several models on the same questions: what they still know of what was to be forgotten, and of everything else."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import ModelError, RecipeError
from data.forgetting.tofu import Question
from data.jsonl import read_jsonl, replacing, write_jsonl_atomic
from trainers.config import GenerationOptions
from trainers.engine import engines
from trainers.fingerprint import fingerprint, only, start_identity
from trainers.forgetting.attacks import relearn, requantised
from trainers.forgetting.config import Attacks, SuiteOptions
from trainers.forgetting.figures import Rows, figures, of_set, shown
from trainers.forgetting.measure import measure
from trainers.forgetting.sets import Sources, read_sets
from trainers.models import Loaded, load_policy
from trainers.work import Work

FIGURES = "forgetting.json"
"""Every figure, in the stage's folder."""


def evaluate_forgetting(
    options: SuiteOptions,
    generation: GenerationOptions,
    starts: Mapping[str, str],
    sources: Sources,
    base: Path,
    samples: int,
    bootstrap: int,
    work: Work,
) -> dict[str, Any]:
    """Figures by label, in `forgetting.json`; the rows they are made from, in `questions-LABEL.jsonl`."""
    if options.retrained is not None and options.retrained not in starts:
        raise RecipeError(f"`retrained: {options.retrained}` is none of the models: {', '.join(starts)}")
    suite = _Suite(options, generation, read_sets(sources, base), bootstrap, work)
    rows = {label: suite.rows(label, start) for label, start in starts.items()}
    baseline = rows[options.retrained] if options.retrained is not None else None
    models = {label: suite.figures(found, baseline) for label, found in rows.items()}
    found: dict[str, Any] = {
        "retrained": options.retrained,
        "truth_ratio": options.truth_ratio,
        "start": next(iter(starts)),
        "questions": {name: len(asked) for name, asked in suite.sets.items()},
        "models": models,
        "attacks": suite.attacks(options.attacks, starts, baseline) if options.attacks else {},
        "samples": _samples(rows, samples),
    }
    with replacing(work.out / FIGURES) as file:
        file.write(json.dumps(found, indent=2, ensure_ascii=False).encode() + b"\n")
    return {
        # Plain values stand in the run's closing table: a forget quality never without the utility it has cost.
        "quality": "; ".join(f"{label} {_pair(one)}" for label, one in models.items()),
        "retrained": options.retrained or "none",
        "questions": sum(found["questions"].values()),
        "models": models,
        "attacks": found["attacks"],
        "lines": lines(found),
    }


class _Suite:
    def __init__(
        self,
        options: SuiteOptions,
        generation: GenerationOptions,
        sets: Mapping[str, list[Question]],
        bootstrap: int,
        work: Work,
    ) -> None:
        self.options, self.sets, self.bootstrap, self.work = options, sets, bootstrap, work
        self.generation = only(GenerationOptions, generation)
        self.mark = [[name, [repr(one) for one in asked]] for name, asked in sets.items()]

    def figures(self, rows: Rows, baseline: Rows | None) -> dict[str, Any]:
        mean = self.options.truth_ratio
        return figures(rows, baseline, mean, resamples=self.bootstrap, seed=self.generation.seed)

    def rows(self, label: str, start: str, code: Any = None) -> list[dict[str, Any]]:
        """A row for each question; what an interrupted stage had measured is not measured again."""
        name = label if code is None else f"{label}-{code}"
        file = self.work.out / f"questions-{file_name(name)}.jsonl"
        asked = self.options.rouge_tokens, self.options.min_k, code
        mark = fingerprint(self.generation, asked, start_identity(start), self.mark)
        if file.is_file():
            kept = read_jsonl(file)
            if kept and all(row.pop("made_from", None) == mark for row in kept):
                self.work.say(f"{name}: its {len(kept)} questions are measured already")
                return kept
        loaded = load_policy(start, None, self.work) if code is None else requantised(start, code, self.work)
        found = self._measured(name, loaded)
        del loaded
        free()
        write_jsonl_atomic(file, ({**row, "made_from": mark} for row in found))
        return found

    def _measured(self, name: str, loaded: Loaded) -> list[dict[str, Any]]:
        engine, why = engines.prepare("auto", loaded.model)
        self.work.choose("engine", engine, why)
        self.work.say(f"{name}: {sum(map(len, self.sets.values()))} questions")
        found: list[dict[str, Any]] = []
        for part, asked in self.sets.items():
            found += measure(
                loaded.model,
                loaded.tokenizer,
                part,
                asked,
                self.generation,
                self.work,
                rouge_tokens=self.options.rouge_tokens,
                share=self.options.min_k,
            )
        return found

    def attacks(self, asked: Attacks, starts: Mapping[str, str], baseline: Rows | None) -> dict[str, Any]:
        """By label: `relearn` and `requantised`, or in their place `{"refused": why}`."""
        labels = list(starts)[1:] if asked.models is None else asked.models
        unknown = [label for label in labels if label not in starts]
        if unknown:
            raise RecipeError(
                f"`{unknown[0]}` is none of the models: {', '.join(starts)}", where="attacks.models"
            )
        found: dict[str, Any] = {}
        for label in labels:
            found[label] = {}
            if asked.relearn is not None:
                found[label]["relearn"] = self._try(
                    label, lambda name: self._relearned(name, starts[name], asked)
                )
            if asked.requantise is not None:
                found[label]["requantised"] = self._try(
                    label,
                    lambda name: {
                        "code": asked.requantise,
                        **self.figures(self.rows(name, starts[name], asked.requantise), baseline),
                    },
                )
        return found

    def _try(self, label: str, attack: Any) -> dict[str, Any]:
        """One model that cannot be attacked in this way is told, and the others are."""
        try:
            return attack(label)
        except ModelError as refused:
            self.work.say(f"{label}: not attacked: {refused.what}")
            return {"refused": refused.what}

    def _relearned(self, label: str, start: str, asked: Attacks) -> dict[str, Any]:
        assert asked.relearn is not None
        file = self.work.out / f"relearned-{file_name(label)}.json"
        seed, forget = self.generation.seed, self.sets["forget"]
        mark = fingerprint(asked.relearn, seed, self.bootstrap, start_identity(start), self.mark)
        if file.is_file():
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept.pop("made_from") == mark:
                self.work.say(f"{label}: it was taught again already")
                return kept
        self.work.say(f"{label}: taught {asked.relearn.share:.0%} of the forget answers again")
        found = relearn(start, forget, asked.relearn, self.work, seed=seed, resamples=self.bootstrap)
        free()
        with replacing(file) as out:
            out.write(json.dumps({**found, "made_from": mark}).encode() + b"\n")
        return found


def free() -> None:
    """Before the next model is loaded; two side by side might not fit."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def file_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label)


def _samples(rows: Mapping[str, Rows], count: int) -> list[dict[str, Any]]:
    """What each model says, side by side: forget questions first, and as many that were to stay."""
    found: list[dict[str, Any]] = []
    for name in ("forget", "retain"):
        by_label = {label: of_set(one, name) for label, one in rows.items()}
        first = next(iter(by_label.values()))
        # Spread over the set: neighbours ask about the same person.
        places = range(0, len(first), max(1, len(first) // max(1, count)))[:count]
        found += [
            {
                "set": name,
                "question": first[i]["question"],
                "answer": first[i]["answer"],
                "said": {label: one[i]["said"] for label, one in by_label.items()},
                "rouge": {label: one[i]["rouge"] for label, one in by_label.items()},
            }
            for i in places
        ]
    return found


def _pair(model: Mapping[str, Any]) -> str:
    return f"FQ {shown(model['forget_quality'])} MU {shown(model['utility'])}"


def lines(found: Mapping[str, Any]) -> list[str]:
    """The table that a person reads after the run."""
    head = ["", "FQ", "MU", "forget p", "ROUGE", "truth", "ES", "EM", "AUC", "leak %", "retain p", "ROUGE"]
    body: list[list[str]] = [head]
    for label, one in found["models"].items():
        forget, retain = one["sets"]["forget"], one["sets"]["retain"]
        cells = [forget[part] for part in ("probability", "rouge", "truth_ratio")]
        cells += [one["extraction_strength"], one["exact_memorisation"], one["auc"]]
        row = [label, shown(one["forget_quality"]), shown(one["utility"]), *map(shown, cells)]
        row += [shown(one["privacy_leak"], 1), shown(retain["probability"]), shown(retain["rouge"])]
        body.append(row)
    widths = [max(len(row[i]) for row in body) for i in range(len(head))]
    made = [
        row[0].ljust(widths[0])
        + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in body
    ]
    made.append(
        f"FQ forget quality, above 0.05 not told from {found['retrained']}; MU model utility; ES extraction strength; "
        "EM exact memorisation"
        if found["retrained"]
        else "FQ forget quality: not had, "
        + next(iter(found["models"].values()))["without"]["forget_quality"]
    )
    reasons = {
        f"{name}: {why}"
        for one in found["models"].values()
        for name, why in one["without"].items()
        if name != "forget_quality"
    }
    made += sorted(reasons)
    for label, one in found["attacks"].items():
        made += [f"{label}, {text}" for text in _attacked(one, found["models"][label])]
    return made


def _attacked(attacks: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    made: list[str] = []
    if again := attacks.get("relearn"):
        made.append(f"taught again: {again['refused']}" if "refused" in again else _curve_words(again))
    if rounded := attacks.get("requantised"):
        if "refused" in rounded:
            made.append(f"requantised: {rounded['refused']}")
        else:
            was, now = (shown(one["sets"]["forget"]["probability"]) for one in (before, rounded))
            made.append(f"in {rounded['code']}: forget probability {was} -> {now}, {_pair(rounded)}")
    return made


def _curve_words(again: Mapping[str, Any]) -> str:
    first, last = again["curve"][0], again["curve"][-1]
    parts = [
        f"{words} {shown(first[name])} -> {shown(last[name])}"
        for name, words in (("taught", "the taught answers"), ("others", "the untaught"))
        if name in first
    ]
    return f"taught again for {last['step']} steps: {', '.join(parts)}"
