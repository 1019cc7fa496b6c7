"""What a model sees with: its processor, which makes of a picture a run of places in the prompt, and tensors.

The places are written into the prompt as text, one image token for each, before anything is tokenised: masks, lengths
and cuts then need no second rule. The tensors join where a batch is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from data.errors import DataError, ModelError
from trainers.policy import Policy

KEPT = 512 * 2**20
"""Bytes of pictures' tensors that stay in memory: ten thousand of 64 pixels, some hundred of a model in use."""
TEXT_SIDE = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What a processor returns that belongs to the text."""


class Pictured(list[int]):
    """A prompt's tokens, and the picture that stands in them."""

    def __init__(self, ids: Iterable[int], picture: Path, eyes: Eyes) -> None:
        super().__init__(ids)
        self.picture = picture
        self.eyes = eyes


class Eyes:
    """A model's processor, asked for one picture at a time."""

    def __init__(self, processor: Any, where: str) -> None:
        token = getattr(processor, "image_token", None)
        if not isinstance(token, str):
            raise ModelError(
                f"{type(processor).__name__} names no image token",
                where=where,
                way_out="Take a model whose processor has one, such as LLaVA.",
            )
        self.processor = processor
        self.token = token
        self._seen: dict[Path, tuple[str, dict[str, Any]]] = {}
        self._held = 0

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def tensors(self, picture: Path) -> dict[str, Any]:
        """What the model takes beside the tokens, of one picture."""
        return self._see(picture)[1]

    def block(self, picture: Path) -> str:
        """The run of tokens, as text, that stands for the picture."""
        return self._see(picture)[0]

    def _see(self, picture: Path) -> tuple[str, dict[str, Any]]:
        found = self._seen.pop(picture, None)
        if found is None:
            found = self._read(picture)
            self._held += _size(found)
        self._seen[picture] = found  # the last one asked for is the last to go
        while self._held > KEPT and len(self._seen) > 1:
            self._held -= _size(self._seen.pop(next(iter(self._seen))))
        return found

    def _read(self, picture: Path) -> tuple[str, dict[str, Any]]:
        from PIL import Image

        try:
            with Image.open(picture) as opened:
                image = opened.convert("RGB")
        except OSError as fault:
            raise DataError(
                f"no picture that can be read: {fault}",
                where=str(picture),
                way_out="PNG, JPEG, GIF or WebP; see that the file is whole",
            ) from fault
        made = self.processor(text=self.token, images=image, return_tensors="pt")
        ids: list[int] = made["input_ids"][0].tolist()
        if ids and ids[0] == self.tokenizer.bos_token_id:
            ids = ids[1:]
        tensors = {name: value for name, value in made.items() if name not in TEXT_SIDE}
        return str(self.tokenizer.decode(ids)), tensors

    def show(self, prompt: Any, picture: Path) -> Any:
        """The prompt with the picture before its text; in a conversation, before the first user's."""
        block = f"{self.block(picture)}\n"
        if isinstance(prompt, str):
            return block + prompt
        place = next((i for i, turn in enumerate(prompt) if turn["role"] == "user"), 0)
        turns = [
            {**turn, "content": block + _said(turn)} if i == place else {**turn, "content": _said(turn)}
            for i, turn in enumerate(prompt)
        ]
        return self.spoken(turns)

    def spoken(self, said: Any) -> Any:
        """Text as it is; messages in the form that the model's template reads."""
        if isinstance(said, str) or not self._in_parts:
            return said
        return [{**turn, "content": [{"type": "text", "text": _said(turn)}]} for turn in said]

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template reads lists of parts alone, and would leave plain text out without a word."""
        probe = [{"role": "user", "content": "probe"}]
        return "probe" not in str(self.tokenizer.apply_chat_template(probe, tokenize=False))


def _size(seen: tuple[str, dict[str, Any]]) -> int:
    return sum(one.nbytes for one in seen[1].values())


def _said(turn: Mapping[str, Any]) -> str:
    content: Any = turn["content"]
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content)


def sees(config: Any) -> bool:
    """Whether a config is that of a model which takes pictures and writes text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    known = {name for names in NAMES.values() for name in ((names,) if isinstance(names, str) else names)}
    return any(name in known for name in config.architectures or ())


def load_eyes(found: Policy, folder: str, *, trust_remote_code: bool = False) -> Eyes:
    """The processor beside the policy's tokenizer."""
    from transformers import AutoProcessor

    revision = found.revision if found.home is None else None
    try:
        processor = AutoProcessor.from_pretrained(
            folder, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError) as broken:
        said = str(broken).strip().splitlines()
        raise ModelError(
            f"no processor: {said[0] if said else type(broken).__name__}",
            where=folder,
            way_out="A model that sees needs its processor's files; some of them need torchvision.",
        ) from broken
    return Eyes(processor, folder)


def batch_tensors(eyes: Eyes | None, pictures: Sequence[Path]) -> dict[str, Any]:
    """The tensors of these pictures, one after another, as the model takes them."""
    import torch

    if eyes is None or not pictures:
        return {}
    each = [eyes.tensors(picture) for picture in pictures]
    return {name: torch.cat([one[name] for one in each]) for name in each[0]}
