"""Damage done to files on purpose: bytes in, other bytes out, the same for the same random numbers; knows no reader."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63, 2**64 - 1)
_WORDS = (
    b"\0", b"\n", b"\r", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"=1+1", b'"', b"'", b"{", b"}", b"[", b"]", b"[[",
    b"NaN", b"Infinity", b"-1", b"1e999", b"null", b"true", b"9" * 5000, b"0x" + b"f" * 5000, b"[" * 3000,
    b'{"a":' * 3000, b"a." * 3000, b"..", b"../../../../etc/passwd", b"%s%n", b"\xed\xa0\x80", b"<script>",
    b"1979-05-27T07:32:00Z", b"A" * 70000,
)  # fmt: skip

#: What may stand in a JSON document where something else is expected.
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**63), 10**25, 0.5, 1e308, -1e-320, float("nan"), float("inf"),
    "", "x", "0", "NaN", "\x1b]0;owned\x07", "a\nb", "../..", "/dev/zero", "\0", "\udcff", "z" * 70000, "<b>&amp;",
    [], [[]], [None], [1, 2, 3], ["x"], {}, {"a": 1}, {"": {}}, [10**9, 10**9, 10**9], [-1, -1, -1], [0, 0, 0],
)  # fmt: skip


def flipped(data: bytes, rng: Random) -> bytes:
    """A few bits turned over."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def rewritten(data: bytes, rng: Random) -> bytes:
    """Some bytes replaced at random."""
    changed = bytearray(data or b"\0")
    start = rng.randrange(len(changed))
    for place in range(start, min(len(changed), start + rng.choice((1, 2, 4, 16, 200)))):
        changed[place] = rng.randrange(256)
    return bytes(changed)


def truncated(data: bytes, rng: Random) -> bytes:
    """Only its beginning."""
    return data[: rng.randrange(len(data) + 1)]


def without_a_part(data: bytes, rng: Random) -> bytes:
    """A piece cut out of it."""
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 4, 12, 100)) :]


def repeated(data: bytes, rng: Random) -> bytes:
    """A piece of it many times over."""
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 4, 12, 100, 1000))]
    return data[:start] + piece * rng.choice((2, 3, 20, 200)) + data[start:]


def with_extreme_number(data: bytes, rng: Random) -> bytes:
    """A number of one to eight bytes replaced by one at the end of its range, as sizes in a header."""
    form = rng.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    width = struct.calcsize(form)
    if len(data) < width:
        return data
    # Headers stand in front, where the sizes are.
    start = rng.randrange(min(len(data) - width + 1, rng.choice((16, 64, 400, 1 << 30))))
    number = struct.pack(form, rng.choice(_EXTREMES) & (256**width - 1))
    return data[:start] + number + data[start + width :]


def with_word(data: bytes, rng: Random) -> bytes:
    """Something put in that some format would take for its own."""
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.choice(_WORDS) + data[start + rng.choice((0, 0, 1, 5)) :]


BINARY: tuple[Mutation, ...] = (
    flipped, rewritten, truncated, without_a_part, repeated, with_extreme_number, with_extreme_number, with_word,
)  # fmt: skip


