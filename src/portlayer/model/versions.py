"""Reading what another version of us may have written: records in the store, and answers of other processes.

While a port layer is upgraded, its processes are of different versions. A newer one may write a field that an older one
does not know. There is one rule for all of it:

- Who only looks leaves out what it does not know (`read`).
- Who changes some fields that depend on no other leaves the rest as it is (`amended`).
- Who acts on the whole, or writes it anew, which would lose what it left out, must know all of it (`read_whole`).
- What makes no sense without what is unknown (another kind of change, a value that was none) is read by neither.

Requests are not read here: in those, what is unknown is refused as the caller's mistake. Pure.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from portlayer.model.errors import Unavailable

T = TypeVar("T")
UPGRADE_SECONDS = 5
"""When to come again: processes are upgraded one after the other."""


def read(kind: type[T], data: bytes) -> T:
    """*data*, JSON, as a *kind*, without what is unknown in it. Raises Unavailable where it makes no sense so."""
    try:
        found: T = _decoded(kind, data)
    except msgspec.ValidationError:
        found = _known_of(kind, data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(kind, error) from error
    return found


def _known_of(kind: Any, data: bytes) -> Any:
    known = msgspec.json.encode(_known(_shape(kind), msgspec.json.decode(data)))
    try:
        return _decoded(kind, known)
    except msgspec.ValidationError as error:
        raise _unreadable(kind, error) from error


def read_whole(kind: type[T], data: bytes) -> T:
    """*data*, JSON, as a *kind*. Raises Unavailable where anything in it is unknown."""
    try:
        found: T = _decoded(kind, data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(kind, error) from error
    return found


def amended(kind: type[msgspec.Struct], data: bytes, **fields: Any) -> bytes:
    """*data*, JSON of a *kind*, with other *fields*, and else as it is, unknown or not."""
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    changed = {names[name]: msgspec.to_builtins(value) for name, value in fields.items()}
    return msgspec.json.encode(msgspec.json.decode(data) | changed)


def _unreadable(kind: Any, error: Exception) -> Unavailable:
    name = getattr(kind, "__name__", str(kind))
    return Unavailable(
        f"This process does not know all that another version has written in a {name} ({error}); "
        "upgrade it, or ask one that is upgraded.",
        retry_after_seconds=UPGRADE_SECONDS,
    )


def _decoded(kind: Any, data: bytes) -> Any:
    return _decoder(kind).decode(data)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@cache
def _shape(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _known(shape: inspect.Type, data: Any) -> Any:
    """As much of *data* as *shape* has fields for. What is wrong otherwise stays so."""
    match shape, data:
        case inspect.StructType(), dict():
            fields = {field.encode_name: field.type for field in shape.fields}
            tag = {shape.tag_field: data[shape.tag_field]} if shape.tag_field in data else {}
            return tag | {name: _known(fields[name], value) for name, value in data.items() if name in fields}
        case inspect.UnionType(), _:
            return _known_of_some(shape, data)
        case inspect.DictType(), dict():
            return {name: _known(shape.value_type, value) for name, value in data.items()}
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType(), list():
            return [_known(shape.item_type, value) for value in data]
        case inspect.TupleType(), list() if len(data) == len(shape.item_types):
            return [_known(item, value) for item, value in zip(shape.item_types, data, strict=True)]
        case _:
            return data


def _known_of_some(union: inspect.UnionType, data: Any) -> Any:
    for shape in union.types:
        if isinstance(shape, inspect.StructType) and isinstance(data, dict):
            if shape.tag_field is None or data.get(shape.tag_field) == shape.tag:
                return _known(shape, data)
        elif not isinstance(shape, inspect.StructType) and (found := _known(shape, data)) is not data:
            return found
    return data
