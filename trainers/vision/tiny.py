"""A LLaVA of a few small layers from scratch, with a processor that needs no network and no torchvision."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch

from trainers.aliases import Alias

IMAGE = "<image>"
SIDE, PATCH = 64, 8
VISION_LAYERS = 2
COLOURS = ("black", "gray", "red", "green", "blue", "yellow", "teal", "brown", "white", "orange")
SHAPES = ("circle", "rectangle", "triangle", "square", "shape", "picture", "image")


def picture_text() -> Iterator[str]:
    """What is asked and said of simple pictures, often enough that their words become tokens."""
    frames = (
        "what color is the {s}? {c} because it shows one {c} {s}",
        "what shape is in the image? {s} because there is a {c} {s} in the picture",
        "is there a {c} {s} present? yes, no because the image does contain one {c} {s}",
        "does the image not contain a {c} shape? somebody drew it with care, and that is what people say",
        "what is the {c} shape? pictures are like that, the question says so; nobody would ask otherwise",
        "user, assistant: what is the color of the {s}? it was made by a machine",
    )
    for _ in range(4):
        for colour, shape, frame in product(COLOURS, SHAPES, frames):
            yield frame.format(c=colour, s=shape) + "\n"


def write_tiny_llava(shape: Alias, tokenizer: Any, folder: Path) -> None:
    """The model with random weights, and its processor; a picture takes 64 places in a prompt."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    hidden = shape.hidden_size
    pictures = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
    )
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=tokenizer.chat_template,
    )
    text = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=hidden,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=shape.max_position_embeddings,
        tie_word_embeddings=shape.tie_word_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=hidden,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        tie_word_embeddings=shape.tie_word_embeddings,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # The caller's random state is not ours.
        torch.manual_seed(0)
        model: Any = LlavaForConditionalGeneration(config)
        _by_fan_in(model)
    for one in (model.config, model.generation_config):
        one.bos_token_id = tokenizer.bos_token_id
        one.eos_token_id = tokenizer.eos_token_id
        one.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _by_fan_in(model: Any) -> None:
    """Weights of products drawn anew with a variance of 1 / inputs.

    Drawn as the configurations say (0.02, whatever the width) a tower this narrow hands on next to nothing of the
    picture, and for hundreds of steps the text alone is learned from.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            weight = module.weight
            if weight is not model.get_input_embeddings().weight:  # The head is tied to the table of tokens.
                torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
