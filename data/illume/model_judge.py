"""A model as the critic: what it is asked, both ways round, and what its replies come to.

Nothing here knows a model: whoever writes the replies is given as a function of chats.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

from data.illume.critic import ModelCritic
from data.illume.verdicts import Found, Sheet, Verdict

Chat = list[dict[str, str]]
Generate = Callable[[Sequence[Chat]], Sequence[str]]
"""Replies to chats, one each, in their order."""
SYSTEM = "You judge explanations. Reply with one word and nothing else."
_YES_NO = ("yes", "no")
_NO_YES = ("no", "yes")
_PLACES = ("first", "second")


def by_model(critic: ModelCritic, sheet: Sheet, generate: Generate) -> Found:
    """A verdict for each candidate; what the judge says one way round and takes back the other way is no verdict."""
    counts: Counter[str] = Counter()
    one = _accepting(critic, sheet, generate, counts)
    if critic.how == "pairwise":
        one = _comparing(critic, sheet, generate, counts)
    verdicts = {
        row["id"]: [
            Verdict(False, 0.0, "model")
            if _short(critic, candidate["text"])
            else one.get((row["id"], place), Verdict(None, None, "model"))
            for place, candidate in enumerate(row["candidates"])
        ]
        for row in sheet.rows
    }
    figures = {key: counts[key] for key in ("asked", "unreadable", "contradicted", "decided")}
    return Found(verdicts, figures=figures)


def _short(critic: ModelCritic, text: str) -> bool:
    return len(text.strip()) < critic.min_chars


def _accepting(
    critic: ModelCritic, sheet: Sheet, generate: Generate, counts: Counter[str]
) -> dict[tuple[str, int], Verdict]:
    if critic.how != "accept":
        return {}
    places = [
        (row["id"], place)
        for row in sheet.rows
        for place, one in enumerate(row["candidates"])
        if not _short(critic, one["text"])
    ]
    texts = {row["id"]: [one["text"] for one in row["candidates"]] for row in sheet.rows}
    chats = [
        _chat(critic, sheet, key, f"Explanation: {texts[key][place]}", "Does the explanation fit?", words)
        for key, place in places
        for words in (_YES_NO, _NO_YES)
    ]
    found: dict[tuple[str, int], Verdict] = {}
    replies = iter([_word(reply, _YES_NO) for reply in generate(chats)])
    for name in places:
        said = _agreed(next(replies), next(replies), counts)
        if said is not None:
            found[name] = Verdict(said == "yes", float(said == "yes"), "model", 2, 1.0)
    return found


def _comparing(
    critic: ModelCritic, sheet: Sheet, generate: Generate, counts: Counter[str]
) -> dict[tuple[str, int], Verdict]:
    duels: list[tuple[str, int, int]] = []
    chats: list[Chat] = []
    for row in sheet.rows:
        texts = [one["text"] for one in row["candidates"]]
        for one, other in ring(
            [i for i, text in enumerate(texts) if not _short(critic, text)], critic.opponents
        ):
            duels.append((row["id"], one, other))
            for first, second in ((one, other), (other, one)):
                shown = f"First explanation: {texts[first]}\nSecond explanation: {texts[second]}"
                chats.append(
                    _chat(critic, sheet, row["id"], shown, "Which of the two explains better?", _PLACES)
                )
    won: Counter[tuple[str, int]] = Counter()
    met: Counter[tuple[str, int]] = Counter()
    replies = iter([_word(reply, _PLACES) for reply in generate(chats)])
    turned = {"first": "second", "second": "first"}
    for key, one, other in duels:
        straight, crossed = next(replies), next(replies)
        said = _agreed(straight, turned.get(crossed or ""), counts)
        if said is not None:
            won[key, one if said == "first" else other] += 1
            met.update([(key, one), (key, other)])
    return {
        name: Verdict(won[name] / times >= critic.threshold, won[name] / times, "model", 2 * times)
        for name, times in met.items()
    }


def ring(among: Sequence[int], opponents: int) -> list[tuple[int, int]]:
    """Each with the so many that follow it, the first after the last; every two at most once."""
    size, found = len(among), dict[tuple[int, int], tuple[int, int]]()
    for step in range(1, min(opponents, size - 1) + 1):
        for place, one in enumerate(among):
            other = among[(place + step) % size]
            found.setdefault((min(one, other), max(one, other)), (one, other))
    return list(found.values())


def _agreed(one: str | None, other: str | None, counts: Counter[str]) -> str | None:
    counts["asked"] += 2
    counts["unreadable"] += (one is None) + (other is None)
    if one is None or other is None:
        return None
    counts["decided" if one == other else "contradicted"] += 1
    return one if one == other else None


def _word(reply: str, words: tuple[str, str]) -> str | None:
    """The first of the two words that the reply says; None: neither."""
    found = re.search(rf"\b({'|'.join(words)})\b", reply.casefold())
    return found[1] if found else None


def _chat(
    critic: ModelCritic, sheet: Sheet, key: str, shown: str, question: str, words: tuple[str, str]
) -> Chat:
    item = sheet.items[key]
    asked = (
        f"Question: {_plain(item.prompt)}\nAnswer: {item.answer}\n{shown}\n\n"
        f"A good explanation: {critic.criterion}\n{question} Reply with one word: {words[0]} or {words[1]}."
    )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]


def _plain(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt.strip()
    turns = cast("Sequence[dict[str, Any]]", prompt)
    return "\n".join(str(turn["content"]) for turn in turns if turn["role"] != "system")
