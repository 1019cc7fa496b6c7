"""Which engine a model can be scored with: the prompt tree where it is exact, and the reason where it is not."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any, Literal, NamedTuple

import torch

from data.errors import ModelError
from trainers.engine import logprobs, segment_attention
from trainers.engine.groups import Engine, Group, Layout

Asked = Literal["auto", "tree", "packed", "padded"]

FAR = {torch.float64: 1e-4, torch.float32: 1e-3}
FAR_HALF = 0.25
"""Nats between engine and model beyond which the two cannot be the same function, by number type."""


def resolve(asked: Asked, model: Any, *, longest: int | None = None) -> tuple[Engine, str]:
    """The engine to use, and why. `longest`: tokens of the longest prompt and completion there will be; None: any.

    An engine asked for by name is had or refused, never replaced.
    """
    if asked == "padded":
        return "padded", "asked for"
    why_not = problem(model, longest=longest)
    if asked == "auto":
        return (
            ("tree", "each prompt is encoded once" + _dropout(model))
            if why_not is None
            else ("padded", why_not)
        )
    if why_not is None:
        return asked, "asked for"
    raise ModelError(
        f"the engine {asked} cannot be had: {why_not}",
        where="engine",
        way_out="Write `engine: auto`, or `engine: padded`.",
    )


def _dropout(model: Any) -> str:
    rates = [getattr(config, "lora_dropout", 0.0) for config in getattr(model, "peft_config", {}).values()]
    return "; dropout draws one mask for a prompt, not one for each completion" if any(rates) else ""


def prepare(
    asked: Asked, model: Any, *, longest: int | None = None, kernel: str = "auto"
) -> tuple[Engine, str]:
    """Resolve, install and try out. Call it before accelerate, DDP or FSDP wrap the model.

    Where the model's head rules our own out, nothing is installed and the answer is padded: TRL's path.
    """
    engine, why = resolve(asked, model, longest=longest)
    if head_problem(logprobs.causal_lm(model)) is not None:
        return engine, why
    install(model, engine, kernel)
    dtype = logprobs.causal_lm(model).get_input_embeddings().weight.dtype
    try:
        gap = probe(model)
    except ModelError as refused:
        found = refused.what
    else:
        if gap <= FAR.get(dtype, FAR_HALF):
            return engine, why
        found = f"its log-probabilities are {gap:.2g} nats from those of the model's own forward"
    remove(model)
    if asked != "auto":
        raise ModelError(f"the engine {asked} cannot be had: {found}", where="engine")
    return "padded", found


def problem(model: Any, *, longest: int | None = None) -> str | None:
    """Why prompts cannot be shared and rows not packed on this model; None when they can."""
    if isinstance(model, torch.nn.DataParallel):
        return "nn.DataParallel cuts batches along rows"
    for config in getattr(model, "peft_config", {}).values():
        if config.is_prompt_learning:
            return f"{config.peft_type.value} puts virtual tokens before every row"
    base = logprobs.causal_lm(model)
    if head := head_problem(base):
        return f"the head: {head}"
    return _family(base) or _attention(base, longest)


def kernel_taken(model: Any) -> str:
    """The attention kernel that the last call ran on: `auto` decides by device and number type, at each call."""
    return getattr(logprobs.causal_lm(model), "heliograph_took", "none yet")


def head_problem(base: Any) -> str | None:
    """Why the projection onto the vocabulary cannot be done here, row by row; None when it can."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    head = base.get_output_embeddings()
    if isinstance(head, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return "it carries an adapter"
    if not isinstance(head, torch.nn.Linear):
        return "it has none" if head is None else f"it is a {type(head).__name__}, not a linear layer"
    if not head.weight.is_floating_point():
        return "it is quantised"
    return "DeepSpeed ZeRO-3 has split it" if hasattr(head.weight, "ds_id") else None


def _family(base: Any) -> str | None:
    """What kind of model it is."""
    config = base.config
    text = config.get_text_config()
    if text is not config or any(getattr(config, name, None) for name in ("vision_config", "audio_config")):
        return "it takes images or sound, whose positions are not those of tokens"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    marks = ("mamba_d_state", "ssm_state_size", "linear_num_key_heads", "conv_L_cache")
    if getattr(base, "_is_stateful", False) or any(_get(text, name) for name in marks):
        return "state-space or linear-attention layers read a row from left to right, whatever lies in it"
    if getattr(text, "output_router_logits", False):
        return "its router loss counts every token of the batch, and sharing a prompt would change the count"
    return None


def _attention(base: Any, longest: int | None) -> str | None:
    """What its attention does beyond the plain causal kind."""
    text = base.config.get_text_config()
    kinds = set(_get(text, "layer_types") or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"layers of the kind {', '.join(sorted(kinds))}"
    window = sliding_window(text)
    if window is not None and (longest is None or longest > window):
        rows = "rows of any length" if longest is None else f"rows of {longest} tokens"
        return f"a sliding window of {window} tokens is shorter than {rows}"
    if _get(text, "attn_logit_softcapping") is not None:
        return "soft-capped attention scores"
    if any(name.rpartition(".")[2] in ("sinks", "sink") for name, _ in base.named_parameters()):
        return "attention sinks"
    if _get(text, "alibi") or _get(text, "position_embedding_type") == "alibi":
        return "positions that are a bias on attention (ALiBi)"
    if _get(text, "is_causal") is False or _get(text, "use_bidirectional_attention"):
        return "its attention looks ahead"
    if any("mrope_section" in (_get(text, name) or {}) for name in ("rope_scaling", "rope_parameters")):
        return "positions in several dimensions (M-RoPE)"
    if not getattr(base, "_supports_attention_backend", False) or not base._can_set_attn_implementation():
        return f"the attention of {type(base).__name__} does not go through transformers' attention interface"
    takes = inspect.signature(inspect.unwrap(base.base_model.forward)).parameters
    if "position_ids" not in takes or all(p.kind is not p.VAR_KEYWORD for p in takes.values()):
        return f"{type(base.base_model).__name__} hands no further arguments on to its layers"
    return None


def sliding_window(text: Any) -> int | None:
    """The window of a model that has sliding layers; a size that no layer uses does not count."""
    window = _get(text, "sliding_window")
    if not isinstance(window, int) or _get(text, "use_sliding_window") is False:
        return None
    kinds = _get(text, "layer_types")
    return None if kinds and "sliding_attention" not in kinds else window


class _Installed(NamedTuple):
    engine: Engine
    kernel: str
    attention: str | None
    """Attention of the model before."""
    forward: Any
    """Its forward before, where that was not its class's."""
    ours: Any


def install(model: Any, engine: Engine, kernel: str = "auto") -> None:
    """Patch the model; anything but a call with `segments=` behaves as before, on transformers' sdpa."""
    base = logprobs.causal_lm(model)
    remove(base)
    if "_original_forward" in vars(base):
        # Accelerate's autocast would lie inside our forward instead of around it: half precision lost in silence.
        raise ModelError("the engine must be installed before accelerate prepares the model")
    if head := head_problem(base):
        raise ModelError(f"the model's head cannot be scored in pieces: {head}")
    attention = None
    if engine != "padded":
        segment_attention.register()
        attention = base.config._attn_implementation
        base.set_attn_implementation(segment_attention.NAME)
    ordinary = base.forward
    # Unbound, so that a deep copy of the model runs its own forward and not the original's.
    unbound = getattr(ordinary, "__func__", None) if getattr(ordinary, "__self__", None) is base else None

    @functools.wraps(type(base).forward)  # generate() checks its arguments against this signature
    def forward(self: Any, *args: Any, segments: Layout | None = None, **kwargs: Any) -> Any:
        if segments is not None:
            return logprobs.score(self, segments)
        return ordinary(*args, **kwargs) if unbound is None else unbound(self, *args, **kwargs)

    base.heliograph = _Installed(engine, kernel, attention, vars(base).get("forward"), forward)
    base.forward = types.MethodType(forward, base)


def remove(model: Any) -> None:
    """Undo `install`."""
    base = logprobs.causal_lm(model)
    if not logprobs.installed(base):
        return
    before: _Installed = base.heliograph
    if getattr(base.forward, "__func__", None) is not before.ours:
        raise RuntimeError("another patch of forward lies over the engine's, and would go with it")
    del base.heliograph, base.forward
    if before.forward is not None:
        base.forward = before.forward
    if before.attention is not None:
        base.set_attn_implementation(before.attention)


def probe(model: Any) -> float:
    """Nats between the engine and the model's own forward, at worst, on three made-up prompts."""
    base = logprobs.causal_lm(model)
    if any(p.is_meta or not p.numel() for p in base.parameters()):
        return 0.0  # weights that are elsewhere, as under ZeRO-3, cannot be tried
    size = base.config.get_text_config().vocab_size
    groups: list[Group] = [
        (_ids(size, 1, 5), [_ids(size, 7, 3), _ids(size, 20, 1), _ids(size, 30, 4)]),
        (_ids(size, 50, 1), [_ids(size, 60, 2)]),
        ([], [_ids(size, 70, 3)]),
    ]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            found = logprobs.completion_log_probs(model, groups).tokens
            own = torch.cat([_own(model, prompt, row) for prompt, rows in groups for row in rows])
    finally:
        model.train(training)
    return (found.double() - own.double()).abs().max().nan_to_num(float("inf")).item()


def _own(model: Any, prompt: Any, completion: Any) -> torch.Tensor:
    device = logprobs.causal_lm(model).get_input_embeddings().weight.device
    ids = torch.tensor([[*prompt, *completion]], device=device)
    logps = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
    first = max(len(prompt), 1)
    return logps[first - 1 : -1].gather(1, ids[0, first:, None].to(logps.device))[:, 0]


def _ids(size: int, start: int, count: int) -> list[int]:
    return [(start + 13 * i) % size for i in range(count)]


def _get(config: Any, name: str) -> Any:
    return getattr(config, name, None)
