"""One array of numbers as a record of a file, and the reader that finds every whole record in a damaged file.

A record is a header (mark, key, count, size of a number, CRC), the numbers (little-endian), and a CRC over both. The
CRCs are chained, so neither a header nor numbers of another record pass for this one's.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple
from zlib import crc32

import numpy as np

KEY_SIZE = 32
MARK = b"\x93TLP\r\n\x1a\x01"
"""Starts a record. What stands in it cannot come from text, nor survive a change of line ends."""
_FIELDS = struct.Struct(f"<8s{KEY_SIZE}sQI")
_CRC = struct.Struct("<I")
HEADER = _FIELDS.size + _CRC.size
"""A multiple of eight, so that the numbers behind it lie as numpy wants them."""
KINDS = {4: np.dtype("<f4"), 8: np.dtype("<f8")}
WINDOW = 1 << 23


class Entry(NamedTuple):
    """Where in its file the record of a key stands."""

    key: bytes
    start: int
    size: int


class Region(NamedTuple):
    """Bytes that belong to no whole record."""

    start: int
    end: int


def encode(key: bytes, values: np.ndarray) -> bytes:
    """The whole record of a one-dimensional float32 or float64 array."""
    if len(key) != KEY_SIZE:
        raise ValueError(f"a key has {KEY_SIZE} bytes, not {len(key)}")
    if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise TypeError(f"one dimension of float32 or float64, not {values.ndim} of {values.dtype}")
    head = _FIELDS.pack(MARK, key, len(values), values.itemsize)
    check = crc32(head)
    payload = values.astype(KINDS[values.itemsize], copy=False).tobytes()
    return b"".join((head, _CRC.pack(check), payload, _CRC.pack(crc32(payload, check))))


def decode(key: bytes, record: bytes) -> np.ndarray | None:
    """The numbers, not writeable; None where this is not the whole, unharmed record of that key."""
    found = _header(record, 0)
    if found is None or found[0] != key or len(record) != found[1] or not _sound(record, 0, found[1]):
        return None
    kind = KINDS[_FIELDS.unpack_from(record)[3]]
    return np.frombuffer(
        record, kind, count=(len(record) - HEADER - _CRC.size) // kind.itemsize, offset=HEADER
    )


def scan(file: int, start: int, end: int) -> tuple[list[Entry], list[Region]]:
    """Every whole record between two places of an open file, and what lies between and behind them."""
    window = _Window(file, end)
    entries: list[Entry] = []
    lost: list[Region] = []
    at = start
    while at < end:
        data, place = window.around(at, HEADER)
        found = _header(data, place)
        if found is not None and at + found[1] <= end:
            key, size = found
            data, place = window.around(at, size)
            if _sound(data, place, size):
                entries.append(Entry(key, at, size))
                at += size
                continue
        # Not behind the size that is told: where a file lost its middle, records follow before that.
        bad, at = at, window.find(MARK, at + 1)
        if lost and lost[-1].end == bad:
            bad = lost.pop().start
        lost.append(Region(bad, at))
    return entries, lost


def read_at(file: int, start: int, size: int) -> bytes:
    """So many bytes, fewer only at the end of the file; the file's own position does not matter."""
    data = os.pread(file, size, start)
    while len(data) < size and (more := os.pread(file, size - len(data), start + len(data))):
        data += more
    return data


def _header(data: bytes, at: int) -> tuple[bytes, int] | None:
    """Key and size of the record that starts there."""
    if len(data) - at < HEADER:
        return None
    mark, key, count, width = _FIELDS.unpack_from(data, at)
    if mark != MARK or width not in KINDS:
        return None
    if crc32(data[at : at + _FIELDS.size]) != _CRC.unpack_from(data, at + _FIELDS.size)[0]:
        return None
    return key, HEADER + count * width + _CRC.size


def _sound(data: bytes, at: int, size: int) -> bool:
    """Whether the numbers are those the header was written with."""
    end = at + size - _CRC.size
    if end + _CRC.size > len(data):
        return False
    check = _CRC.unpack_from(data, at + _FIELDS.size)[0]
    return crc32(memoryview(data)[at + HEADER : end], check) == _CRC.unpack_from(data, end)[0]


class _Window:
    """The part of a file that is looked at: read, not mapped, for a mapped file that shrinks ends the process."""

    def __init__(self, file: int, end: int) -> None:
        self.file = file
        self.end = end
        self.start = 0
        self.data = b""

    def around(self, at: int, size: int) -> tuple[bytes, int]:
        """Bytes that hold so many from there on (fewer at the end), and where in them `at` is."""
        if not self.start <= at or min(at + size, self.end) > self.start + len(self.data):
            self.start = at
            self.data = read_at(self.file, at, min(max(size, WINDOW), self.end - at))
        return self.data, at - self.start

    def find(self, what: bytes, at: int) -> int:
        """The next place of these bytes, or the end."""
        while at < self.end:
            data, place = self.around(at, len(what))
            found = data.find(what, place)
            if found >= 0:
                return self.start + found
            beyond = self.start + len(data) - len(what) + 1
            # The file may have become shorter than it was told to be.
            if beyond <= at:
                break
            at = beyond
        return self.end
