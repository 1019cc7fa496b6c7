"""A policy of a run as files that other tools load, checked against the policy that they were made from."""

from __future__ import annotations

import contextlib
import gc
import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from data.encoding import render_prompt
from data.errors import ModelError
from trainers import aliases, gguf, policy
from trainers.config import ModelOptions
from trainers.merge import merge
from trainers.models import Loaded, load_base, load_policy, load_tokenizer
from trainers.policy import Policy
from trainers.work import Work

Form = Literal["adapter", "merged", "gguf"]
MODEL = "model"
ASKED = (
    "What is a heliograph?",
    "Write one sentence about the sun, and one about a mirror.",
    "Count from 1 to 9.",
)
ANSWER_TOKENS = 24
SLACK = 4.0
"""Times the gap that the merge measured on its probe; the answers' tokens are others."""


@dataclass
class Answers:
    """Greedy answers to the prompts, and the logits that chose each of their tokens."""

    prompts: list[list[int]]
    tokens: list[list[int]]
    logits: list[torch.Tensor]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Loading has bars and warnings of its own, once for each time that it loads."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if bars:
            logging.enable_progress_bar()


@quiet()
def export(start: str, form: Form, aside: Path, name: str, work: Work) -> dict[str, Any]:
    """Write `aside/model` and check it; returns what was checked. `name` is what a GGUF file is called."""
    found = policy.read(start)
    converter = gguf.converter() if form == "gguf" else None
    loaded = load_policy(start, None, work)
    policy_as_loaded, kernel = loaded.policy, str(loaded.model.config._attn_implementation)
    expected = _answers(loaded.model, _prompts(loaded.tokenizer))
    del loaded
    gc.collect()
    out, slack, figures = aside / MODEL, 0.0, dict[str, Any]()
    if form == "adapter":
        _adapter(found, policy_as_loaded, out)
    elif found.adapters:
        figures = _merged(start, replace(work, out=aside))
        slack = SLACK * (figures["logit_gap"] + figures.get("quantised_logit_gap", 0.0))
    else:
        _plain(start, policy_as_loaded, out)
    (out / policy.FILE).unlink(missing_ok=True)  # It tells places of the run, which stays behind.
    for file in out.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which nobody else could read.
    if converter is not None:
        out.rename(aside / "merged")
        gguf.convert(converter, aside / "merged", out / f"{name}.gguf", policy_as_loaded.dtype)
        shutil.rmtree(aside / "merged")
    again = _as_others_load(out, form, policy_as_loaded, kernel, work)
    if form != "gguf" and _prompts(again.tokenizer) != expected.prompts:
        raise ModelError("the exported tokenizer makes other tokens of the same prompts", where=str(out))
    return {"form": form, **figures, "checked": compare(expected, again.model, slack, out)}


def _merged(start: str, work: Work) -> dict[str, Any]:
    try:
        return merge(start, None, work)
    except ModelError as fault:
        raise ModelError(
            fault.what,
            where=fault.where,
            way_out="16-bit weights round: export the adapter, or write a stage `kind: merge` with the "
            "`max_logit_gap` that you allow, and export that one.",
        ) from fault


def compare(expected: Answers, model: Any, slack: float, where: Path) -> dict[str, Any]:
    """The exported model's greedy tokens against those of the run's, on the same prompts.

    Of weights that were rounded when they were merged, another token may win where two are as good as equal: those
    places are counted. `slack` is how far apart their logits may be in the run's model.
    """
    found = _answers(model, expected.prompts)
    forced = [
        _logits(model, prompt, tokens)
        for prompt, tokens in zip(expected.prompts, expected.tokens, strict=True)
    ]
    ties, worst, gap = 0, 0.0, 0.0
    for was, has in zip(expected.logits, forced, strict=True):
        gap = max(gap, (was - has).abs().max().item())
        picked = has.argmax(dim=-1)
        lost = was.max(dim=-1).values - was.gather(1, picked[:, None])[:, 0]
        ties, worst = ties + int((lost > 0).sum()), max(worst, lost.max().item())
    equal = found.tokens == expected.tokens
    if worst > slack or not (equal or ties):
        raise ModelError(
            f"the exported model answers otherwise: its greedy tokens lie up to {worst:.3g} below the run's best, "
            f"and {slack:.3g} is what merging explains",
            where=str(where),
            way_out="Nothing was exported. Merge in float32 (`kind: merge` with `dtype: float32` on the stages), "
            "or export the adapter.",
        )
    return {
        "prompts": len(expected.prompts),
        "tokens": sum(len(tokens) for tokens in expected.tokens),
        "equal": equal,
        "near_ties": ties,
        "logit_gap": gap,
    }


def _prompts(tokenizer: Any) -> list[list[int]]:
    chats = tokenizer.chat_template is not None
    return [
        render_prompt(tokenizer, [{"role": "user", "content": text}] if chats else text) for text in ASKED
    ]


def _answers(model: Any, prompts: list[list[int]]) -> Answers:
    found = Answers(prompts, [], [])
    for ids in prompts:
        row = torch.tensor([ids], device=model.device)
        with torch.no_grad():
            made = model.generate(
                input_ids=row,
                attention_mask=torch.ones_like(row),
                max_new_tokens=ANSWER_TOKENS,
                do_sample=False,
                num_beams=1,
            )
        tokens = made[0, len(ids) :].tolist()
        found.tokens.append(tokens)
        found.logits.append(_logits(model, ids, tokens))
    return found


def _logits(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """What chose each token of the answer."""
    row = torch.tensor([[*prompt, *tokens]], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.float().cpu()


def _adapter(found: Policy, loaded: Policy, out: Path) -> None:
    """The one adapter in PEFT's layout, with the base it needs in its configuration."""
    out.mkdir(parents=True)
    source = found.adapters[0]
    shutil.copyfile(source / "adapter_model.safetensors", out / "adapter_model.safetensors")
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_folder(loaded)
    config["revision"] = loaded.revision
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (out / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    load_tokenizer(found).save_pretrained(str(out))


def base_folder(found: Policy) -> str:
    """What other tools load the base by: its hub id, or a folder of this machine."""
    return str(aliases.resolve(found.base)) if aliases.is_alias(found.base) else found.base


def _plain(start: str, loaded: Policy, out: Path) -> None:
    """Full weights as they lie in the run: the same files."""
    folder = Path(start)
    if not any(folder.glob("*.safetensors")):
        raise ModelError("there are no weights here", where=start, way_out="Export a stage that trains.")
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.tmp", "README.md"))


def _as_others_load(out: Path, form: Form, made: Policy, kernel: str, work: Work) -> Loaded:
    """With PEFT's and transformers' own calls, as somebody without this project would."""
    from transformers import AutoModelForCausalLM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, made.dtype)
    if form == "adapter":
        from peft import PeftModel

        base = load_base(made, kernel, ModelOptions(model=made.base), device)
        model: Any = PeftModel.from_pretrained(base, str(out))
    elif form == "gguf":
        file = next(out.glob("*.gguf"))
        model = AutoModelForCausalLM.from_pretrained(
            str(out), gguf_file=file.name, dtype=dtype, attn_implementation=kernel
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(str(out), dtype=dtype, attn_implementation=kernel)
    tokenizer = load_tokenizer(made if form == "gguf" else replace(made, home=out))
    model.to(device) if made.quantization is None or form != "adapter" else None
    model.eval()
    return Loaded(model, tokenizer, made, device)
