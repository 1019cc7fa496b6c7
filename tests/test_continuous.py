"""Continuous batching against reading a prompt once: same greedy tokens, the model's own probabilities, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from data.errors import ModelError
from tests.test_generate import PROMPTS, answers_of, model_of, quiet
from trainers.config import GenerationOptions, SamplingOptions
from trainers.sampling.continuous import choose_engine
from trainers.sampling.drawing import read_rules

CONTINUOUS: dict[str, Any] = {"generation_engine": "continuous"}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "sliding"])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_greedy_answers_and_their_ends_are_those_of_prefill(kind: str, batch_size: int) -> None:
    model = model_of(kind)
    kernel = model.config._attn_implementation
    plain, tally = answers_of(model, PROMPTS, GenerationOptions(max_new_tokens=16), greedy=True)
    said: list[str] = []
    options = GenerationOptions(max_new_tokens=16, batch_size=batch_size, **CONTINUOUS)
    got, counted = answers_of(model, PROMPTS, options, greedy=True, work=quiet(said))
    assert {k: (a.ids, a.text, a.ended_by) for k, a in got.items()} == {
        k: (a.ids, a.text, a.ended_by) for k, a in plain.items()
    }
    if kind == "llama":
        assert {a.ended_by for a in got.values()} == {"eos", "length"}
    for name, answer in got.items():
        assert answer.logprob_sum == pytest.approx(plain[name].logprob_sum, abs=1e-3)
    assert (counted.answers, counted.tokens, counted.cut) == (tally.answers, tally.tokens, tally.cut)
    assert model.config._attn_implementation == kernel
    assert "generation_engine: continuous (asked for)" in said


@pytest.mark.parametrize("batch_size", [3, 32])
def test_forked_samples_are_draws_of_the_model_with_its_own_probabilities(batch_size: int) -> None:
    model = model_of("llama")
    options = SamplingOptions(max_new_tokens=6, num_return_sequences=8, batch_size=batch_size, **CONTINUOUS)
    prompts = {key: ids for key, ids in PROMPTS.items() if len(ids) > 3}
    said: list[str] = []
    got, tally = answers_of(model, prompts, options, greedy=False, work=quiet(said))
    assert sorted(got) == sorted((key, index) for key in prompts for index in range(8))
    assert tally.answers == 8 * len(prompts)
    for key, ids in prompts.items():
        firsts = {got[key, index].ids[0] for index in range(8)}
        assert len(firsts) > 1  # the forks part at the first token already
        for index in range(8):
            answer = got[key, index]
            with torch.no_grad():
                logprobs = model(torch.tensor([ids + answer.ids])).logits[0].double().log_softmax(-1)
            start = len(ids)
            own = sum(logprobs[start + i - 1, token].item() for i, token in enumerate(answer.ids))
            assert answer.logprob_sum == pytest.approx(own, abs=1e-3)
            assert len(answer.ids) == 6 or answer.ids[-1] in range(2, 62)
    assert "generation_engine: continuous (asked for; all answers are drawn from one stream)" in said


def test_a_first_token_follows_the_warped_distribution() -> None:
    model = model_of("llama")
    draws = 600
    options = SamplingOptions(
        max_new_tokens=1, num_return_sequences=draws, batch_size=64, top_k=3, temperature=2.0, **CONTINUOUS
    )
    got, _ = answers_of(model, {"p0": PROMPTS["p0"]}, options, greedy=False)
    with torch.no_grad():
        best = (model(torch.tensor([PROMPTS["p0"]])).logits[0, -1] / 2.0).topk(3)
    shares = best.values.softmax(-1).tolist()
    drawn = [answer.ids[0] for answer in got.values()]
    for token, p in zip(best.indices.tolist(), shares, strict=True):
        assert abs(drawn.count(token) - draws * p) <= 5 * (draws * p * (1 - p)) ** 0.5
    assert set(drawn) <= set(best.indices.tolist())
    # What it reports is the warped distribution, so nothing is recorded as the model's own.
    assert {answer.logprob_sum for answer in got.values()} == {None}


def test_going_on_answers_only_what_is_missing() -> None:
    model = model_of("llama")
    options = GenerationOptions(max_new_tokens=8, batch_size=4, **CONTINUOUS)
    whole, _ = answers_of(model, PROMPTS, options, greedy=True)
    rest, tally = answers_of(model, PROMPTS, options, greedy=True, done={"p2", "p3", "p4"})
    assert {key for key, _ in rest} == {"p0", "p1", "p5"}
    assert all(answer.ids == whole[name].ids for name, answer in rest.items())
    assert tally.answers == 3
    assert answers_of(model, PROMPTS, options, greedy=True, done=set(PROMPTS))[1].answers == 0


@pytest.mark.parametrize(
    ("kind", "own", "options", "message"),
    [
        ("llama", {"repetition_penalty": 1.3}, {}, "it would leave out repetition_penalty of generation_config.json"),
        ("llama", {"min_new_tokens": 4}, {}, "it would leave out min_new_tokens"),
        ("llama", {}, {"stop_strings": ("x",)}, "it has no stop strings"),
        ("mamba", {}, {}, "it keeps a recurrent state"),
    ],
)  # fmt: skip
def test_what_it_cannot_honour_is_refused(
    kind: str, own: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    model = model_of(kind)
    model.generation_config.update(**own)
    asked = GenerationOptions(max_new_tokens=4, **options, **CONTINUOUS)
    with pytest.raises(ModelError, match=message):
        answers_of(model, PROMPTS, asked, greedy=True)
    # Left to itself it does what was asked, the other way.
    got, _ = answers_of(model, PROMPTS, GenerationOptions(max_new_tokens=4, **options), greedy=True)
    assert len(got) == len(PROMPTS)


class _OnCuda:
    """A model that says it is on CUDA: nothing is computed here, only chosen."""

    device = torch.device("cuda")

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def test_auto_takes_it_on_cuda_for_greedy_answers_only() -> None:
    from tests.test_generate import Digits

    model = model_of("llama")

    def chosen(where: Any, options: GenerationOptions, *, greedy: bool) -> tuple[str, str]:
        work = quiet()
        rules = read_rules(model, Digits(), options, greedy=greedy, work=work)
        engine = choose_engine(where, rules, options, work)
        assert work.resolved["generation_engine"]["value"] == engine
        return engine, work.resolved["generation_engine"]["why"]

    assert chosen(model, GenerationOptions(), greedy=True) == ("prefill", "the model is on cpu")
    cuda = _OnCuda(model)
    assert chosen(cuda, GenerationOptions(), greedy=True) == ("continuous", "greedy, on CUDA")
    assert chosen(cuda, SamplingOptions(), greedy=False) == (
        "prefill", "continuous batching cannot give every answer its own random numbers",
    )  # fmt: skip
    stopping = GenerationOptions(stop_strings=("x",))
    assert chosen(cuda, stopping, greedy=True) == ("prefill", "it has no stop strings")


@pytest.mark.gpu
def test_on_cuda_greedy_answers_are_those_of_prefill() -> None:
    model = model_of("llama").to("cuda")
    plain, _ = answers_of(
        model, PROMPTS, GenerationOptions(max_new_tokens=16, generation_engine="prefill"), greedy=True
    )
    said: list[str] = []
    got, _ = answers_of(model, PROMPTS, GenerationOptions(max_new_tokens=16), greedy=True, work=quiet(said))
    assert "generation_engine: continuous (greedy, on CUDA)" in said
    assert {k: a.ids for k, a in got.items()} == {k: a.ids for k, a in plain.items()}
