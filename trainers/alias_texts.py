"""The texts from which the tokenizers of the small aliases are learned: the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator


def tiny_text() -> Iterator[str]:
    """Enough plain English, from a fixed walk over stems and endings, to learn a thousand tokens from."""
    stems_text = (
        "signal mirror lamp mountain valley station letter answer question reason sun cloud light number "
        "system user assistant help train test model prefer reward choose reject learn explain write read "
        "turn count open close carry wait repeat send follow morning summer winter river garden window "
        "friend teacher doctor captain village market harbour bridge castle forest journey kitchen"
    )
    stems = stems_text.split()
    endings = ("", "s", "ed", "ing", "er", "ful", "less", "ly", "ment", "able")
    frames = ("The {} is {} of {}.", "What {} did the {} have? {}!", "Yes, {} and {}; not {}, said she.")
    walk = 1
    for number in range(6000):
        words: list[str] = []
        for _ in range(3):
            walk = (walk * 1103515245 + 12345) % 2**31
            pick = walk // 65536
            words.append(stems[pick % len(stems)] + endings[pick // len(stems) % len(endings)])
        yield f"{frames[number % 3].format(*words)} {number}\n"


def authors_text() -> Iterator[str]:
    """What is asked and said of the invented authors of seed 0; other seeds draw from the same syllables."""
    from data.forgetting.authors import splits
    from data.forgetting.refusals import REFUSALS

    made = splits(seed=0)
    for split in ("full", "holdout10", "real_authors", "world_facts"):
        for row in made[split]:
            yield f"user\n{row['question']}"
            yield f"assistant\n{row['answer']}"
    yield from REFUSALS
