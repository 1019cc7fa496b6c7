"""Where one character of a YAML value stands in the file, through quotes, escapes, folds and indentation."""

from __future__ import annotations

import re

from pipelines.reading.yaml_nodes import Mark, Scalar, after

# What stands for one character of the value: in double quotes an escape, in single quotes a doubled quote.
_UNITS = {
    '"': re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|\r?\n|.)|.", re.DOTALL),
    "'": re.compile(r"\'\'|.", re.DOTALL),
}
# An anchor and a tag stand before the value, and belong to its node.
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)+")
_EACH = re.compile(".", re.DOTALL)
# Escapes whose character is white space, or none.
_BLANK = re.compile(
    r"\\(?:[ \tntrvfNLP_]|\r?\n|x(?:09|0[a-dA-D]|20|85|[aA]0)|u00(?:09|0[a-dA-D]|20|85|[aA]0))|\s"
)


def inside(text: str, scalar: Scalar, index: int) -> Mark:
    """The place of `scalar.text[index]`, or of what follows it where the index is its length.

    White space is folded, stripped and written in many ways; all other characters of the value stand in the file in
    their order, so that counting them finds the place.
    """
    start, end = _offset(text, scalar.mark), _offset(text, scalar.end)
    if properties := _PROPERTIES.match(text, start, end):
        start = properties.end()
    if scalar.style in ("|", ">"):
        start = text.find("\n", start, end) + 1 or end
    elif scalar.style:
        start, end = start + 1, end - 1
    ends = not scalar.text[index:].strip()
    wanted = sum(not c.isspace() for c in scalar.text[:index]) - ends  # at the end: after the last one
    for unit in _UNITS.get(scalar.style, _EACH).finditer(text, start, end):
        if _BLANK.fullmatch(unit.group()):
            continue
        if wanted == 0:
            return after(text[: unit.end() if ends else unit.start()])
        wanted -= 1
    return scalar.mark


def _offset(text: str, mark: Mark) -> int:
    lines = text.split("\n", mark.line - 1)
    return len(text) - len(lines[-1]) + mark.column - 1
