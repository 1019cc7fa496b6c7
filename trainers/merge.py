"""One plain model out of a base and its adapters, checked against what it replaces."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import torch

from data.errors import ModelError
from trainers import policy
from trainers.config import ModelOptions
from trainers.models import attach, load_base, load_policy
from trainers.policy import Policy
from trainers.training.loop import MODEL
from trainers.work import Work

PROBE_ROWS = 4
PROBE_TOKENS = 32


def merge(start: str, max_logit_gap: float | None, work: Work) -> dict[str, Any]:
    """Fold the adapters in, lowest first; a quantised base is dequantised to the weights they were trained on."""
    loaded = load_policy(start, None, work)
    if not loaded.policy.adapters:
        raise ModelError(
            "there is no adapter to merge: this policy is a plain model already",
            where=start,
            way_out="Leave the merge stage out, and refer to that stage.",
        )
    model: Any = loaded.model
    probe = _probe(model)
    before = _logits(model, probe)
    figures: dict[str, Any] = {"adapters": len(loaded.policy.adapters)}
    if loaded.policy.quantization:
        base = load_base(loaded.policy, "sdpa", ModelOptions(model=start), loaded.device)
        model = attach(_dequantised(loaded.policy, base), loaded.policy)
        del base
        # 8-bit layers round what goes into them too, which no plain model does: told, and not held against it.
        quantised, before = before, _logits(model, probe)
        figures["quantised_logit_gap"] = (before - quantised).abs().max().item()
    merged = model.merge_and_unload(adapter_names=list(model.active_adapters))
    merged.requires_grad_(True)
    gap = (_logits(merged, probe) - before).abs().max().item()
    relative = gap / before.abs().max().item()
    if max_logit_gap is None:
        max_logit_gap = 1e-3 if loaded.policy.dtype == "float32" else 3e-2
    if not relative <= max_logit_gap:
        raise ModelError(
            f"merged and unmerged logits differ by {gap:.3g}, {relative:.3g} of the largest",
            where=start,
            way_out=f"max_logit_gap is {max_logit_gap:g}. DoRA on top of another adapter does not merge exactly; "
            "16-bit weights round: train in float32, or raise the limit.",
        )
    work.say(f"merged {len(loaded.policy.adapters)} adapter(s); logits within {gap:.3g} of base + adapters")
    out = work.out / MODEL
    aside = out.with_name(MODEL + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    merged.save_pretrained(str(aside))
    if loaded.eyes is not None:
        loaded.eyes.processor.save_pretrained(str(aside))
    loaded.tokenizer.save_pretrained(str(aside))
    saved = replace(loaded.policy, base=str(aside.resolve()), revision=None, adapters=(), quantization=None)
    policy.write(saved, aside)
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)
    return {**figures, "logit_gap": gap, "logit_gap_relative": relative}


def _dequantised(found: Policy, quantised: Any) -> Any:
    """The plain model that the quantised weights stand for, in the policy's own number type."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    plain = load_base(
        replace(found, quantization=None), "sdpa", ModelOptions(model=found.base), quantised.device
    )
    with torch.no_grad():
        for name, module in quantised.named_modules():
            weight: Any = getattr(module, "weight", None)
            if isinstance(module, Linear4bit):
                exact = dequantize_4bit(weight.data, weight.quant_state)
            elif isinstance(module, Linear8bitLt):
                exact = weight.CB.float() * weight.SCB.float().unsqueeze(1) / 127
            else:
                continue
            target = plain.get_submodule(name).weight
            target.copy_(exact.to(target.dtype))
    return plain


def _probe(model: Any) -> torch.Tensor:
    size = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, size, (PROBE_ROWS, PROBE_TOKENS), generator=generator)


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu()
