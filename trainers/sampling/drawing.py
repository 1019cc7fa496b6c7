"""How the next token of every answer is chosen: transformers' processors, then one random stream per answer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from data.errors import TrainingError
from trainers.config import GenerationOptions, SamplingOptions
from trainers.sampling.stopping import StopStrings
from trainers.work import Work

# Of a model's generation_config.json: what is applied whenever it answers, what only when it samples, what the
# recipe decides instead, and what cannot change which tokens come out. All the rest is said not to be applied.
APPLIED = (
    "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "min_length", "min_new_tokens",
    "suppress_tokens", "begin_suppress_tokens", "stop_strings",
)  # fmt: skip
SAMPLING_APPLIED = ("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
DECIDED_BY_RECIPE = ("temperature", "top_k", "top_p")
WITHOUT_EFFECT = frozenset(
    {
        "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version",
        "do_sample", "max_length", "max_new_tokens", "num_return_sequences", "use_cache", "cache_implementation",
        "cache_config", "max_cache_len", "compile_config", "disable_compile", "prefill_chunk_size", "output_scores",
        "output_logits", "output_attentions", "output_hidden_states", "return_dict_in_generate", "early_stopping",
        "length_penalty", "continuous_batching_config", "assistant_early_exit", "use_mtp",
    }
)  # fmt: skip
_NEUTRAL = (None, False, [], {}, ())
_NEUTRAL_VALUES: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (1,), "encoder_repetition_penalty": (1,), "typical_p": (1,), "num_beams": (1,),
    "num_beam_groups": (1,), "guidance_scale": (1,), "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,),
    "min_length": (0,), "min_new_tokens": (0,), "epsilon_cutoff": (0,), "eta_cutoff": (0,), "diversity_penalty": (0,),
    "min_p": (0,),
}  # fmt: skip

Seen = Callable[[Sequence["Row"], torch.Tensor], None]
"""Looks at the logits that the next token of each row is chosen from; rows that are over are among them."""


@dataclass(frozen=True)
class Rules:
    """What decides the next token; the same for every answer of a stage."""

    greedy: bool
    max_new_tokens: int
    seed: int
    eos: tuple[int, ...]
    warpers: LogitsProcessorList
    """Temperature, top-k, top-p and their like, in transformers' order; empty when greedy."""
    own: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings of the model's own generation_config.json that are applied."""
    stop: StopStrings | None = None
    """The recipe's stop strings and the model's own."""
    seen: Seen | None = None
    """Continuous batching, which chooses by itself, shows it nothing."""


EndedBy = Literal["eos", "stop", "length"]


@dataclass
class Row:
    """One answer while it is written."""

    key: str
    index: int
    prompt: Sequence[int]
    stream: torch.Generator | None
    processors: LogitsProcessorList
    ids: list[int] = field(default_factory=list[int])
    logprob: float | None = 0.0
    """Under the model's own distribution; None where the engine cannot tell."""
    ended_by: EndedBy | None = None
    """An end token, a stop string, or as long as it may be; None while it is written."""
    text: str | None = None
    """What stands before the stop string, where one ended it."""

    @property
    def over(self) -> bool:
        return self.ended_by is not None


def read_rules(model: Any, tokenizer: Any, options: GenerationOptions, *, greedy: bool, work: Work) -> Rules:
    """The recipe's options and the model's own settings; whatever of the latter is not applied is said."""
    config = model.generation_config
    found = {key: value for key, value in config.to_diff_dict().items() if not _neutral(key, value)}
    wanted = APPLIED if greedy else APPLIED + SAMPLING_APPLIED
    own = {key: found[key] for key in wanted if key in found}
    if own:
        work.choose("generation_config", own, "the model's own generation_config.json asks for it")
    overruled = {key: found[key] for key in DECIDED_BY_RECIPE if key in found and not greedy}
    overruled = {key: value for key, value in overruled.items() if getattr(options, key, value) != value}
    if overruled:
        kept = ", ".join(
            f"{key} {getattr(options, key)} instead of {value}" for key, value in overruled.items()
        )
        work.say(f"generation_config.json of the model is overruled by the recipe: {kept}")
    known = {*APPLIED, *SAMPLING_APPLIED, *DECIDED_BY_RECIPE, *WITHOUT_EFFECT}
    left = {key: value for key, value in found.items() if key not in known and not key.startswith("_")}
    if left:
        work.choose("generation_config not applied", left, "this sampler has no such setting")
    warpers = LogitsProcessorList()
    if not greedy:
        warpers = _warpers(options, own, model.device)
    theirs: str | list[str] = own.get("stop_strings", [])
    strings = [*options.stop_strings, *([theirs] if isinstance(theirs, str) else theirs)]
    stop = StopStrings(tokenizer, strings) if strings else None
    ends = eos_ids(config.eos_token_id, tokenizer.eos_token_id)
    return Rules(greedy, options.max_new_tokens, options.seed, ends, warpers, own, stop)


def eos_ids(*found: int | Sequence[int] | None) -> tuple[int, ...]:
    """Every token that ends an answer, each once."""
    ids = [i for one in found if one is not None for i in ([one] if isinstance(one, int) else one)]
    return tuple(dict.fromkeys(ids))


def _neutral(key: str, value: object) -> bool:
    return value in _NEUTRAL or value in _NEUTRAL_VALUES.get(key, ())


