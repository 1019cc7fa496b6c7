"""The two samplers on the same prompts: first that they say the same, then how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig, set_seed

from trainers.config import GenerationOptions, ModelOptions, SamplingOptions
from trainers.models import load_policy
from trainers.sampling.generate import Answer, generate
from trainers.work import Work


@dataclass(frozen=True)
class Setting:
    """What is answered."""

    model: str
    prompts: int
    prompt_tokens: int
    num_return_sequences: int
    max_new_tokens: int
    rounds: int
    dtype: str = "float32"

    @property
    def new_tokens(self) -> int:
        return self.prompts * self.num_return_sequences * self.max_new_tokens

    @property
    def limit(self) -> float:
        """How many times fewer tokens pass through the model when a prompt is read once."""
        length, new, samples = self.prompt_tokens, self.max_new_tokens, self.num_return_sequences
        return samples * (length + new) / (length + samples * new)


@dataclass(frozen=True)
class Took:
    """One run of one sampler."""

    cpu: float
    wall: float


class Endless:
    """A tokenizer without an end token, so that both samplers write the same number of tokens."""

    eos_token_id = None
    all_special_ids = ()

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: list[int], **how: Any) -> str:
        return self._tokenizer.decode(ids, **how)


class Bench:
    """A model, and prompts of random tokens: what they say does not change how long they take."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        work = Work(Path(), say=lambda _: None)
        options = ModelOptions(model=setting.model, dtype=setting.dtype)  # pyright: ignore[reportArgumentType]
        loaded = load_policy(setting.model, options, work)
        self.model: Any = loaded.model
        self.attention = work.resolved["attn_implementation"]["value"]
        self.tokenizer = Endless(loaded.tokenizer)
        self.model.generation_config = GenerationConfig(pad_token_id=0)
        dice = torch.Generator().manual_seed(0)
        size = self.model.config.vocab_size
        self.prompts = {
            str(i): torch.randint(10, size, (setting.prompt_tokens,), generator=dice).tolist()
            for i in range(setting.prompts)
        }

    def theirs(self, *, greedy: bool = False) -> dict[str, list[list[int]]]:
        """One call of `generate` for each prompt."""
        setting = self.setting
        how: dict[str, Any] = {"do_sample": False}
        if not greedy:
            set_seed(0)
            how = {
                "do_sample": True,
                "num_return_sequences": setting.num_return_sequences,
                "temperature": 1.0,
                "top_k": 0,
                "top_p": 1.0,
            }
        found: dict[str, list[list[int]]] = {}
        for key, ids in self.prompts.items():
            asked = torch.tensor([ids])
            written = self.model.generate(
                asked, attention_mask=torch.ones_like(asked), max_new_tokens=setting.max_new_tokens, **how
            )
            found[key] = written[:, len(ids) :].tolist()
        return found

    def ours(self, *, greedy: bool = False) -> dict[str, list[list[int]]]:
        setting = self.setting
        shared: dict[str, Any] = {
            "max_new_tokens": setting.max_new_tokens,
            "batch_size": setting.prompts * setting.num_return_sequences,
            "generation_engine": "prefill",
        }
        options = (
            GenerationOptions(**shared)
            if greedy
            else SamplingOptions(num_return_sequences=setting.num_return_sequences, **shared)
        )
        got: list[Answer] = []
        generate(
            self.model,
            self.tokenizer,
            self.prompts,
            options,
            greedy=greedy,
            on_done=got.extend,
            work=Work(Path(), say=lambda _: None),
        )
        return {key: [answer.ids for answer in got if answer.key == key] for key in self.prompts}


def timed(run: Callable[[], dict[str, list[list[int]]]], setting: Setting) -> Took:
    cpu, wall = time.process_time(), time.perf_counter()
    written = run()
    took = Took(time.process_time() - cpu, time.perf_counter() - wall)
    tokens = sum(len(ids) for answers in written.values() for ids in answers)
    if tokens != setting.new_tokens:
        raise RuntimeError(f"{tokens} tokens were written instead of {setting.new_tokens}")
    return took


def spread(values: list[float]) -> dict[str, float]:
    return {name: round(of(values), 4) for name, of in (("median", median), ("min", min), ("max", max))}


def measure(setting: Setting, say: Callable[[str], None]) -> dict[str, Any]:
    """Figures of both samplers; `greedy_equal` false means that nothing was timed."""
    bench = Bench(setting)
    result: dict[str, Any] = {
        "setting": asdict(setting) | {"attn_implementation": bench.attention},
        "token_limit": round(setting.limit, 3),
        "greedy_equal": bench.theirs(greedy=True) == bench.ours(greedy=True),
    }
    if not result["greedy_equal"]:
        return result
    # The greedy answers have warmed both up.
    runs = {"generate": bench.theirs, "heliograph": bench.ours}
    took: dict[str, list[Took]] = {name: [] for name in runs}
    for number in range(setting.rounds):
        # A B, B A, A B: a drift of the machine's speed hits both alike.
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            took[name].append(timed(runs[name], setting))
        a, b = took["generate"][-1], took["heliograph"][-1]
        say(f"round {number + 1}: generate {a.cpu:.2f} s CPU, heliograph {b.cpu:.2f} s, {a.cpu / b.cpu:.2f}x")
    for name, each in took.items():
        result[name] = {
            "cpu_seconds": spread([one.cpu for one in each]),
            "wall_seconds": spread([one.wall for one in each]),
            "tokens_per_cpu_second": round(setting.new_tokens / median(one.cpu for one in each), 2),
        }
    pairs = list(zip(took["generate"], took["heliograph"], strict=True))
    result["ratio_cpu"] = spread([a.cpu / b.cpu for a, b in pairs])
    result["ratio_wall"] = spread([a.wall / b.wall for a, b in pairs])
    result["rounds"] = [{"generate": asdict(a), "heliograph": asdict(b)} for a, b in pairs]
    return result
