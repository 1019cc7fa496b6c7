"""Batched decoding against transformers: same greedy tokens, same distributions, same draws in every batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from data.errors import TrainingError
from trainers.config import GenerationOptions, SamplingOptions
from trainers.sampling.drawing import choose, eos_ids, new_row, read_rules
from trainers.sampling.generate import Answer, Tally, generate, plan
from trainers.work import Work

SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
SPECIAL = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


class Digits:
    """A tokenizer whose text is its ids."""

    eos_token_id = 2
    all_special_ids = (0, 1, 2)

    def convert_ids_to_tokens(self, token: int) -> str:
        return str(token)

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(str(i) for i in ids if i not in (0, 1, 2))


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **SPECIAL)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, **SPECIAL)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=128, **SPECIAL)),
        "sliding": lambda: MistralForCausalLM(MistralConfig(sliding_window=6, **SIZES, **SPECIAL)),
        "mamba": lambda: MambaForCausalLM(MambaConfig(hidden_size=64, num_hidden_layers=2, state_size=8, **SPECIAL)),
        "t5": lambda: T5ForConditionalGeneration(
            T5Config(
                d_model=64, d_ff=128, num_layers=2, num_heads=4, d_kv=16, decoder_start_token_id=0, **SPECIAL
            )
        ),
    }  # fmt: skip
    model = made[kind]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(
                    3
                )  # fresh weights give nearly flat distributions, on which little would depend
    # Several end tokens, so that answers end at different lengths and rows leave the batch.
    model.generation_config.eos_token_id = list(range(2, 62))
    model.generation_config.pad_token_id = 0
    return model


def prompts_of(*lengths: int) -> dict[str, list[int]]:
    dice = torch.Generator().manual_seed(1)
    return {f"p{i}": torch.randint(62, 300, (n,), generator=dice).tolist() for i, n in enumerate(lengths)}


def quiet(said: list[str] | None = None) -> Work:
    return Work(Path(), say=(said if said is not None else []).append)


def answers_of(
    model: Any, prompts: dict[str, list[int]], options: GenerationOptions, *, greedy: bool, **more: Any
) -> tuple[dict[tuple[str, int], Answer], Tally]:
    got: list[Answer] = []
    more = {"work": quiet(), **more}
    tally = generate(model, Digits(), prompts, options, greedy=greedy, on_done=got.extend, **more)
    assert len({(a.key, a.index) for a in got}) == len(got)
    return {(a.key, a.index): a for a in got}, tally


PROMPTS = prompts_of(5, 3, 17, 9, 9, 1)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "sliding", "mamba", "t5"])
def test_greedy_is_model_generate_token_for_token(kind: str) -> None:
    model = model_of(kind)
    said: list[str] = []
    options = GenerationOptions(max_new_tokens=16, batch_size=4)
    got, tally = answers_of(model, PROMPTS, options, greedy=True, work=quiet(said))
    for key, ids in PROMPTS.items():
        alone = torch.tensor([ids])
        mask = torch.ones_like(alone)
        whole = model.generate(alone, attention_mask=mask, max_new_tokens=16, do_sample=False)[0].tolist()
        assert got[key, 0].ids == whole[1 if kind == "t5" else len(ids) :]
        assert got[key, 0].finished == (got[key, 0].ids[-1] in range(2, 62))
    assert tally.tokens == sum(len(answer.ids) for answer in got.values())
    assert tally.cut == sum(not answer.finished for answer in got.values())
    sampler = next(line for line in said if line.startswith("sampler: "))
    assert sampler.startswith(
        "sampler: model.generate" if kind in ("mamba", "t5") else "sampler: prefill once"
    )
    if kind == "llama":
        assert 0 < tally.cut < 6  # both ways to end occur, so compaction was exercised


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba"])
def test_a_sample_does_not_depend_on_its_batch(kind: str) -> None:
    model = model_of(kind)
    runs = []
    for batch_size in (1, 3, 8):
        options = SamplingOptions(max_new_tokens=10, batch_size=batch_size, num_return_sequences=5)
        got, _ = answers_of(model, PROMPTS, options, greedy=False)
        runs.append({key: answer.ids for key, answer in got.items()})
    assert runs[0] == runs[1] == runs[2]
    assert len(runs[0]) == 6 * 5
    assert len({tuple(ids) for ids in runs[0].values()}) > 25  # samples of one prompt differ
    alone, _ = answers_of(model, {"p2": PROMPTS["p2"]}, options, greedy=False)
    assert {key: answer.ids for key, answer in alone.items()} == {
        k: v for k, v in runs[0].items() if k[0] == "p2"
    }
    other, _ = answers_of(model, PROMPTS, options.model_copy(update={"seed": 7}), greedy=False)
    assert {key: answer.ids for key, answer in other.items()} != runs[0]


def test_going_on_gives_the_same_answers_to_the_last_bit() -> None:
    model = model_of("llama")
    options = SamplingOptions(max_new_tokens=8, batch_size=6, num_return_sequences=3)  # two prompts at a time
    whole, tally = answers_of(model, PROMPTS, options, greedy=False)
    groups = [["p2", "p3"], ["p4", "p0"], ["p1", "p5"]]  # lengths 17 9 | 9 5 | 3 1
    assert list(plan(PROMPTS, 3, 6)) == groups
    # The first batch is done, and of the second the first line was written when the process died.
    rest, second = answers_of(model, PROMPTS, options, greedy=False, done={"p2", "p3", "p4"})
    assert {key for key, _ in rest} == {"p0", "p1", "p5"}
    assert all(answer == whole[key] for key, answer in rest.items())  # logprob_sum included
    assert (tally.answers, second.answers) == (18, 9)


def test_plan_breaks_at_lengths_when_padding_is_forbidden() -> None:
    assert list(plan(PROMPTS, 2, 8, same_length=True)) == [["p2"], ["p3", "p4"], ["p0"], ["p1"], ["p5"]]
    assert list(plan(PROMPTS, 8, 4)) == [["p2"], ["p3"], ["p4"], ["p0"], ["p1"], ["p5"]]


@pytest.mark.parametrize(
    ("settings", "warpers"),
    [
        ({}, []),
        ({"temperature": 0.5}, [TemperatureLogitsWarper(0.5)]),
        ({"top_k": 3}, [TopKLogitsWarper(3)]),
        ({"top_p": 0.7}, [TopPLogitsWarper(0.7)]),
        (
            {"temperature": 1.5, "top_k": 6, "top_p": 0.8},
            [TemperatureLogitsWarper(1.5), TopKLogitsWarper(6), TopPLogitsWarper(0.8)],
        ),
    ],
)
def test_drawn_tokens_follow_the_distribution_of_transformers(settings: Any, warpers: list[Any]) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, 1.5]])
    model = model_of("llama")
    rules = read_rules(
        model, Digits(), SamplingOptions(max_new_tokens=2, **settings), greedy=False, work=quiet()
    )
    draws = 4000
    rows = [new_row(rules, "p", index, [5], torch.device("cpu")) for index in range(draws)]
    tokens = choose(rules, rows, logits.expand(draws, -1))
    expected = logits
    for warper in warpers:
        expected = warper(torch.zeros((1, 0), dtype=torch.long), expected)
    probabilities = expected.softmax(-1)[0].tolist()
    counts = torch.bincount(tokens, minlength=8).tolist()
    for count, p in zip(counts, probabilities, strict=True):
        # Five standard deviations of a binomial; a token of probability 0 never comes.
        assert abs(count - draws * p) <= 5 * math.sqrt(draws * p * (1 - p))


def test_logprob_is_the_model_s_own_and_ends_are_counted() -> None:
    model = model_of("llama")
    options = SamplingOptions(
        max_new_tokens=6, num_return_sequences=4, temperature=0.7, top_k=5, batch_size=8
    )
    got, _ = answers_of(model, PROMPTS, options, greedy=False)
    for (key, _), answer in got.items():
        whole = torch.tensor([PROMPTS[key] + answer.ids])
        with torch.no_grad():
            logprobs = model(whole).logits[0].double().log_softmax(-1)
        start = len(PROMPTS[key])
        expected = sum(logprobs[start + i - 1, token].item() for i, token in enumerate(answer.ids))
        assert answer.logprob_sum == pytest.approx(expected, abs=1e-4)
        assert answer.text == " ".join(str(i) for i in answer.ids if i > 2)


@pytest.mark.parametrize("kind", ["llama", "mamba"])
@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 9},
        {"suppress_tokens": list(range(62, 200)), "begin_suppress_tokens": [250, 2]},
    ],
)
def test_the_model_s_own_settings_are_applied_and_said(kind: str, own: dict[str, Any]) -> None:
    model = model_of(kind)
    plain, _ = answers_of(model, PROMPTS, GenerationOptions(max_new_tokens=12), greedy=True)
    model.generation_config.update(**own)
    said: list[str] = []
    work = quiet(said)
    got, _ = answers_of(model, PROMPTS, GenerationOptions(max_new_tokens=12), greedy=True, work=work)
    for key, ids in PROMPTS.items():
        alone = torch.tensor([ids])
        mask = torch.ones_like(alone)
        whole = model.generate(alone, attention_mask=mask, max_new_tokens=12, do_sample=False)[0].tolist()
        assert got[key, 0].ids == whole[len(ids) :]
    assert {k: a.ids for k, a in got.items()} != {k: a.ids for k, a in plain.items()}
    assert work.resolved["generation_config"]["value"] == own
    assert model.generation_config.to_diff_dict().items() >= own.items()  # nobody changed the model


def test_active_adapters_answer() -> None:
    from peft import LoraConfig, get_peft_model

    plain, _ = answers_of(model_of("llama"), PROMPTS, GenerationOptions(max_new_tokens=8), greedy=True)
    adapted: Any = get_peft_model(
        model_of("llama"), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    adapted.eval()
    got, _ = answers_of(adapted, PROMPTS, GenerationOptions(max_new_tokens=8), greedy=True)
    for key, ids in PROMPTS.items():
        alone = torch.tensor([ids])
        mask = torch.ones_like(alone)
        whole = adapted.generate(input_ids=alone, attention_mask=mask, max_new_tokens=8, do_sample=False)[
            0
        ].tolist()
        assert got[key, 0].ids == whole[len(ids) :]
    assert {k: a.ids for k, a in got.items()} != {k: a.ids for k, a in plain.items()}


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_stop_strings_cut_each_answer_for_itself_whatever_the_batch(kind: str) -> None:
    model = model_of(kind)
    plain = SamplingOptions(max_new_tokens=6, num_return_sequences=5, batch_size=8)
    whole, _ = answers_of(model, PROMPTS, plain, greedy=False)
    # The last is in the middle of a number, the first spans two tokens: neither keeps to token boundaries.
    longest = max(whole.values(), key=lambda answer: len(answer.ids))
    across = longest.text.split(" ")
    stops = (f"{across[1]} {across[2][:1]}", "17", "9 2")
    expected: dict[Any, tuple[list[int], str, str]] = {}
    for name, answer in whole.items():
        found = (answer.ids, answer.text, answer.ended_by)
        for count in range(1, len(answer.ids) + 1):
            text = Digits().decode(answer.ids[:count])
            if answer.ids[count - 1] in range(2, 62):
                break
            if any(stop in text for stop in stops):
                cut = min(text.index(stop) for stop in stops if stop in text)
                found = (answer.ids[:count], text[:cut], "stop")
                break
        expected[name] = found
    assert expected[longest.key, longest.index][2] == "stop"
    assert {"eos", "stop", "length"} == {by for _, _, by in expected.values()}
    for batch_size in (1, 3, 8, 40):
        options = plain.model_copy(update={"stop_strings": stops, "batch_size": batch_size})
        got, tally = answers_of(model, PROMPTS, options, greedy=False)
        assert {name: (a.ids, a.text, a.ended_by) for name, a in got.items()} == expected
        counted = [by for _, _, by in expected.values()]
        assert (tally.ended_by_eos, tally.ended_by_stop, tally.cut) == (
            counted.count("eos"), counted.count("stop"), counted.count("length"),
        )  # fmt: skip
        assert all(answer.finished == (answer.ended_by != "length") for answer in got.values())


def tiny() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainers import aliases

    folder = aliases.resolve("tiny")
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def test_stop_strings_of_the_model_end_an_answer() -> None:
    model, tokenizer = tiny()
    prompts = {
        "p": list(tokenizer("The signal is")["input_ids"]),
        "q": list(tokenizer("Yes, the lamp")["input_ids"]),
    }
    options = GenerationOptions(max_new_tokens=12)

    def greedy() -> dict[str, Answer]:
        got: list[Answer] = []
        generate(model, tokenizer, prompts, options, greedy=True, on_done=got.extend, work=quiet())
        return {answer.key: answer for answer in got}

    whole = greedy()["p"]
    stop = tokenizer.decode(whole.ids[4])
    model.generation_config.stop_strings = [stop]
    cut = greedy()["p"]
    first = next(i for i in range(12) if stop in tokenizer.decode(whole.ids[: i + 1]))
    assert cut.ids == whole.ids[: first + 1]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finished
    assert not whole.finished


def test_a_stop_string_is_found_where_its_characters_are_split_into_bytes() -> None:
    from trainers.sampling.stopping import StopStrings

    _, tokenizer = tiny()
    text = "The lamp 灯→ waits 🌄; the end\n\nUser: no"
    ids = list(tokenizer(text)["input_ids"])
    assert len(tokenizer("灯🌄")["input_ids"]) > 2  # tiny's vocabulary has them as bytes only
    for stop in ("灯→", "🌄", "→ w", "\n\nUser:", "e lamp 灯", "T"):
        found = StopStrings(tokenizer, [stop, "never"])
        first = next(n for n in range(1, len(ids) + 1) if stop in tokenizer.decode(ids[:n]))
        cuts = [found.cut(ids[:n]) for n in range(1, first + 1)]
        assert cuts == [None] * (first - 1) + [text[: text.index(stop)]]
    # The earliest of several that one token completes, and special tokens between count for nothing.
    assert StopStrings(tokenizer, ["mp", "lamp"]).cut(tokenizer("The lamp")["input_ids"]) == "The "
    eos = tokenizer.eos_token_id
    split = [*tokenizer("The la")["input_ids"], *[eos] * 40, *tokenizer("mp")["input_ids"]]
    assert StopStrings(tokenizer, ["lamp"]).cut(split) == "The "


def test_a_stop_string_is_found_where_bytes_are_decoded_as_a_whole_run() -> None:
    """As Llama 2's tokenizer does: characters outside the vocabulary are runs of tokens named <0xE2>."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    from trainers.sampling.stopping import StopStrings

    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁on": 256, "e": 257}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    ids = [256, 257, *"灯🌄".encode() * 3, 257]
    for stop in ("🌄", "e灯", "灯🌄灯", " on", "on"):
        whole = [n for n in range(1, len(ids) + 1) if stop in tokenizer.decode(ids[:n])]
        found = StopStrings(tokenizer, [stop])
        for n in range(1, (whole or [len(ids)])[0] + 1):
            cut = found.cut(ids[:n])
            text = str(tokenizer.decode(ids[:n]))
            assert cut == (text[: text.index(stop)] if stop in text else None)


