"""Every kind of stage. Their union is the only registry: a new kind is a file here and a name in `AnyStage`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipelines.stages.evaluate import Evaluate
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
    Sft | Sample | Judge | Prefer | Unlearn | Merge | Retrieve | Rationalise | Radio | Rerank | Evaluate,
    Field(discriminator="kind"),
]

KINDS: dict[
    str,
    type[
        Sft | Sample | Judge | Prefer | Unlearn | Merge | Retrieve | Rationalise | Radio | Rerank | Evaluate
    ],
] = {
    "sft": Sft,
    "sample": Sample,
    "judge": Judge,
    "prefer": Prefer,
    "unlearn": Unlearn,
    "merge": Merge,
    "retrieve": Retrieve,
    "rationalise": Rationalise,
    "radio": Radio,
    "rerank": Rerank,
    "evaluate": Evaluate,
}
