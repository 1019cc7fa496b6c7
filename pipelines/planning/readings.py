"""What a training stage reads, as a plan can know it: its files, or the most that earlier stages can make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.chat import TokeniseOptions
from data.sources import Mixture
from pipelines.planning.layouts import Row
from pipelines.planning.rows import Asked, Lengths, lengths
from pipelines.planning.tokens import Counted
from pipelines.stage import Stage, with_stages
from trainers.config import JUDGED, PreferOptions, SftOptions, UnlearnOptions

Known = dict[tuple[object, ...], Lengths]


class Reader:
    """Rows of the recipe's stages; files that several of them read are read once."""

    def __init__(self, base: Path, stages: Mapping[str, Stage], finished: Mapping[str, Path]) -> None:
        self.base, self.stages, self.finished = base, stages, finished
        self.known: Known = {}

    def train(self, stage: Stage, tokenizer: Counted) -> Lengths:
        """The rows that the stage's loop goes over."""
        mixture = _mixture(stage)
        found = self._read(mixture, _asked(stage), tokenizer)
        options: Any = stage
        packing = isinstance(stage, SftOptions) and options.packing and options.max_length
        return _packed(found, int(options.max_length)) if packing and found.rows else found

    def retain(self, stage: Stage, tokenizer: Counted) -> Lengths | None:
        """Of an unlearn stage: the rows that stand beside those to forget."""
        mixture: Mixture | None = getattr(stage, "retain", None)
        return None if mixture is None else self._read(mixture, _asked(stage), tokenizer)

    def templates(self, stage: Stage, tokenizer: Counted) -> int:
        """Tokens of the longest template; 0 where there are none."""
        mixture: Mixture | None = getattr(stage, "templates", None)
        if mixture is None:
            return 0
        found = self._read(mixture, Asked(("text", "prompt_completion"), TokeniseOptions()), tokenizer)
        return max((max(row.answers) for row in found.rows), default=0)

    def _read(self, mixture: Mixture, asked: Asked, tokenizer: Counted) -> Lengths:
        key = (mixture.model_dump_json(), asked.options.model_dump_json(), asked.among, asked.judged,
               asked.mismatched, asked.grouped, asked.answers_only, id(tokenizer))  # fmt: skip
        if key not in self.known:
            waiting = [
                s.path for s in mixture.sources if s.path in self.stages and s.path not in self.finished
            ]
            if waiting:
                self.known[key] = self._at_most(self.stages[waiting[0]], asked, tokenizer)
            else:
                self.known[key] = lengths(with_stages(mixture, self.finished), self.base, asked, tokenizer)
        return self.known[key]

    def _at_most(self, maker: Stage, asked: Asked, tokenizer: Counted) -> Lengths:
        """The rows that a stage will make, where what it reads tells how many and how long they can be."""
        judge: Any = maker
        sample = self.stages.get(str(getattr(maker, "candidates", "")))
        told = Lengths(problem=f"the stage {maker.name} makes them, and has not run", upper=True)
        if sample is None or not isinstance(prompts := getattr(sample, "prompts", None), Mixture):
            return told
        found = self._read(prompts, Asked(("prompt",), TokeniseOptions()), tokenizer)
        if found.problem or not found.rows:
            return told
        drawn: int = getattr(sample, "num_return_sequences", 1)
        pairs = 1
        if getattr(judge, "pairing", "best_worst") == "all":
            pairs = min(judge.max_pairs_per_prompt, drawn * (drawn - 1) // 2)
        most = getattr(sample, "max_new_tokens", 0) + 1  # and the end of the turn
        rows: list[Row] = []
        for prompt, _ in found.rows:
            room = most if asked.options.max_length is None else min(most, asked.options.max_length - prompt)
            if room > 0:
                rows.append(Row(prompt, (room, room)))
        weights = tuple(found.weights[0] * pairs for _ in rows)
        how = f"{found.counted_with}; at most what {sample.name} and {maker.name} can make"
        return replace(found, rows=tuple(rows), weights=weights, counted_with=how, upper=True)


def _mixture(stage: Stage) -> Mixture:
    name = {"sft": "data", "prefer": "pairs", "unlearn": "forget"}[str(getattr(stage, "kind", ""))]
    return getattr(stage, name)


def _asked(stage: Stage) -> Asked:
    if isinstance(stage, SftOptions):
        options = TokeniseOptions(
            max_length=stage.max_length,
            completion_only_loss=stage.completion_only_loss,
            assistant_only_loss=stage.assistant_only_loss,
        )
        return Asked(("unpaired", "prompt_completion", "messages", "text"), options)
    if isinstance(stage, PreferOptions):
        names = {stage.loss_type} if isinstance(stage.loss_type, str) else set(stage.loss_type)
        judged = stage.loss is None and names <= JUDGED
        return Asked(
            ("unpaired", "preference") if judged else ("preference",),
            TokeniseOptions(max_length=stage.max_length),
            judged=judged,
            mismatched=stage.per_device_train_batch_size if judged and "kto" in names else 0,
            grouped=stage.group_by_prompt,
        )
    length = stage.max_length if isinstance(stage, UnlearnOptions) else None
    return Asked(("prompt_completion",), TokeniseOptions(max_length=length), answers_only=True)


def _packed(found: Lengths, width: int) -> Lengths:
    """Rows filled up to one length."""
    count = max(1.0, -(-found.tokens // width))
    return replace(found, rows=(Row(0, (width,)),), weights=(count,))