def test_settings_that_cannot_be_applied_or_are_overruled_are_said() -> None:
    model = model_of("llama")
    model.generation_config.update(temperature=0.6, top_p=0.9, guidance_scale=1.5, do_sample=True)
    said: list[str] = []
    work = quiet(said)
    read_rules(model, Digits(), SamplingOptions(top_p=0.9, max_new_tokens=4), greedy=False, work=work)
    assert work.resolved["generation_config not applied"]["value"] == {"guidance_scale": 1.5}
    assert said[0] == (
        "generation_config.json of the model is overruled by the recipe: temperature 1.0 instead of 0.6"
    )
    assert len(said) == 2


def test_end_tokens_come_from_the_model_and_its_tokenizer() -> None:
    assert eos_ids([5, 6], 2) == (5, 6, 2)
    assert eos_ids(2, 2) == (2,)
    assert eos_ids(None, None) == ()


def test_output_that_is_not_a_number_names_the_prompt() -> None:
    model = model_of("llama")
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    with pytest.raises(TrainingError, match=r"not a number \(token 1 of the answer to prompt p2\)"):
        answers_of(model, PROMPTS, GenerationOptions(max_new_tokens=4, batch_size=2), greedy=True)


def test_progress_reaches_the_total() -> None:
    seen: list[tuple[float, float | None]] = []

    def progress(*, done: float, total: float | None, unit: str, **figures: float) -> None:
        assert unit == "answers"
        assert figures["tokens_per_second"] > 0
        seen.append((done, total))

    options = SamplingOptions(max_new_tokens=8, batch_size=6, num_return_sequences=3)
    work = Work(Path(), say=lambda _: None, progress=progress)
    answers_of(model_of("llama"), PROMPTS, options, greedy=False, work=work, done={"p2", "p3"})
    assert seen[-1] == (18, 18)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[0][0] >= 6