def _warpers(options: GenerationOptions, own: dict[str, Any], device: Any) -> LogitsProcessorList:
    warpers = LogitsProcessorList()
    if isinstance(options, SamplingOptions):
        if options.top_vocabulary < 1.0:
            warpers.append(TopVocabulary(options.top_vocabulary))
        if options.temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k:
            warpers.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1.0:
            warpers.append(TopPLogitsWarper(options.top_p))
    if "min_p" in own:
        warpers.append(MinPLogitsWarper(own["min_p"]))
    if "typical_p" in own:
        warpers.append(TypicalLogitsWarper(own["typical_p"]))
    if "epsilon_cutoff" in own:
        warpers.append(EpsilonLogitsWarper(own["epsilon_cutoff"]))
    if "eta_cutoff" in own:
        warpers.append(EtaLogitsWarper(own["eta_cutoff"], device=device))
    return warpers


class TopVocabulary(LogitsProcessor):
    """Leaves exactly floor(share * vocabulary) tokens, at least one; of equal scores at the edge the lower ids."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        # 0.29 * 100 is 28.999999999999996.
        kept = max(1, math.floor(round(self.share * scores.shape[-1], 6)))
        first = scores.argsort(dim=-1, descending=True, stable=True)[:, :kept]
        return torch.full_like(scores, -torch.inf).scatter_(-1, first, scores.gather(-1, first))


def _processors(rules: Rules, prompt_length: int, device: Any) -> LogitsProcessorList:
    own, ends, made = rules.own, list(rules.eos), LogitsProcessorList()
    if "repetition_penalty" in own:
        made.append(RepetitionPenaltyLogitsProcessor(own["repetition_penalty"]))
    if "no_repeat_ngram_size" in own:
        made.append(NoRepeatNGramLogitsProcessor(own["no_repeat_ngram_size"]))
    if "bad_words_ids" in own:
        made.append(NoBadWordsLogitsProcessor(own["bad_words_ids"], eos_token_id=ends))
    if "min_length" in own and ends:
        made.append(MinLengthLogitsProcessor(own["min_length"], ends, device=device))
    if "min_new_tokens" in own and ends:
        made.append(
            MinNewTokensLengthLogitsProcessor(prompt_length, own["min_new_tokens"], ends, device=device)
        )
    if "suppress_tokens" in own:
        made.append(SuppressTokensLogitsProcessor(own["suppress_tokens"], device=device))
    if "begin_suppress_tokens" in own:
        made.append(
            SuppressTokensAtBeginLogitsProcessor(own["begin_suppress_tokens"], prompt_length, device=device)
        )
    return made


def stream_seed(seed: int, key: str, index: int) -> int:
    """The seed of one answer's random numbers: nothing but what names the answer goes into it."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}\0{index}".encode()).digest()[:7], "big")


def new_row(rules: Rules, key: str, index: int, prompt: Sequence[int], device: torch.device) -> Row:
    stream = (
        None if rules.greedy else torch.Generator(device).manual_seed(stream_seed(rules.seed, key, index))
    )
    return Row(key, index, prompt, stream, _processors(rules, len(prompt), device))


def choose(rules: Rules, rows: Sequence[Row], logits: torch.Tensor) -> torch.Tensor:
    """The next token of every row, from logits [rows, vocabulary]; rows that are over keep still.

    A draw is the first arrival of exponential clocks with rates p, which is how `torch.multinomial` draws. Rounding
    of the logits, which depends on the batch, then changes a token only where two arrivals are that close; walking
    a cumulative sum would change many, because there an early rounding error moves every later bound.
    """
    logits = logits.float()
    if rules.seen is not None:
        rules.seen(rows, logits)
    scores = logits
    if any(row.processors for row in rows):
        scores = torch.cat([_processed(row, logits[i : i + 1]) for i, row in enumerate(rows)])
    if rules.greedy:
        tokens = scores.argmax(-1)
    else:
        if rules.warpers:
            unread: Any = torch.empty((len(rows), 0), dtype=torch.long)
            scores = rules.warpers(unread, scores)
        clocks = torch.ones_like(scores)
        for row, line in zip(rows, clocks, strict=True):
            if not row.over:
                line.exponential_(generator=row.stream)
        tokens = (scores.softmax(-1) / clocks.clamp_min_(1e-38)).argmax(-1)
    chosen = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    for row, token, logprob in zip(rows, tokens.tolist(), chosen.tolist(), strict=True):
        if not row.over:
            _take(rules, row, token, logprob)
    return tokens


def _processed(row: Row, logits: torch.Tensor) -> torch.Tensor:
    """Alone, because neither padding nor a neighbour's tokens may count as this row's."""
    written: Any = torch.tensor([[*row.prompt, *row.ids]], device=logits.device)
    return row.processors(written, logits.clone())  # pyright: ignore[reportReturnType, reportArgumentType]


def _take(rules: Rules, row: Row, token: int, logprob: float) -> None:
    if logprob != logprob:
        raise TrainingError(
            f"the model's output is not a number (token {len(row.ids) + 1} of the answer to prompt {row.key})",
            way_out="Look at the training that made it (loss, learning rate), or load it with dtype: float32.",
        )
    row.ids.append(token)
    row.logprob = (row.logprob or 0.0) + logprob
    if token in rules.eos:
        row.ended_by = "eos"
    elif rules.stop is not None and (text := rules.stop.cut(row.ids)) is not None:
        row.ended_by, row.text = "stop", text
    elif len(row.ids) >= rules.max_new_tokens:
        row.ended_by = "length"
