"""Tokens of a row without transformers: the model's own tokenizer file where it is at hand, else a guess from words.

Both answer as `data.encoding.Tokenizer` asks, so that a plan counts drops and cuts with the code that makes them.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

OPEN, CLOSE = "\ue000", "\ue001"
"""Private characters around what a template marks as the assistant's, until the places are known."""
WORD = re.compile(r" ?[^\W\d_]+| ?\d| ?[^\w\s]+|\s+|_")
LETTERS = 5
"""Letters of a guessed token: English words of up to five are one, longer ones several."""
PLAIN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Counted:
    """Texts to ids by `_pieces`, and conversations through a chat template."""

    eos_token: str = "<|im_end|>"
    eos_token_id: int = 2
    chat_template: str | None = PLAIN_TEMPLATE

    def __init__(self) -> None:
        self._compiled: dict[str, Any] = {}

    def _pieces(self, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and the characters that each of them stands for."""
        raise NotImplementedError

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": self._pieces(text, special=True)[0]}

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = True,
        return_dict: bool = True,
        **more: Any,
    ) -> dict[str, list[int]]:
        source = chat_template or self.chat_template or PLAIN_TEMPLATE
        template = self._compiled.get(source)
        if template is None:
            template = self._compiled[source] = _compile(source)
        rendered: str = template.render(
            messages=list(conversation),
            add_generation_prompt=add_generation_prompt,
            eos_token=self.eos_token,
            bos_token=getattr(self, "bos_token", ""),
            **more,
        )
        text, marked = _unmarked(rendered)
        ids, places = self._pieces(text, special=False)
        found = {"input_ids": ids}
        if return_assistant_tokens_mask:
            found["assistant_masks"] = [int(any(a <= start < b for a, b in marked)) for start, _ in places]
        return found


class Own(Counted):
    """The model's own tokenizer, from the files in its folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from tokenizers import Tokenizer

        self.inner: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        said = _read(folder / "tokenizer_config.json")
        self.eos_token = _token(said.get("eos_token")) or ""
        self.bos_token = _token(said.get("bos_token")) or ""
        self.eos_token_id = self.inner.token_to_id(self.eos_token) if self.eos_token else -1
        template: object = said.get("chat_template")
        file = folder / "chat_template.jinja"
        if file.is_file():
            template = file.read_text(encoding="utf-8")
        self.chat_template = template if isinstance(template, str) else None

    def _pieces(self, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        found = self.inner.encode(text, add_special_tokens=special)
        return found.ids, found.offsets


class Guessed(Counted):
    """A token for every short word, digit or run of signs, and one for every five letters of a longer word."""

    def _pieces(self, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for word in WORD.finditer(text):
            for start in range(word.start(), word.end(), LETTERS + 1):
                end = min(start + LETTERS + 1, word.end())
                ids.append(zlib.crc32(text[start:end].encode("utf-8", "replace")) >> 8)
                places.append((start, end))
        return ids, places


def tokenizer_of(folder: Path | None) -> Counted:
    """The best there is."""
    if folder is not None and (folder / "tokenizer.json").is_file():
        return Own(folder)
    return Guessed()


def _read(file: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _token(value: object) -> str | None:
    """A special token is a text, or a mapping that holds it."""
    if isinstance(value, Mapping):
        value = cast("Mapping[str, object]", value).get("content")
    return value if isinstance(value, str) else None


def _compile(source: str) -> Any:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: what the assistant said."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own form

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

        def mark(self, caller: Any) -> str:
            return f"{OPEN}{caller()}{CLOSE}"

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: object, **_: object) -> str:
        return json.dumps(value, ensure_ascii=False)

    environment: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    return environment.from_string(source)


def _unmarked(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without the marks, and the stretches that lay between them."""
    if OPEN not in text:
        return text, []
    plain, marked, start = "", list[tuple[int, int]](), 0
    for part in re.split(f"([{OPEN}{CLOSE}])", text):
        if part == OPEN:
            start = len(plain)
        elif part == CLOSE:
            marked.append((start, len(plain)))
        else:
            plain += part
    return plain, marked
