"""Answers through transformers' continuous batching: an answer that is over makes room for the next at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList

from data.errors import ModelError, TrainingError
from trainers.config import GenerationOptions, SamplingOptions
from trainers.sampling.decoding import obstacle_to_prefill
from trainers.sampling.drawing import Row, Rules
from trainers.work import Work

PAGE = 64
"""Tokens in a page of the cache. Prompts share whole pages only, so large ones share little."""
FORK = "__child#"
"""What transformers puts between the name of a request and the number of its fork."""
PATIENCE = 1.0
"""Seconds between two looks at whether the engine is still alive."""


def obstacle_to_continuous(model: Any, rules: Rules) -> str | None:
    """Why continuous batching could not do what is asked; None: it can.

    Of the settings in a model's file it has few and drops others without a word, so it gets none of them.
    """
    if not hasattr(model, "generate_batch"):
        return f"{type(model).__name__} has no continuous batching"
    kernel = str(model.config._attn_implementation)
    if kernel not in ("sdpa", "eager") and not kernel.startswith("flash_attention"):
        return f"it has no paged form of {kernel}"
    if rules.stop is not None:
        return "it has no stop strings"
    if rules.own:
        return f"it would leave out {', '.join(rules.own)} of generation_config.json"
    return obstacle_to_prefill(model)


def choose_engine(model: Any, rules: Rules, options: GenerationOptions, work: Work) -> str:
    """`prefill` or `continuous`; what was asked for and cannot be had is refused."""
    asked = options.generation_engine
    if asked == "prefill":
        return asked
    obstacle = obstacle_to_continuous(model, rules)
    if not rules.greedy and isinstance(options, SamplingOptions) and options.top_vocabulary < 1:
        obstacle = "it has no top_vocabulary"
    if asked == "continuous":
        if obstacle:
            raise ModelError(
                f"continuous batching cannot write these answers: {obstacle}",
                where="generation_engine",
                way_out="Write `generation_engine: prefill`, or leave it out.",
            )
        why = "asked for" if rules.greedy else "asked for; all answers are drawn from one stream"
        work.choose("generation_engine", "continuous", why)
        return "continuous"
    if model.device.type != "cuda":
        work.choose("generation_engine", "prefill", f"the model is on {model.device.type}")
        return "prefill"
    if not rules.greedy:
        obstacle = "continuous batching cannot give every answer its own random numbers"
    work.choose("generation_engine", "prefill" if obstacle else "continuous", obstacle or "greedy, on CUDA")
    return "prefill" if obstacle else "continuous"


def by_continuous(
    model: Any,
    rules: Rules,
    options: GenerationOptions,
    prompts: Mapping[str, Sequence[int]],
    samples: int,
    report: Callable[[Sequence[Row]], None],
) -> Generator[list[Row]]:
    """The rows of one prompt after another, as they are over. A prompt is read once; its samples are forks of it."""
    # Here, because only those who ask for this engine depend on where transformers keeps the name.
    from transformers.generation.continuous_batching.utils import WorkloadHints

    longest = max(len(ids) for ids in prompts.values())
    side_by_side = min(options.batch_size, len(prompts) * samples)
    pages = math.ceil((longest + rules.max_new_tokens) / PAGE) + 1
    config = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=pages * side_by_side,
        max_batch_tokens=max(2 * longest, side_by_side, 512),
        max_requests_per_batch=side_by_side,
        return_logprobs=rules.greedy or not rules.warpers,
        seed=rules.seed,
        auto_switch_to_flash=False,  # the kernel was chosen when the model was loaded, and told
        drop_unsupported_processors=False,
    )
    open_rows: dict[str, list[Row]] = {key: [] for key in prompts}
    names: dict[str, tuple[str, int]] = {}
    with model.continuous_batching_context_manager(
        generation_config=_generation_config(rules, options, samples),
        continuous_batching_config=config,
        warmup=model.device.type == "cuda",
        workload_hints=WorkloadHints(
            max_prompt_length=longest,
            max_generated_length=rules.max_new_tokens,
            num_requests=len(prompts) * samples,
        ),
    ) as manager:
        for number, (key, ids) in enumerate(prompts.items()):
            name = str(number)
            names |= {f"{name}{FORK}{child}": (key, child + 1) for child in range(samples - 1)}
            names[name] = key, 0
            manager.add_request(
                list(ids),
                request_id=name,
                max_new_tokens=rules.max_new_tokens,
                eos_token_id=list(rules.eos) or -1,
            )
        while names:
            result = manager.get_result(timeout=PATIENCE)
            if result is None:
                if not manager.is_running():
                    raise _failed(manager.background_thread_status.fatal_error, options)
                continue
            if result.error is not None:
                raise _failed(result.error, options)
            if not result.is_finished():
                continue
            key, index = names.pop(result.request_id)
            rows = open_rows[key]
            rows.append(_row(rules, key, index, prompts[key], result))
            report([row for part in open_rows.values() for row in part])
            if len(rows) == samples:
                yield sorted(open_rows.pop(key), key=lambda row: row.index)


def _generation_config(rules: Rules, options: GenerationOptions, samples: int) -> GenerationConfig:
    how: dict[str, Any] = {"do_sample": not rules.greedy, "num_return_sequences": samples}
    if not rules.greedy and isinstance(options, SamplingOptions):
        how |= {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k}
    return GenerationConfig(
        max_new_tokens=rules.max_new_tokens,
        eos_token_id=list(rules.eos) or -1,
        pad_token_id=rules.eos[0] if rules.eos else 0,
        **how,
    )


def _row(rules: Rules, key: str, index: int, prompt: Sequence[int], result: Any) -> Row:
    row = Row(key, index, prompt, None, LogitsProcessorList(), list(result.generated_tokens))
    # It reports the distribution it drew from; where that is not the model's own there is nothing to record.
    row.logprob = sum(result.logprobs) if rules.greedy or not rules.warpers else None
    if row.logprob is not None and not math.isfinite(row.logprob):
        raise TrainingError(
            f"the model's output is not a number (in the answer to prompt {key})",
            way_out="Look at the training that made it (loss, learning rate), or load it with dtype: float32.",
        )
    row.ended_by = "eos" if row.ids[-1] in rules.eos else "length"
    return row


def _failed(fault: object, options: GenerationOptions) -> TrainingError:
    return TrainingError(
        f"continuous batching stopped: {fault}",
        way_out=f"Set batch_size to {max(1, options.batch_size // 2)} if memory ran out, "
        "or write `generation_engine: prefill`.",
    )
