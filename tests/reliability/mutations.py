"""Damage done to files on purpose: bytes in, other bytes out, the same for the same random numbers."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63, 2**64 - 1)
_WORDS = (
    *(b"\0", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b'"', b"{", b"]", b"[[", b"NaN", b"-1", b"1e999"),
    *(b"null", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"../../../../etc/passwd", b"\xed\xa0\x80", b"A" * 70000),
)
#: What may stand in a JSON document where something else is expected.
_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**31, 2**63, 10**25, 0.5, 1e308, float("nan"), float("inf"), "", "x", "0", "a\nb", "\0"),
    *("\udcff", "z" * 70000, "<b>", "\x1b]0;owned\x07", "/dev/zero", [], [[]], [None], [-1, -1, -1], {}, {"a": 1}),
)


def damaged(data: bytes, rng: Random) -> bytes:
    """A few bits turned, bytes replaced, a piece cut, repeated or put in, or a number driven to its limit."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(changed) or 1)
        length = rng.choice((1, 4, 12, 100))
        kind = rng.randrange(7)
        if kind == 0 and changed:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            del changed[place:]
        elif kind == 3:
            del changed[place : place + length]
        elif kind == 4:
            changed[place:place] = changed[place : place + length] * rng.choice((2, 20, 200))
        elif kind == 5:
            changed[place:place] = rng.choice(_WORDS)
        else:  # headers stand in front, where the sizes are
            form = rng.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
            start = rng.randrange(min(len(changed), rng.choice((16, 64, 400))) or 1)
            number = rng.choice(_EXTREMES) % 256 ** struct.calcsize(form)
            changed[start : start + struct.calcsize(form)] = struct.pack(form, number)
    return bytes(changed)


def picture_damaged(data: bytes, rng: Random) -> bytes:
    """An image file; most PNGs get right checksums again, so that what is in their chunks is looked at."""
    changed = bytearray(damaged(data, rng))
    place = 8
    while data.startswith(b"\x89PNG") and rng.random() < 0.95 and place + 12 <= len(changed):
        (length,) = struct.unpack_from(">I", changed, place)
        if place + 12 + length > len(changed):
            break
        struct.pack_into(">I", changed, place + 8 + length, zlib.crc32(changed[place + 4 : place + 8 + length]))
        place += 12 + length
    return bytes(changed)


def text_damaged(data: bytes, rng: Random) -> bytes:
    """A text with a number or a line changed, or damaged as any bytes."""
    numbers = list(re.finditer(rb"\d+(\.\d+)?", data))
    if numbers and rng.random() < 0.3:
        found = rng.choice(numbers)
        other = rng.choice((b"-1", b"0", b"1e309", b"9" * 30, b"9" * 5000, b"nan", b"1_0", b"0x7f", b"++1"))
        return data[: found.start()] + other + data[found.end() :]
    lines = data.splitlines(keepends=True) or [b""]
    place = rng.randrange(len(lines))
    lines[place] = damaged(lines[place], rng)
    return b"".join(lines)


def _with_other_value(document: Any, rng: Random) -> Any:
    if isinstance(document, dict) and document and rng.random() < 0.85:
        key = rng.choice(list(document))
        if rng.random() < 0.07:
            return {name: value for name, value in document.items() if name != key}
        return document | {key: _with_other_value(document[key], rng)}
    if isinstance(document, list) and document and rng.random() < 0.85:
        place = rng.randrange(len(document))
        return [*document[:place], _with_other_value(document[place], rng), *document[place + 1 :]]
    return rng.choice(_VALUES)


def json_damaged(data: bytes, rng: Random) -> bytes:
    """A JSON document with another value at any depth, too deep, or damaged as any text."""
    choice = rng.random()
    if choice < 0.05:
        return b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    if choice < 0.3:
        return text_damaged(data, rng)
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        document = _with_other_value(document, rng)
    return json.dumps(document).encode()


def safetensors_damaged(data: bytes, rng: Random) -> bytes:
    """A safetensors file whose header is another document, with its length right again."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header = json_damaged(data[8 : 8 + length].rstrip(), rng)
    if rng.random() < 0.5:
        other = rng.choice((b'"F64"', b'"F16"', b'"BF16"', b'"I64"', b'"U8"', b'"BOOL"', b'"F8_E4M3"', b'"C64"'))
        header = header.replace(b'"F32"', other, 1)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def header_document_damaged(data: bytes, rng: Random) -> bytes:
    """A safetensors file of latcli's: the document in its header is another one, and its digest is right again."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    from latcli.engine.models.weights import state_dict_sha256

    if rng.random() < 0.4:
        return safetensors_damaged(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    document = json.loads(data[8 : 8 + length])["__metadata__"]["latcli"].encode()
    tensors = load(data)
    name = rng.choice(list(tensors))
    value = tensors[name]
    others = [value, value, value.double(), value.half(), value.flatten(), value[:0], value.bool(), value * torch.nan]
    tensors[name] = rng.choice(others).clone()
    try:
        changed = json.loads(json_damaged(document, rng))
        if isinstance(changed, dict) and "digest" in changed:
            changed["digest"] = state_dict_sha256(tensors)
        return save(tensors, metadata={"latcli": json.dumps(changed)})
    except (ValueError, RecursionError, SafetensorError):  # the document is no JSON any more
        return safetensors_damaged(data, rng)
