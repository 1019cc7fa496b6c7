"""How well a model explains on prompts it never learned: its own answer, explained, and judged by a rule."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from data.errors import DataError
from data.illume.critic import Rule
from data.illume.items import Item, answer_is_right
from data.illume.loop import derived_seed
from data.illume.verdicts import by_rule
from data.pictures import COLUMN
from trainers.config import SamplingOptions
from trainers.illume.config import IllumeOptions
from trainers.models import Loaded
from trainers.sampling.generate import Answer, generate
from trainers.sampling.prompts import context_of, tokens_of
from trainers.work import Work

SAMPLES = 3
"""Held-out prompts whose explanations are kept to be looked at."""


def measure(
    loaded: Loaded,
    items: Sequence[Item],
    options: IllumeOptions,
    critic: Rule,
    second: Rule | None,
    work: Work,
) -> dict[str, Any]:
    """Share accepted, mean score, the same by the second measure, and the share of right answers.

    Never the gold answer: what is explained is what the model itself says. `each` are the shares by prompt.
    """
    model: Any = loaded.model
    training = model.training
    model.eval()
    try:
        asked = {item.key: item.prompt for item in items}
        answers = _write(loaded, items, asked, options, work, greedy=True)
        own = {item.key: answers[item.key][0].strip() for item in items}
        connective = options.connectives[0] if options.connectives else None
        prompts = {item.key: item.explain(own[item.key], connective) for item in items}
        texts = _write(loaded, items, prompts, options, work, greedy=False)
    finally:
        model.train(training)
    judge, check = by_rule(critic), by_rule(second) if second is not None else None
    said = {item.key: [text.strip() for text in texts[item.key]] for item in items}
    verdicts = {item.key: [judge(text, item) for text in said[item.key]] for item in items}
    each = {key: fmean(float(one.accepted or False) for one in found) for key, found in verdicts.items()}
    figures: dict[str, Any] = {
        "acceptance": round(fmean(each.values()), 6),
        "score": round(fmean(one.score or 0.0 for found in verdicts.values() for one in found), 6),
        "answer_accuracy": round(
            fmean(float(answer_is_right(own[item.key], item.answer)) for item in items), 6
        ),
        "each": each,
    }
    if check is not None:
        checked = [check(text, item).accepted or False for item in items for text in said[item.key]]
        figures["second"] = round(fmean(map(float, checked)), 6)
    figures["samples"] = [
        {
            "prompt": prompts[item.key],
            "explanation": said[item.key][0],
            "accepted": verdicts[item.key][0].accepted,
            **({} if item.picture is None else {COLUMN: item.row[COLUMN]}),
        }
        for item in items[:SAMPLES]
    ]
    return figures


def _write(
    loaded: Loaded,
    items: Sequence[Item],
    prompts: dict[str, Any],
    options: IllumeOptions,
    work: Work,
    *,
    greedy: bool,
) -> dict[str, list[str]]:
    ids = {item.key: tokens_of(loaded, prompts[item.key], item.picture) for item in items}
    context, longest = context_of(loaded.model), max(len(one) for one in ids.values())
    if context is not None and longest + options.max_new_tokens > context:
        raise DataError(
            f"a held-out prompt of {longest} tokens leaves no room for max_new_tokens {options.max_new_tokens} in the "
            f"model's context ({context})",
            where="eval_data",
            way_out="lower max_new_tokens, or shorten the prompts",
        )
    how = SamplingOptions(
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
        seed=derived_seed(options.seed, "held out"),
        num_return_sequences=options.eval_samples,
        temperature=options.eval_temperature,
        top_vocabulary=options.top_vocabulary,
        generation_engine="prefill",
    )
    found: dict[str, list[str]] = {key: [] for key in prompts}

    def keep(made: list[Answer]) -> None:
        for one in made:
            found[one.key].append(one.text)

    quiet = Work(out=work.out, say=_unsaid)
    generate(
        loaded.model,
        loaded.tokenizer,
        ids,
        how,
        greedy=greedy,
        on_done=keep,
        work=quiet,
    )
    return found


def _unsaid(line: str) -> None:
    """The choices of the sampler are told when it draws."""
