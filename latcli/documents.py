"""JSON from outside, checked against a shape; must not know where it came from.

A file of a store, a header or a column of a database may hold anything, whoever wrote it. A shape is a type as it is
written in an annotation: `str`, `float | None`, `list[str]`, `dict[str, Any]`, `Literal`, a TypedDict (further keys are
let through) or a dataclass (its fields and no others). Like errors.py it may be imported by all.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

#: Integers beyond are no count, index or seed of ours, and neither SQLite nor a float can hold them.
_LARGEST = 2**63 - 1
#: Nothing of ours is nested nearly so deep; the interpreter's own limit may be any number.
_DEEPEST = 64
_SHOWN = 40


class DocumentError(ValueError):
    """What was read is no JSON, or says something of another shape; its text is one line."""


def read_json(data: bytes | str, shape: Any = Any) -> Any:
    """The document, which has the shape. Raises DocumentError."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DocumentError(f"it is no JSON: {reason}") from error
    require_shape(document, shape)
    return document


def require_shape(value: Any, shape: Any, name: str = "") -> None:
    """Raise DocumentError unless the value has the shape; `name` is what the error calls it."""
    _check(value, shape, name, 0)


def _check(value: Any, shape: Any, name: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise DocumentError(f"{_named(name)} is nested too deeply")
    if shape is Any:
        _check_anything(value, name, depth)
        return
    origin = get_origin(shape)
    if origin in (Union, types.UnionType):
        _check_one_of(value, get_args(shape), name, depth)
    elif origin is Literal:
        if not any(type(value) is type(known) and value == known for known in get_args(shape)):
            raise _other(value, f"one of {', '.join(map(repr, get_args(shape)))}", name)
    elif is_typeddict(shape):
        _check_fields(value, _hints(shape), shape.__required_keys__, name, depth)
    elif dataclasses.is_dataclass(shape):
        hints = _hints(shape if isinstance(shape, type) else type(shape))
        required = {one.name for one in dataclasses.fields(shape) if one.default is dataclasses.MISSING}
        _check_fields(value, hints, required, name, depth)
        if unknown := sorted(value.keys() - hints.keys()):
            raise DocumentError(f"{_named(name)} has an unknown {_short(unknown[0])}")
    elif origin in (list, tuple, Sequence):
        _check_items(value, get_args(shape), name, depth, fixed=origin is tuple)
    elif origin in (dict, Mapping):
        _check_mapping(value, get_args(shape)[1], name, depth)
    else:
        _check_plain(value, shape, name)


def _check_anything(value: Any, name: str, depth: int) -> None:
    if isinstance(value, dict):
        _check_mapping(value, Any, name, depth)
    elif isinstance(value, list):
        _check_items(value, (Any,), name, depth, fixed=False)
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise _other(value, "a smaller number", name)


def _check_one_of(value: Any, shapes: Sequence[Any], name: str, depth: int) -> None:
    errors = []
    for shape in shapes:
        try:
            return _check(value, shape, name, depth)
        except DocumentError as error:
            errors.append(error)
    raise errors[0]


def _check_fields(value: Any, hints: Mapping[str, Any], required: Iterable[str], name: str, depth: int) -> None:
    if not isinstance(value, dict):
        raise _other(value, "a mapping", name)
    for key in sorted(required):
        if key not in value:
            raise DocumentError(f"{_named(name)} has no {key}")
    for key, item in value.items():
        _check(item, hints.get(key, Any), _below(name, key), depth + 1)


def _check_items(value: Any, shapes: Sequence[Any], name: str, depth: int, *, fixed: bool) -> None:
    if not isinstance(value, list | tuple):
        raise _other(value, "a list", name)
    if fixed and shapes[-1] is not Ellipsis:
        if len(value) != len(shapes):
            raise _other(value, f"a list of {len(shapes)}", name)
        each: Iterable[Any] = shapes
    else:
        each = (shapes[0],) * len(value)
    for index, (item, shape) in enumerate(zip(value, each, strict=True)):
        _check(item, shape, _below(name, str(index)), depth + 1)


def _check_mapping(value: Any, shape: Any, name: str, depth: int) -> None:
    if not isinstance(value, dict):
        raise _other(value, "a mapping", name)
    for key, item in value.items():
        _check(item, shape, _below(name, str(key)), depth + 1)


def _check_plain(value: Any, shape: Any, name: str) -> None:
    expected, fits = _PLAIN[shape]
    if not fits(value):
        raise _other(value, expected, name)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


_PLAIN: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a text", lambda value: isinstance(value, str)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", _is_int),
    float: ("a number", lambda value: isinstance(value, float) or _is_int(value)),
    type(None): ("null", lambda value: value is None),
    dict: ("a mapping", lambda value: isinstance(value, dict)),
    list: ("a list", lambda value: isinstance(value, list)),
}


@functools.cache
def _hints(shape: Any) -> Mapping[str, Any]:
    return get_type_hints(shape)


def _below(name: str, key: str) -> str:
    return f"{name}.{_short(key)}" if name else _short(key)


def _named(name: str) -> str:
    return name or "it"


def _other(value: Any, expected: str, name: str) -> DocumentError:
    if isinstance(value, int) and abs(value) > _LARGEST:  # its digits may be too many to be written down
        found = "a number too large"
    else:
        found = "null" if value is None else f"{type(value).__name__} {_short(repr(value))}"
    return DocumentError(f"{_named(name)} is {found}, not {expected}")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
