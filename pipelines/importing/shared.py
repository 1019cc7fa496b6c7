"""Keys that several projects share because they all hand them to transformers, and what none of them tells."""

from __future__ import annotations

from typing import Any, cast

from pipelines.importing.rules import Default, Drop, Hand, Put, Rule, by_hand, dropped

LAUNCHER = (
    "how a stage is spread over GPUs is the launcher's business: `resources: {gpus, nodes}` on the stage, "
    "`heliograph submit`, or accelerate's own file"
)
WEIGHTS_ELSEWHERE = "a stage starts from one policy: name the folder or stage that holds it as `model:`"
DROPOUT = "there, preference training switches all dropout off whatever this says; here a value above 0 would be used"
CUT = "rows are cut at their end here, prompt and answer together, and every cut is counted"
NO_SPLIT = (
    "no rows are split off at random here, and none that were trained on can be tested on: "
    "give held-out rows as `eval_{ours}:`"
)
EPOCHS = Default(
    "num_train_epochs", 3.0, "transformers' default is 3 epochs, ours 1", unless=("num_train_epochs",)
)


def floats(value: Any) -> Any:
    """YAML 1.1 reads 2e-4 as text, and these projects turn it back."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def whole_steps(value: Any) -> Any:
    number = floats(value)
    if isinstance(number, (int, float)) and not isinstance(number, bool) and number < 1:
        return Drop("a share of all steps; ours counts steps. It costs nothing but time")
    return int(number) if isinstance(number, float) and number.is_integer() else number


def trackers(value: Any) -> Any:
    names = cast("list[Any]", value if isinstance(value, list) else [value])
    if names == ["none"] or names == ["None"]:
        return Drop("none is the default here")
    if "all" in names:
        return Drop("`all` installed trackers: write the ones you want as a list")
    return names


def warmup_ratio(value: Any) -> Any:
    share = floats(value)
    if share == 0:
        return Drop("0 is the default")
    return share


def target_modules(value: Any) -> Any:
    """A list, a comma-separated text, or one word for all linear layers."""
    if value in ("all", "all-linear", ["all-linear"], ["all"]):
        return "all-linear"
    if isinstance(value, str) and "," in value:
        return [name.strip() for name in value.split(",")]
    return [value] if isinstance(value, str) else value


def names(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def true_is(**values: Any) -> Any:
    """A switch whose `true` is a value of another key; false is nothing."""

    def read(value: Any) -> Any:
        return Put(values) if value is True else Drop("off, as without it")

    return read


def only_true(why: str) -> Any:
    """A switch that has no counterpart when it is on."""

    def read(value: Any) -> Any:
        return Hand(why) if value else Drop("off, as without it")

    return read


def from_smoothing(loss: Any) -> str:
    return "cdpo" if loss in ("sigmoid", None) else str(loss)


COMMON: dict[str, Rule] = {
    **dropped(
        LAUNCHER,
        "deepspeed", "fsdp", "fsdp_config", "fsdp_transformer_layer_cls_to_wrap", "fsdp_min_num_params",
        "accelerator_config", "parallelism_config", "ddp_backend", "ddp_bucket_cap_mb",
        "ddp_find_unused_parameters", "ddp_broadcast_buffers", "ddp_timeout",
    ),
    **dropped("a stage logs every `logging_steps` steps: nothing else is to be set", "logging_strategy",
              "logging_first_step"),
    **dropped("a stage has one trackers' run, named after its folder", "run_name", "project", "trackio_space_id"),
    **by_hand("the last policy is the stage's: to stop earlier, write fewer steps", "early_stopping_patience",
              "metric_for_best_model", "greater_is_better"),
    "save_steps": Rule("save_steps", read=whole_steps),
    "logging_steps": Rule("logging_steps", read=whole_steps),
    "learning_rate": Rule("learning_rate", read=floats),
    "weight_decay": Rule("weight_decay", read=floats),
    "max_grad_norm": Rule("max_grad_norm", read=floats),
    "beta": Rule("beta", read=floats),
    "report_to": Rule("report_to", read=trackers),
    "warmup_ratio": Rule("warmup_steps", "below 1, `warmup_steps` is a share of all steps", warmup_ratio),
    "use_flash_attention_2": Rule("attn_implementation", read=true_is(attn_implementation="flash_attention_2")),
}  # fmt: skip
"""What transformers' TrainingArguments bring into every file."""
