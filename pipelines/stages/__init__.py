"""Every kind of stage. Their union is the only registry: a new kind is a file here and a name in `AnyStage`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipelines.stages.evaluate import Evaluate
from pipelines.stages.judge import Judge
from pipelines.stages.merge import Merge
from pipelines.stages.prefer import Prefer
from pipelines.stages.sample import Sample
from pipelines.stages.sft import Sft

AnyStage = Annotated[Sft | Sample | Judge | Prefer | Merge | Evaluate, Field(discriminator="kind")]

KINDS: dict[str, type[Sft | Sample | Judge | Prefer | Merge | Evaluate]] = {
    "sft": Sft,
    "sample": Sample,
    "judge": Judge,
    "prefer": Prefer,
    "merge": Merge,
    "evaluate": Evaluate,
}
