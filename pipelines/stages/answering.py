"""Stages that a model or a server can answer: exactly one of them, and no setting that it would ignore."""

from __future__ import annotations

from typing import LiteralString

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from data.chatting.request import ServerOptions
from pipelines.stage import Stage
from trainers.config import ModelOptions

LOCAL = (*ModelOptions.model_fields, "batch_size", "generation_engine", "top_vocabulary")
"""What only a model that is loaded here can follow."""


def check_who_answers(stage: Stage, model: str | None, server: ServerOptions | None) -> None:
    if server is None:
        if model is None:
            raise fault(stage, "missing", "model", "missing")
        return
    if model is not None:
        raise fault(
            stage,
            "value_error",
            "server",
            "`model` is given too, and only one can answer: leave one out (a model from `defaults:` is undone "
            "by `model: null`)",
        )
    fields = type(stage).model_fields
    for key in LOCAL:
        if key in fields and getattr(stage, key) != fields[key].default:
            raise fault(
                stage,
                "value_error",
                key,
                "only a model that is loaded here can follow this, and a `server` answers: leave it out, or "
                "write the setting's own default where `defaults:` has another",
            )


def fault(stage: Stage, kind: LiteralString, key: str, message: LiteralString) -> ValidationError:
    """A fault that is told at a key: one of the whole stage would have no line in the recipe."""
    found = InitErrorDetails(type=PydanticCustomError(kind, message), loc=(key,), input=None)
    return ValidationError.from_exception_data(type(stage).__name__, [found])