def damaged(data: bytes, rng: Random) -> bytes:
    """One to three of the above in turn."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(BINARY)(data, rng)
    return data


def with_other_number(data: bytes, rng: Random) -> bytes:
    """A number that is written out in a text replaced by an extreme one."""
    places = list(re.finditer(rb"\d+(\.\d+)?", data))
    if not places:
        return data
    place = rng.choice(places)
    number = rng.choice((b"-1", b"0", b"1e309", b"9" * 30, b"9" * 5000, b"0.1e-400", b"nan", b"1_0", b"0x7f", b"++1"))
    return data[: place.start()] + number + data[place.end() :]


def with_other_value(document: Any, rng: Random) -> Any:
    """A JSON document of which one value, picked from any depth, is another; at times a key is gone, too."""
    if isinstance(document, dict) and document and rng.random() < 0.85:
        key = rng.choice(list(document))
        if rng.random() < 0.07:
            return {name: value for name, value in document.items() if name != key}
        return document | {key: with_other_value(document[key], rng)}
    if isinstance(document, list) and document and rng.random() < 0.85:
        place = rng.randrange(len(document))
        if rng.random() < 0.07:
            return [*document[:place], *document[place + 1 :]]
        return [*document[:place], with_other_value(document[place], rng), *document[place + 1 :]]
    return rng.choice(_VALUES)


def json_damaged(data: bytes, rng: Random) -> bytes:
    """A JSON document that says something else, or is none any more."""
    choice = rng.random()
    if choice < 0.03:
        depth = rng.choice((100, 990, 20_000))
        return b'{"a":' * depth + b"1" + b"}" * depth if rng.random() < 0.5 else b"[" * depth + b"]" * depth
    if choice < 0.25:
        return damaged(data, rng)
    if choice < 0.35:
        return with_other_number(data, rng)
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        document = with_other_value(document, rng)
    return json.dumps(document).encode()


def text_damaged(data: bytes, rng: Random) -> bytes:
    """A text with a line or a number changed, or damaged as any bytes."""
    if rng.random() < 0.4:
        return damaged(data, rng)
    if rng.random() < 0.4:
        return with_other_number(data, rng)
    lines = data.splitlines(keepends=True) or [b""]
    place = rng.randrange(len(lines))
    lines[place] = rng.choice((damaged, with_word, repeated))(lines[place], rng)
    rng.shuffle(lines) if rng.random() < 0.2 else None
    return b"".join(lines)


def png_damaged(data: bytes, rng: Random) -> bytes:
    """A PNG whose chunks are changed and whose checksums are right again, so that what is in them is looked at."""
    changed = bytearray(damaged(data, rng))
    place = 8
    while place + 12 <= len(changed):
        (length,) = struct.unpack_from(">I", changed, place)
        if place + 12 + length > len(changed):
            break
        struct.pack_into(">I", changed, place + 8 + length, zlib.crc32(changed[place + 4 : place + 8 + length]))
        place += 12 + length
    return bytes(changed)


def gzip_damaged(data: bytes, rng: Random) -> bytes:
    """A gzip file whose contents are changed and packed again, or which is changed itself; at times a bomb."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    inside = damaged(gzip.decompress(data), rng)
    if rng.random() < 0.01:
        inside += bytes(64 << 20)
    return gzip.compress(inside, compresslevel=1, mtime=0)


def zip_damaged(data: bytes, rng: Random) -> bytes:
    """A zip file, as torch writes them, of which one member is changed; at times packed, renamed or left out."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in members if name.endswith(".pkl")]
    name = rng.choice([*members, *pickles * len(members)])
    members[name] = damaged(members[name], rng)
    if rng.random() < 0.1:
        members.pop(rng.choice(list(members)))
    if members and rng.random() < 0.1:
        other = rng.choice(list(members))
        members[rng.choice(("../../escaped", "/tmp/escaped", "archive/data.pkl", "x" * 300))] = members.pop(other)
    buffer = io.BytesIO()
    packed = zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def safetensors_damaged(data: bytes, rng: Random) -> bytes:
    """A safetensors file whose header says something else, with its length right again."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header = json_damaged(data[8 : 8 + length].rstrip(), rng)
    if rng.random() < 0.5:
        other = rng.choice(
            (b'"F64"', b'"F16"', b'"BF16"', b'"I64"', b'"U8"', b'"BOOL"', b'"F8_E4M3"', b'"F4"', b'"C64"')
        )
        header = re.sub(rb'"F32"', lambda found: other if rng.random() < 0.3 else found[0], header)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def spliced(one: bytes, other: bytes, rng: Random) -> bytes:
    """The beginning of one file and the end of another."""
    return one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other) + 1) :]


def cases(seeds: Sequence[bytes], mutation: Mutation, number: int, seed: int) -> bytes:
    """The case of that number: each can be made again without those before it."""
    rng = Random(seed * 1_000_003 + number)
    chosen = rng.choice(seeds)
    if len(seeds) > 1 and rng.random() < 0.05:
        return spliced(chosen, rng.choice(seeds), rng)
    return mutation(chosen, rng)
