"""Load a policy: its base in the right numbers, the adapters below, and the one to train on top."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ModelError
from trainers import aliases, attention, policy
from trainers.config import AdapterOptions, ModelOptions
from trainers.policy import Policy
from trainers.quantization import in_words, quantization_asked
from trainers.training import ranks
from trainers.work import Work

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trainers.vision.eyes import Eyes

TRAINED = "default"
"""Name of the adapter being trained. TRL and PEFT both look for this one."""


@dataclass
class Loaded:
    """A model in memory, and which policy it is."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    policy: Policy
    device: torch.device
    eyes: Eyes | None = None
    """What it sees with; None: it reads text alone."""


def load_policy(
    start: str,
    options: ModelOptions | None,
    work: Work,
    *,
    train: AdapterOptions | None = None,
    exact: bool = False,
    seed: int = 0,
) -> Loaded:
    """The policy that `start` names. With `train`, ready to be trained as those options say; else for inference.

    `exact`: refuse every option that would make the loaded weights another policy than the one `start` names.
    """
    import torch
    from transformers import set_seed

    options = options or ModelOptions(model=start)
    in_full = train is not None and not train.use_peft
    found = policy.read(start, revision=options.model_revision)
    found = _resolve(found, options, work, exact=exact, in_full=in_full)
    device = (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
    if train is not None:
        _check_trainable(found, train, start)
    kernel, why = attention.resolve(options.attn_implementation, found.dtype)
    work.choose("attn_implementation", kernel, why)
    tokenizer = load_tokenizer(found, trust_remote_code=options.trust_remote_code)
    if ranks.sharded() and (found.quantization or {}).get("load_in_4bit"):
        work.choose("bnb_4bit_quant_storage", found.dtype, "FSDP spreads tensors of one number type")
    model: Any = load_base(found, kernel, options, device)
    if model.config.get_text_config().pad_token_id is None:
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    below = below_names(found)
    if below:
        model = attach(model, found)
    if train is not None and train.use_peft:
        set_seed(seed)  # the first values of the adapter depend on the seed alone, never on what ran before
        model = _add_trained(model, train)
    activate(model, below, trained=train is not None and train.use_peft)
    if train is None:
        model.requires_grad_(False)
        model.eval()
    model.to(device) if found.quantization is None else None
    return Loaded(model, tokenizer, found, device, open_eyes(found, options))


def below_names(found: Policy) -> list[str]:
    """What PEFT calls the policy's adapters, lowest first."""
    return [f"below{i}" for i in range(len(found.adapters))]


def activate(model: Any, below: list[str], *, trained: bool) -> None:
    """Make exactly the policy's adapters active, and the trained one the only one that learns."""
    names = [*below, TRAINED] if trained else below
    if not names:
        return
    model.base_model.set_adapter(names)
    if below:
        model.set_requires_grad(below, requires_grad=False)


def load_tokenizer(found: Policy, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The policy's tokenizer; padding falls back to EOS as TRL does, masked by length and never by id."""
    from transformers import AutoTokenizer

    where = _folder(found.tokenizer)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            where,
            revision=found.revision if found.home is None else None,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as broken:
        raise ModelError(
            f"no tokenizer: {_first_line(broken)}", where=where, way_out=_HUB_WAY_OUT
        ) from broken
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


_HUB_WAY_OUT = (
    "A hub model is `owner/name` and needs the network or a filled cache; "
    "a folder needs config.json, weights and tokenizer files. `heliograph fetch RECIPE` fills the cache."
)


def _resolve(found: Policy, options: ModelOptions, work: Work, *, exact: bool, in_full: bool) -> Policy:
    """Fill in what was left to `auto`, and refuse what would silently make another policy of it."""
    if options.load_in_4bit and options.load_in_8bit:
        raise ModelError("load_in_4bit and load_in_8bit are both set", way_out="Keep one of them.")
    asked = quantization_asked(options)
    bound = bool(found.adapters) or exact
    if found.home is not None and asked is not None and asked != (found.quantization or {}) and bound:
        raise ModelError(
            f"the policy was made on {in_words(found.quantization)}, and would start on {in_words(asked)}: "
            "another policy than that stage produced",
            where=str(found.home),
            way_out="Leave load_in_4bit and load_in_8bit out, set them on the earlier stage too, "
            "or put a `merge` stage between.",
        )
    chosen = found.quantization if asked is None else (asked or None)
    dtype, why = options.dtype, "asked for"
    if found.dtype != "auto":
        if options.dtype not in ("auto", found.dtype) and bound:
            raise ModelError(
                f"the policy was made in {found.dtype}, and would start in {options.dtype}: "
                "another policy than that stage produced",
                where=str(found.home),
                way_out=f"Leave dtype out, or write `dtype: {found.dtype}`.",
            )
        if options.dtype == "auto":
            dtype, why = found.dtype, "as the stage it starts from"
    if dtype == "auto":
        # Small steps vanish in the rounding of 16-bit weights; mixed precision trains float32 ones as fast.
        dtype, why = ("float32", "weights that are trained") if in_full else _best_dtype()
    work.choose("dtype", dtype, why)
    return replace(found, dtype=dtype, quantization=chosen)


def _best_dtype() -> tuple[str, str]:
    import torch

    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported():
            return "bfloat16", "the GPU has it"
        return "float16", "the GPU has no bfloat16"
    return "float32", "no GPU"


def _check_trainable(found: Policy, train: AdapterOptions, start: str) -> None:
    if train.use_peft:
        return
    if found.quantization:
        raise ModelError(
            f"{in_words(found.quantization)} cannot be trained in full",
            where=start,
            way_out="Write `use_peft: true`, or put a `merge` stage between.",
        )
    if found.adapters:
        raise ModelError(
            "full fine-tuning would start below the adapters, not from the policy they make",
            where=start,
            way_out="Put a `merge` stage between, or write `use_peft: true`.",
        )


def open_eyes(found: Policy, options: ModelOptions) -> Eyes | None:
    """The processor of a model that takes pictures; None for one that does not."""
    from trainers.vision.eyes import load_eyes, sees

    if not sees(_config(found, options)):
        return None
    return load_eyes(found, _folder(found.tokenizer), trust_remote_code=options.trust_remote_code)


def _config(found: Policy, options: ModelOptions) -> Any:
    from transformers import AutoConfig

    where = _folder(found.base)
    try:
        return AutoConfig.from_pretrained(
            where, revision=found.revision, trust_remote_code=options.trust_remote_code
        )
    except (OSError, ValueError) as broken:
        raise ModelError(
            f"cannot be loaded: {_first_line(broken)}", where=where, way_out=_HUB_WAY_OUT
        ) from broken


def load_base(found: Policy, kernel: str, options: ModelOptions, device: torch.device) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig

    from trainers.vision.eyes import sees

    kind = AutoModelForImageTextToText if sees(_config(found, options)) else AutoModelForCausalLM
    settings: dict[str, Any] = {}
    dtype = getattr(torch, found.dtype)
    if found.quantization:
        bnb = dict(found.quantization)
        if bnb.get("load_in_4bit"):
            bnb["bnb_4bit_compute_dtype"] = dtype
            # FSDP spreads tensors of one number type; how 4-bit weights are stored changes none of their values.
            stored = found.dtype if ranks.sharded() else str(bnb["bnb_4bit_quant_storage"])
            bnb["bnb_4bit_quant_storage"] = getattr(torch, stored)
        settings["quantization_config"] = BitsAndBytesConfig(**bnb)  # pyright: ignore[reportArgumentType]
        settings["device_map"] = {"": device}
    where = _folder(found.base)
    try:
        model = kind.from_pretrained(
            where,
            dtype=dtype,
            attn_implementation=kernel,
            revision=found.revision,
            trust_remote_code=options.trust_remote_code,
            **settings,
        )
    except (OSError, ValueError, ImportError) as broken:
        raise ModelError(
            f"cannot be loaded: {_first_line(broken)}", where=where, way_out=_HUB_WAY_OUT
        ) from broken
    if found.quantization and device.type == "cpu":
        _keep_trainable(model)
    return model


def _keep_trainable(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights at the first forward in eval mode on an AVX512-BF16 CPU.

    The repacked kernel has no backward: whoever trains after an evaluation gets no gradient below the layer, with
    no more than a warning. It also computes in bfloat16, so a reference measured by it is not the policy's.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def attach(model: Any, found: Policy) -> Any:
    """The policy's adapters on its base, all of them active and none of them learning."""
    from peft import PeftModel

    names = below_names(found)
    try:
        model = PeftModel.from_pretrained(model, str(found.adapters[0]), adapter_name=names[0])
        for name, folder in zip(names[1:], found.adapters[1:], strict=True):
            model.load_adapter(str(folder), adapter_name=name)
    except (OSError, ValueError, KeyError) as broken:
        raise ModelError(
            f"an adapter cannot be loaded: {_first_line(broken)}",
            where=", ".join(map(str, found.adapters)),
            way_out="Rebuild the stage that made it: `heliograph run RECIPE --from STAGE`.",
        ) from broken
    activate(model, names, trained=False)
    return model


def _add_trained(model: Any, train: AdapterOptions) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    targets = train.lora_target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=train.lora_r,
        lora_alpha=train.lora_alpha,  # pyright: ignore[reportArgumentType] PEFT takes floats
        lora_dropout=train.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=list(train.lora_modules_to_save) or None,
        use_rslora=train.use_rslora,
        use_dora=train.use_dora,
    )
    try:
        if isinstance(model, PeftModel):
            model.add_adapter(TRAINED, config)
            return model
        return get_peft_model(model, config, adapter_name=TRAINED)
    except ValueError as broken:
        raise ModelError(_first_line(broken), where="lora_target_modules") from broken


def save_policy(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    start: Policy,
    name: str,
    out: Path,
    *,
    state_dict: Mapping[str, Any] | None = None,
    eyes: Eyes | None = None,
) -> Policy:
    """Write the trained policy into `out`, whole or not at all: full weights, or all its adapters.

    `state_dict` are the weights where the model holds a part of them only; `eyes`, what it sees with.

    A lone adapter lies at the top, where PEFT and serving engines look for it. Several lie in `adapters/`, because
    a tool that loads only the last of them would run another policy.
    """
    from peft import PeftModel

    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    if isinstance(model, PeftModel):
        folders = [aside / "adapters" / f"{i}-{_stage_name(p)}" for i, p in enumerate(start.adapters)]
        for source, folder in zip(start.adapters, folders, strict=True):
            folder.mkdir(parents=True)
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                shutil.copyfile(source / file, folder / file)
        mine = aside / "adapters" / f"{len(folders)}-{name}" if folders else aside
        model.save_pretrained(str(mine), selected_adapters=[TRAINED], state_dict=state_dict)
        (mine / "README.md").unlink(missing_ok=True)  # PEFT's empty form of a model card
        saved = replace(start, adapters=(*folders, mine))
    else:
        model.save_pretrained(str(aside), state_dict=state_dict)
        saved = replace(start, base=str(aside.resolve()), revision=None, adapters=(), quantization=None)
    if eyes is not None:
        eyes.processor.save_pretrained(str(aside))
    tokenizer.save_pretrained(str(aside))
    policy.write(saved, aside)
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)
    return policy.read(str(out))


def _stage_name(adapter: Path) -> str:
    """`sft` for .../sft/model, which holds a lone adapter; `0-sft` in a stack keeps its name without the number."""
    return adapter.parent.name if adapter.name == "model" else adapter.name.split("-", 1)[-1]


def _folder(name: str) -> str:
    return str(aliases.resolve(name)) if aliases.is_alias(name) else name


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
