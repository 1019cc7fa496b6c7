"""A cross-encoder of a few small layers over a closed list of words, from scratch: for the invented world and tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_tiny_reranker(
    folder: Path,
    words: Sequence[str],
    *,
    hidden_size: int = 64,
    num_hidden_layers: int = 2,
    num_attention_heads: int = 4,
    max_length: int = 64,
    dropout: float = 0.0,
    matching: bool = True,
    seed: int = 0,
) -> Path:
    """Write a BERT with one score into `folder`, as `CrossEncoder` loads it.

    `matching`: in the first layer a token looks for tokens like itself from the start, because query and key begin as
    the same rotation. That is the little lexical knowledge which any pre-trained reranker has.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate(dict.fromkeys((*SPECIAL, *words)))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    inner.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    inner.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        # 0.02 is meant for a width of 768: at 64 the signal would drown.
        initializer_range=0.1,
        pad_token_id=0,
    )
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(seed)
        model: Any = BertForSequenceClassification(config)
        if matching:
            first = model.bert.encoder.layer[0].attention.self
            rotation = torch.linalg.qr(torch.randn(hidden_size, hidden_size))[0]
            first.query.weight.copy_(rotation)
            first.key.weight.copy_(rotation)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder
