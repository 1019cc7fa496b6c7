"""The options of answering from retrieved documents, for `suite: rag`. Torch-free."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from trainers.config import COSMETIC, Closed


class PatternReader(Closed):
    """A fixed reader for texts of a known form: the first document that fits gives the answer."""

    question: Annotated[str, Field(min_length=1)]
    """A regular expression that the question must fit; its named groups may stand in `document` as `{name}`."""
    document: Annotated[str, Field(min_length=1)]
    """A regular expression with a group `answer`, searched for in the documents in their order."""

    @field_validator("question")
    @classmethod
    def _an_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as fault:
            raise ValueError(f"no regular expression: {fault}") from fault
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> PatternReader:
        names = re.compile(self.question).groupindex
        try:
            found = re.compile(self.filled(dict.fromkeys(names, "x")))
        except re.error as fault:
            raise ValueError(f"`document` is no regular expression: {fault}") from fault
        if "answer" not in found.groupindex:
            raise ValueError("`document` must have a group (?P<answer>...)")
        return self

    def filled(self, about: dict[str, str]) -> str:
        made = self.document
        for name, text in about.items():
            made = made.replace(f"{{{name}}}", re.escape(text))
        return made

    def answer(self, question: str, documents: tuple[str, ...]) -> str:
        """The answer of the first document that has one; empty where none has, or the question does not fit."""
        asked = re.search(self.question, question)
        if asked is None:
            return ""
        wanted = re.compile(self.filled(asked.groupdict()))
        found = (wanted.search(text) for text in documents)
        return next((hit["answer"] for hit in found if hit), "")


class RagOptions(Closed):
    """How questions are answered from documents."""

    reader_pattern: PatternReader | None = None
    """A fixed reader instead of a model, `{question, document}`: two regular expressions, for texts of a known form."""
    n_candidates: Annotated[int, Field(ge=1)] = 20
    """Documents of a pool that are put in order."""
    top_k: Annotated[int, Field(ge=1)] = 5
    """Documents that the reader sees."""
    pair_max_length: Annotated[int, Field(ge=2)] = 512
    """Longest question and document together, in tokens of the reranker; the longer of the two is cut first."""
    pair_tokens: Annotated[int | None, Field(ge=1, json_schema_extra=COSMETIC)] = None
    """Tokens of a batch of pairs, padding included. Left out: 1024 on CPU, 65536 on CUDA."""
    choose: tuple[str, ...] = ()
    """Labels of `rerankers` of which `validation_pools` choose one, by exact match; of equal ones the first. So lambda
    is chosen without a look at what it is judged on."""
    against: tuple[str, ...] = ("retriever",)
    """Labels of `rerankers` that the others are compared with; `retriever` is the order as retrieved."""
