"""What is compared: the losses with and without a little likelihood, on the same pairs and from the same policy."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent.parent.parent / "recipes" / "data"


@dataclass(frozen=True)
class Arm:
    """One way of training."""

    loss: str
    sft_weight: float

    @property
    def name(self) -> str:
        return f"{self.loss} + {self.sft_weight:g} sft" if self.sft_weight else self.loss


ARMS = (
    *(Arm(loss, 0.0) for loss in ("CE", "CPO", "ORPO", "cCPO", "qfUnl", "l5", "fUnl", "unCPO")),
    *(Arm(loss, 0.3) for loss in ("fUnl", "unCPO")),
)
COLLAPSING = ("fUnl", "unCPO")


def learn(count: int) -> Iterator[dict[str, Any]]:
    """Telegrams to learn from first, so that the policy has a notion of an answer."""
    with (DATA / "telegrams-train.jsonl").open() as file:
        for line, _ in zip(file, range(count), strict=False):
            row = json.loads(line)
            yield {"prompt": row["prompt"], "completion": row["completion"]}


def pairs(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """Each telegram against a spoilt one: a fact left out, words doubled, or chatter before it. Of 3 in 20, the
    two are exchanged, as people's judgements would have it: a loss that is certain of everything is then wrong."""
    draw = random.Random(f"{name} {seed}")
    with (DATA / f"telegrams-{name}.jsonl").open() as file:
        for line in file:
            row = json.loads(line)
            good = row["completion"][0]["content"] if "completion" in row else row["reference"]
            sides = [good, _spoilt(good, draw)]
            if name == "train" and draw.random() < 0.15:
                sides.reverse()
            chosen, rejected = ([{"role": "assistant", "content": text}] for text in sides)
            yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}


def _spoilt(text: str, draw: random.Random) -> str:
    words = text.split()
    match draw.randrange(3):
        case 0:
            del words[draw.randrange(len(words) - 1)]
        case 1:
            place = draw.randrange(len(words) - 1)
            words.insert(place, words[place])
        case _:
            words[:0] = draw.choice((["Well,"], ["I", "think"], ["Dear", "friend"]))
    return " ".join(words)
