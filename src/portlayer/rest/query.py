"""Query parameters, both ways: values of a request's fields as strings, strictly."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from portlayer.model.errors import InvalidArgument

Reader = Callable[[str, Sequence[str]], Any]

_INT = re.compile(r"[+-]?[0-9]{1,18}")
_FLOAT = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
_BOOL = {"true": True, "1": True, "false": False, "0": False}


def reader(annotation: Any) -> Reader:
    """A function `(parameter, values) -> value` for a field of type *annotation*.

    It refuses what is not exactly such a value, and repetition where one value is meant.
    """
    kind = bare(annotation)
    if get_origin(kind) is tuple:
        return lambda _, values: tuple(values)
    one = _CONVERTERS[str if get_origin(kind) is Literal else kind]
    return lambda name, values: one(name, _single(name, values))


def bare(annotation: Any) -> Any:
    """*annotation* without `| None`."""
    if get_origin(annotation) in {Union, types.UnionType}:
        (annotation,) = (each for each in get_args(annotation) if each is not type(None))
    return annotation


def written(value: Any) -> list[str]:
    """*value* as its parameters; the other way of `reader`."""
    match value:
        case bool():
            return ["true" if value else "false"]
        case tuple():
            return list(value)
        case float():
            return [f"{value:.9f}".rstrip("0").rstrip(".")]
        case _:
            return [str(value)]


def _single(name: str, values: Sequence[str]) -> str:
    if len(values) != 1:
        raise InvalidArgument(f"The query has {name!r} {len(values)} times; give it once.", pointer=f"?{name}")
    return values[0]


def _int(name: str, text: str) -> int:
    if _INT.fullmatch(text) is None:
        raise InvalidArgument(f"{name!r} of the query must be an integer, not {text[:40]!r}.", pointer=f"?{name}")
    return int(text)


def _float(name: str, text: str) -> float:
    if _FLOAT.fullmatch(text) is None:
        raise InvalidArgument(f"{name!r} of the query must be a number, not {text[:40]!r}.", pointer=f"?{name}")
    return float(text)


def _bool(name: str, text: str) -> bool:
    if text not in _BOOL:
        raise InvalidArgument(f"{name!r} of the query must be true or false, not {text[:40]!r}.", pointer=f"?{name}")
    return _BOOL[text]


def _str(_name: str, text: str) -> str:
    return text


_CONVERTERS: dict[Any, Callable[[str, str], Any]] = {int: _int, float: _float, bool: _bool, str: _str}
