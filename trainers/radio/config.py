"""The options of retrieval, of RADIO's scores and of rerankers, under the names their libraries use. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from data.radio.options import GroupOptions, Normalise
from data.radio.rationales import Template
from trainers.config import COSMETIC, AdapterOptions, Closed, GenerationOptions, TrainingOptions

EncoderDtype = Literal["float32", "bfloat16", "float16"]


class EncoderOptions(Closed):
    """A text encoder, and what it wants to see in front of a text."""

    encoder: Annotated[str, Field(min_length=1)] = "minilm-l6"
    """An alias, a folder that sentence-transformers loads, or `owner/name` on the hub, such as `BAAI/bge-m3`."""
    encoder_revision: str | None = None
    """Branch, tag or commit of a hub encoder."""
    query_prompt: str = ""
    """Put in front of questions: `query: ` for E5; BGE v1.5 has an instruction of its own, BGE-M3 none."""
    document_prompt: str = ""
    """Put in front of passages: `passage: ` for E5."""
    query_max_length: Annotated[int, Field(ge=2)] = 128
    """Longest question in tokens; longer ones are cut and counted."""
    document_max_length: Annotated[int, Field(ge=2)] = 512
    """Longest passage in tokens; no longer than the encoder can read."""
    encoder_dtype: EncoderDtype = "float32"
    """Number type of the encoder's weights."""
    encode_tokens: Annotated[int | None, Field(ge=1, json_schema_extra=COSMETIC)] = None
    """Tokens of a batch, padding included. Left out: 1024 on CPU, 65536 on CUDA."""


class RetrieveOptions(EncoderOptions):
    """How candidates are found."""

    retriever: Literal["bm25", "dense"] = "dense"
    """`bm25`: words, through bm25s. `dense`: inner products of unit vectors."""
    n_documents: Annotated[int, Field(ge=1)] = 50
    """Documents for each question. RADIO takes 50 to build groups and 20 to answer."""
    index: Literal["exact", "faiss"] = "exact"
    """`exact`: blocked products over memory-mapped vectors. `faiss`: the index that `faiss_factory` describes."""
    faiss_factory: str = "Flat"
    """FAISS's own description of an index, such as `IVF4096,PQ64` or `HNSW32`. `Flat` searches the kept vectors and
    writes no index."""
    faiss_nprobe: Annotated[int, Field(ge=1)] = 16
    """Cells that an IVF index looks into."""
    bm25_k1: Annotated[float, Field(ge=0)] = 0.9
    """How fast a repeated word stops counting; the value that is usual for passages."""
    bm25_b: Annotated[float, Field(ge=0, le=1)] = 0.4
    """How much long passages are held back; the value that is usual for passages."""
    store_dtype: Literal["float32", "float16"] = "float32"
    """Number type of vectors on disk."""


class RationaleOptions(GenerationOptions):
    """How rationales are written; the defaults are those of RADIO's official code."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 1000
    """Longest rationale in tokens; one that is cut there is counted."""
    temperature: Annotated[float, Field(gt=0)] = 0.2
    """Below 1 sharper, above 1 wilder."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the smallest set of tokens that holds this probability."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw from this many most likely tokens; 0 is all."""


class ContrastOptions(GenerationOptions):
    """Which answers make a pair: an extension of ours, not part of RADIO."""

    against: Literal["hardest", "easiest", "each"] = "easiest"
    """Whose answer is rejected: that from the negative of highest rank, of lowest rank, or from each negative."""
    shown: Literal["aligned", "unaligned", "none"] = "aligned"
    """The documents in the pair's prompt: the positive, the negative, or none, so that a model learns to answer without
    any."""
    require_better: bool = False
    """Keep a pair only if the chosen answer has the higher F1 to the gold answers."""


class ScoreOptions(Closed):
    """How pairs are scored by a cross-encoder."""

    max_length: Annotated[int, Field(ge=2)] = 512
    """Longest pair in tokens; the longer text of a pair is cut first."""
    score_tokens: Annotated[int | None, Field(ge=1, json_schema_extra=COSMETIC)] = None
    """Tokens of a batch, padding included. Left out: 1024 on CPU, 65536 on CUDA."""
    score_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number type of the weights while scoring."""


class RerankerOptions(AdapterOptions, TrainingOptions):
    """Training of a cross-encoder on groups; the defaults are those of RADIO's official code."""

    tau: Annotated[float, Field(gt=0)] = 1.0
    """Temperature: scores are divided by it before the softmax over a group."""
    in_batch_negatives: bool = False
    """Take the positives of the other groups of a batch as negatives too. Not part of RADIO."""
    train_group_size: Annotated[int, Field(ge=2)] | None = None
    """Documents of a group, the positive included; of more negatives, as many are drawn. Left out: all."""
    forward_tokens: Annotated[int | None, Field(ge=1, json_schema_extra=COSMETIC)] = None
    """Tokens of one forward pass, padding included: pairs of like length go together. Left out: 2048 on CPU, all
    pairs of a batch at once on CUDA."""
    num_train_epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over the groups."""
    per_device_train_batch_size: Annotated[int, Field(ge=1)] = 16
    """Groups per step and device."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 4
    """Batches per optimiser step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 6e-5
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay."""
    max_length: Annotated[int, Field(ge=2)] | None = 512
    """Longest pair in tokens; the longer text of a pair is cut first. null: what the model can read."""


class RadioOptions(GroupOptions, EncoderOptions):
    """How a rationale orders the documents, and which of them make a group."""

    scorer: Literal["dense", "tfidf"] = "dense"
    """`dense`: the encoder. `tfidf`: words of the documents, which needs no model; for tests."""
    text_template: Template = "question_answers_rationale"
    """The text that documents are compared with; the two others are ablations."""
    normalise: Normalise = "minmax"
    """How both score lists are brought to one scale, for each question."""
    rationale_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """lambda: 0 is the retriever's order, 1 the rationale's."""
    sweep: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    """Other values of lambda whose figures are told; nothing is encoded for them."""
    n_documents: Annotated[int, Field(ge=2)] = 50
    """Documents of a pool that are looked at."""
    placebo: bool = False
    """Score every pool with the answers and the rationale of another question: the control that RADIO must beat. What
    such groups teach does not come from what rationales say."""
