"""Every kind of stage. Their union is the only registry: a new kind is a file here and a name in `AnyKind`."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from pipelines.stages.contrast import Contrast
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.illume import Illume
from pipelines.stages.judge import Judge
from pipelines.stages.merge import Merge
from pipelines.stages.prefer import Prefer
from pipelines.stages.radio import Radio
from pipelines.stages.rationalise import Rationalise
from pipelines.stages.rerank import Rerank
from pipelines.stages.retrieve import Retrieve
from pipelines.stages.sample import Sample
from pipelines.stages.sft import Sft
from pipelines.stages.unlearn import Unlearn

AnyKind = (
    Sft
    | Sample
    | Judge
    | Illume
    | Prefer
    | Unlearn
    | Merge
    | Retrieve
    | Rationalise
    | Radio
    | Contrast
    | Rerank
    | Evaluate
)
AnyStage = Annotated[AnyKind, Field(discriminator="kind")]

KINDS: dict[str, type[AnyKind]] = {
    get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in get_args(AnyKind)
}
"""By the word that a recipe writes after `kind:`."""
