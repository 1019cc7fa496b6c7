"""Stop strings: where an answer's text ends because it has reached one, however its tokens cut that string up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

# Tokens that a window is decoded with beyond those that can hold the string: a character may begin three bytes
# before it, and some decoders strip the first space.
MARGIN = 4


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """An answer's text as it goes into rows."""
    return cast(
        str, tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


class StopStrings:
    """An answer ends with the first token after which its decoded text holds one of the strings.

    transformers' StopStringCriteria reads the vocabulary token by token, and so misses a string whose characters are
    split into bytes. This reads the text itself.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.strings = tuple(dict.fromkeys(strings))
        # A token that is not special adds a byte at least.
        self._window = max(len(one.encode()) for one in self.strings) + MARGIN
        self._silent = frozenset(tokenizer.all_special_ids)

    def cut(self, ids: Sequence[int]) -> str | None:
        """The text before the stop string, if the last token completed one."""
        # The window alone rules out nearly every token, at a cost that does not grow with the answer.
        if not self._holds(text_of(self.tokenizer, self._tail(ids))):
            return None
        text = text_of(self.tokenizer, ids)
        starts = [text.find(one) for one in self.strings if one in text]
        return text[: min(starts)] if starts else None

    def _holds(self, text: str) -> bool:
        return any(one in text for one in self.strings)

    def _tail(self, ids: Sequence[int]) -> Sequence[int]:
        room, start = self._window, len(ids)
        while start and (room > 0 or self._byte(ids[start])):
            start -= 1
            room -= ids[start] not in self._silent
        return ids[start:]

    def _byte(self, token: int) -> bool:
        """Whether this is a single byte by name, as in `<0xE2>`: a run of those is decoded as a whole or not at all."""
        name = str(self.tokenizer.convert_ids_to_tokens(token))
        return len(name) == 6 and name.startswith("<0x") and name.endswith(">")
