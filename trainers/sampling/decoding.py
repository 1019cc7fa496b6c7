"""The two ways to write a batch of answers: our loop over a repeated cache, and `model.generate` where that fails."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from trainers.sampling.drawing import Row, Rules, choose, new_row
from trainers.vision.eyes import Pictured, batch_tensors

Report = Callable[[Sequence[Row]], None]


def obstacle_to_prefill(model: Any) -> str | None:
    """Why a prompt's cache cannot be read once and repeated; None: it can."""
    core, config = _core(model), model.config
    accepted = inspect.signature(core.forward).parameters
    if config.is_encoder_decoder:
        return "an encoder-decoder"
    if getattr(core, "_is_stateful", False):
        return "it keeps a recurrent state"
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "its adapter learns a prompt"
    if "pixel_values" in accepted:
        return "it takes images"
    if "past_key_values" not in accepted or "attention_mask" not in accepted:
        return f"{type(core).__name__} takes no cache"
    layers = DynamicCache(config=config).layers
    odd = next((x for x in layers if type(x) not in (DynamicLayer, DynamicSlidingWindowLayer)), None)
    return None if odd is None else f"its cache has a {type(odd).__name__}"


def _core(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def by_prefill(
    model: Any,
    rules: Rules,
    prompts: Mapping[str, Sequence[int]],
    samples: int,
    batch_size: int,
    report: Report,
) -> Iterator[Row]:
    device = model.device
    longest = max(len(ids) for ids in prompts.values())
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for line, prompt in enumerate(prompts.values()):
        ids[line, longest - len(prompt) :] = torch.tensor(prompt)
        mask[line, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    accepted = inspect.signature(_core(model).forward).parameters
    last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
    placed = "position_ids" in accepted
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    cache = DynamicCache(config=model.config)
    read = model(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        **({"position_ids": positions} if placed else {}),
        **last,
    ).logits[:, -1]
    rows = [(line, key, index) for line, key in enumerate(prompts) for index in range(samples)]
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        lines = torch.tensor([line for line, _, _ in part], device=device)
        made = [new_row(rules, key, index, prompts[key], device) for _, key, index in part]
        _decode(model, rules, made, read[lines], _spread(cache, lines), mask[lines], placed, report)
        yield from made


class _Roomy(DynamicLayer):
    """A layer with room for the tokens to come: a step writes one token, where DynamicLayer copies all there are."""

    STEP = 64

    def __init__(self, full: Any, lines: torch.Tensor) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = full.dtype, full.device, True
        self.length = full.keys.shape[-2]
        self._rooms = [_with_room(part, self.STEP, lines) for part in (full.keys, full.values)]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (room[:, :, : self.length] for room in self._rooms)

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> Any:
        end = self.length + key_states.shape[-2]
        if end > self._rooms[0].shape[-2]:
            self._rooms = [
                _with_room(part, end - self.length + self.STEP) for part in (self.keys, self.values)
            ]
        for room, new in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, self.length : end] = new
        self.length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._rooms = [_with_room(part, self.STEP, indices) for part in (self.keys, self.values)]
        self._show()


def _with_room(part: Any, room: int, lines: torch.Tensor | None = None) -> torch.Tensor:
    rows, heads, length, size = part.shape
    made = part.new_empty((rows if lines is None else len(lines), heads, length + room, size))
    made[:, :, :length] = part if lines is None else part[lines]
    return made


def _spread(cache: DynamicCache, lines: torch.Tensor) -> DynamicCache:
    """A cache with the given lines of this one, which stays as it is."""
    spread = copy.copy(cache)
    spread.layers = []
    for layer in cache.layers:
        if type(layer) is DynamicLayer:
            made: Any = _Roomy(layer, lines)
        else:
            made = copy.copy(layer)  # it replaces its tensors and never writes into them
            made.batch_select_indices(lines)
        spread.layers.append(made)
    return spread


def _decode(
    model: Any,
    rules: Rules,
    rows: list[Row],
    logits: torch.Tensor,
    cache: DynamicCache,
    mask: torch.Tensor,
    placed: bool,
    report: Report,
) -> None:
    """Write the rows to their end, given the logits after their prompts."""
    every, position = list(rows), mask.sum(-1)
    tokens = choose(rules, rows, logits)
    while not all(row.over for row in rows):
        gone = sum(row.over for row in rows)
        if 4 * gone >= len(
            rows
        ):  # Copying the cache costs about as much as one step of a quarter of the rows.
            kept = torch.tensor([i for i, row in enumerate(rows) if not row.over], device=mask.device)
            rows = [row for row in rows if not row.over]
            cache.batch_select_indices(kept)
            mask, position, tokens = mask[kept], position[kept], tokens[kept]
        mask = torch.cat([mask, mask.new_ones((len(rows), 1))], dim=-1)
        out = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **({"position_ids": position[:, None]} if placed else {}),
        )
        position = position + 1
        tokens = choose(rules, rows, out.logits[:, -1])
        if cache.get_seq_length() % 8 == 0:
            report(every)


class _OurChoice(LogitsProcessor):
    """Makes `model.generate` take our tokens, so that both ways draw alike."""

    def __init__(self, rules: Rules, rows: list[Row]) -> None:
        self.rules, self.rows = rules, rows

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        tokens = choose(self.rules, self.rows, scores)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


class _OurEnd(StoppingCriteria):
    """Makes `model.generate` stop where we stop."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.tensor([row.over for row in self.rows], device=input_ids.device)


def by_model_generate(
    model: Any,
    rules: Rules,
    prompts: Mapping[str, Sequence[int]],
    samples: int,
    batch_size: int,
    report: Report,
) -> Iterator[Row]:
    """Prompts of one length, so that nothing is padded: a recurrent state would take padding for text."""
    device, config = model.device, model.config
    begun = [config.decoder_start_token_id] if config.is_encoder_decoder else None
    order = [(key, index) for key in prompts for index in range(samples)]
    theirs = model.generation_config
    pad = theirs.pad_token_id if theirs.pad_token_id is not None else (rules.eos[0] if rules.eos else 0)
    plain = GenerationConfig(
        max_new_tokens=rules.max_new_tokens,
        do_sample=False,
        pad_token_id=pad,
        bos_token_id=theirs.bos_token_id,
        decoder_start_token_id=theirs.decoder_start_token_id,
    )
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        rows = [new_row(rules, key, index, begun or prompts[key], device) for key, index in part]
        ids = torch.tensor([list(prompts[key]) for key, _ in part], device=device)
        # What the model's own file asks for is in the rules already; left here it would be applied twice.
        holders = list({id(m): m for m in (model, _core(model))}.values())
        kept = [m.generation_config for m in holders]
        try:
            for holder in holders:
                holder.generation_config = plain
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **_pictures([prompts[key] for key, _ in part], device),
                generation_config=plain,
                logits_processor=LogitsProcessorList([_OurChoice(rules, rows)]),
                stopping_criteria=StoppingCriteriaList([_OurEnd(rows)]),
            )
        finally:
            for holder, config_of_it in zip(holders, kept, strict=True):
                holder.generation_config = config_of_it
        report(rows)
        yield from rows


def _pictures(prompts: Sequence[Sequence[int]], device: Any) -> dict[str, Any]:
    """The tensors of the pictures that stand in these prompts, in their order."""
    seen = [prompt for prompt in prompts if isinstance(prompt, Pictured)]
    made = batch_tensors(seen[0].eyes, [one.picture for one in seen]) if seen else {}
    return {name: tensor.to(device) for name, tensor in made.items()}
