"""One model on one question set: log-probabilities of right and wrong answers, greedy tokens, and what it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from data.encoding import Encoder, TokeniseOptions
from data.errors import DataError
from data.forgetting.tofu import Question, conversation
from data.ledger import Ledger
from data.records import Row
from data.rouge import Tokens, rouge_l_recall
from trainers.config import GenerationOptions
from trainers.engine.groups import Group, lay_out
from trainers.engine.logprobs import causal_lm, completion_states, head_of, installed
from trainers.forgetting.memorisation import exact_memorisation, extraction_strength, min_k
from trainers.sampling.generate import generate
from trainers.sampling.prompts import context_of
from trainers.work import Work

TOKENS_AT_ONCE = 4096
"""Of a forward pass; what does not fit is measured in the next one."""


@dataclass(frozen=True)
class Answered:
    """A prompt's tokens, and each of its answers' with the one that ends it."""

    prompt: list[int]
    answers: list[list[int]]
    ends: list[bool]
    """Whether the answer's last token is the end of a turn."""


def encode(tokenizer: Any, question: Question, texts: Sequence[str], longest: int | None) -> Answered:
    """The question and these answers as the model's chat template has them, cut behind the end of the turn.

    What a template puts behind that end (a newline, mostly) is the same for every answer and says nothing of it.
    """
    columns = [f"completion{i}" for i in range(len(texts))]
    row: Row = {"prompt": conversation(question.question, "")["prompt"]}
    row |= {c: conversation("", text)["completion"] for c, text in zip(columns, texts, strict=True)}
    ledger = Ledger(name="questions")
    prompt, whole = Encoder(tokenizer, TokeniseOptions(), ledger).split(row, tuple(columns), question.where)
    end = tokenizer.eos_token_id
    answers = [ids[: len(ids) - ids[::-1].index(end)] if end in ids else ids for ids in whole]
    if not prompt or not all(answers):
        raise DataError(
            "the question or an answer has no tokens", where=question.where, way_out="leave it out"
        )
    size = len(prompt) + max(map(len, answers))
    if longest is not None and size > longest:
        raise DataError(
            f"question and answer have {size} tokens, the model's context {longest}",
            where=question.where,
            way_out="leave the question out, or take a model with a longer context",
        )
    return Answered(prompt, answers, [ids[-1] == end for ids in answers])


@dataclass(frozen=True)
class Read:
    """One answer under a model."""

    logps: list[float]
    """Of each token."""
    greedy: list[int]
    """The likeliest token at each place, after the true ones before it."""


def read_answers(model: Any, groups: Sequence[Group]) -> list[list[Read]]:
    """Every answer of every group. Through the engine a prompt is encoded once for its right and wrong answers."""
    found: list[list[Read]] = []
    with torch.no_grad():
        for batch in _batches(groups):
            found += _by_engine(model, batch) if installed(model) else [_plain(model, one) for one in batch]
    return found


def _batches(groups: Sequence[Group]) -> Iterator[list[Group]]:
    batch: list[Group] = []
    size = 0
    for group in groups:
        more = sum(len(answer) + len(group[0]) for answer in group[1])
        if batch and size + more > TOKENS_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(group)
        size += more
    if batch:
        yield batch


def _by_engine(model: Any, groups: list[Group]) -> list[list[Read]]:
    layout = lay_out(groups, causal_lm(model).heliograph.engine)
    layout.wanted = torch.arange(len(layout.targets))
    scored, hidden = completion_states(model, layout)
    assert hidden is not None
    head = head_of(model)
    greedy: list[int] = []
    for piece in hidden.split(256):
        # A factor above 0 and a soft cap change no order.
        logits = piece.to(head.weight.device).to(head.weight.dtype) @ head.weight.t()
        logits = logits if head.bias is None else logits + head.bias
        greedy += logits.argmax(-1).tolist()
    logps, at = scored.tokens.double().tolist(), scored.offsets.tolist()
    flat = iter(Read(logps[a:b], greedy[a:b]) for a, b in pairwise(at))
    return [[next(flat) for _ in answers] for _, answers in groups]


def _plain(model: Any, group: Group) -> list[Read]:
    prompt, answers = group
    device = causal_lm(model).get_input_embeddings().weight.device
    found: list[Read] = []
    for answer in answers:
        ids = torch.tensor([[*prompt, *answer]], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
        logps = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None].to(logits.device))[:, 0]
        found.append(Read(logps.tolist(), logits.argmax(-1).tolist()))
    return found


def measure(
    model: Any,
    tokenizer: Any,
    name: str,
    asked: Sequence[Question],
    options: GenerationOptions,
    work: Work,
    *,
    rouge_tokens: Tokens,
    share: float,
) -> list[dict[str, Any]]:
    """A row for each question: what every figure is made from."""
    longest = context_of(model)
    encoded = [encode(tokenizer, one, _texts(one), longest) for one in asked]
    read = read_answers(model, [(one.prompt, one.answers) for one in encoded])
    rows: list[dict[str, Any]] = []
    for number, (one, ids, answers) in enumerate(zip(asked, encoded, read, strict=True)):
        means = [sum(answer.logps) / len(answer.logps) for answer in answers]
        paraphrased = one.right != one.answer
        wrong = means[1 + paraphrased :]
        rows.append(
            {
                "set": name,
                "number": number,
                "question": one.question,
                "answer": one.answer,
                "tokens": len(ids.answers[0]),
                "logp": means[0],
                "right_logp": means[1] if paraphrased else means[0],
                "wrong_logps": wrong,
                "min_k": min_k(answers[0].logps, share),
                **_memory(ids, answers[0]),
            }
        )
    if name != "holdout":
        said = _say(model, tokenizer, encoded, options, work)
        for row, text in zip(rows, said, strict=True):
            row |= {"said": text, "rouge": rouge_l_recall(text, row["answer"], how=rouge_tokens)}
    return rows


def _texts(one: Question) -> list[str]:
    paraphrase = [one.right] if one.right != one.answer else []
    return [one.answer, *paraphrase, *one.perturbed_answers]


def _memory(ids: Answered, answer: Read) -> dict[str, float]:
    """Without the token that ends the turn: that one is known of every answer."""
    size = len(ids.answers[0]) - ids.ends[0]
    if not size:
        raise DataError("an answer is nothing but its end", way_out="leave its row out")
    greedy, true = answer.greedy[:size], ids.answers[0][:size]
    return {
        "extraction_strength": extraction_strength(greedy, true),
        "exact_memorisation": exact_memorisation(greedy, true),
    }


def _say(
    model: Any, tokenizer: Any, encoded: Sequence[Answered], options: GenerationOptions, work: Work
) -> list[str]:
    said: dict[str, str] = {}
    generate(
        model,
        tokenizer,
        {str(i): one.prompt for i, one in enumerate(encoded)},
        options,
        greedy=True,
        on_done=lambda made: said.update((answer.key, answer.text) for answer in made),
        work=work,
    )
    return [said[str(i)] for i in range(len(encoded))]
