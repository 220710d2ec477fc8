"""Damage to files and to command lines, by a seeded generator: the same seed does the same damage everywhere."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Sequence

_SIZES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_NUMBERS = (
    b"0",
    b"-1",
    b"99999999999999999999",
    b"1e999",
    b"NaN",
    b"1099511627776",
    b"0.0000001",
    b"null",
    b"[]",
    b'"x"',
)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """``data`` after one to three kinds of damage."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_KINDS)(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    """Anywhere, the beginning more often: that is where headers are."""
    return rng.randrange(min(len(data), rng.choice((64, 512, len(data))))) if data else 0


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((0, 1, _place(data, rng), rng.randrange(len(data) + 1)))]


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    at, length = _place(data, rng), rng.choice((1, 2, 4, 8, 64))
    new = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return data[:at] + new + data[at + length :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 100))) + data[at:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 8, 100)) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    at, length = _place(data, rng), rng.choice((1, 8, 100, 512))
    return data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at + length :]


def _resize(data: bytes, rng: random.Random) -> bytes:
    """A binary number becomes one at the edge of its type."""
    at, code = _place(data, rng), rng.choice("BHIQ")
    new = struct.pack(rng.choice("<>") + code, rng.choice(_SIZES) % 2 ** (8 * struct.calcsize(code)))
    return data[:at] + new + data[at + len(new) :]


def _renumber(data: bytes, rng: random.Random) -> bytes:
    """A number in text becomes another, or another kind of value."""
    found = list(re.finditer(rb"-?[0-9][0-9.]*", data[:20_000]))
    if not found:
        return _flip(data, rng)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(_NUMBERS) + data[match.end() :]


_KINDS = (_cut, _flip, _flip, _overwrite, _insert, _remove, _repeat, _resize, _renumber)


def arguments(flags: Sequence[str], values: Sequence[str], rng: random.Random) -> list[str]:
    """A command line: flags with values that fit and values that do not, misspelt, repeated, left out or cut short."""
    words: list[str] = []
    for _ in range(rng.randrange(1, 7)):
        flag = rng.choice(flags)
        if rng.random() < 0.1:
            flag = damaged(flag.encode(), rng).decode(errors="replace").replace("\0", "")
        if rng.random() < 0.3:
            flag = "--" + flag.removeprefix("--").replace("-", "_")
        words += [f"{flag}={rng.choice(values)}"] if rng.random() < 0.2 else [flag, rng.choice(values)]
        if rng.random() < 0.15:
            words.pop(rng.randrange(len(words)))
    return words
