"""Every kind of stage. Their union is the only registry: a new kind is a file here and a name in `AnyStage`."""

from __future__ import annotations

from typing import Annotated

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

AnyStage = Annotated[
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
    | Evaluate,
    Field(discriminator="kind"),
]

KINDS: dict[
    str,
    type[
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
    ],
] = {
    "sft": Sft,
    "sample": Sample,
    "judge": Judge,
    "illume": Illume,
    "prefer": Prefer,
    "unlearn": Unlearn,
    "merge": Merge,
    "retrieve": Retrieve,
    "rationalise": Rationalise,
    "radio": Radio,
    "contrast": Contrast,
    "rerank": Rerank,
    "evaluate": Evaluate,
}
