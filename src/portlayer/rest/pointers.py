"""From msgspec's complaints to InvalidArgument with a JSON pointer."""

from __future__ import annotations

import re

import msgspec

from portlayer.model.errors import InvalidArgument

_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_FIELD = re.compile(r"field `(.*)`$", re.DOTALL)
_LONG = 200


def refusal(error: Exception, where: str = "The body") -> InvalidArgument:
    """What decoding or converting *where* failed of.

    The pointer of an unknown or missing field names that field; inside a free mapping it stops at the mapping.
    """
    if not isinstance(error, msgspec.ValidationError):
        return InvalidArgument(f"{where} is not the JSON that this call takes: {_reason(error)}.")
    found = _PATH.match(str(error))
    what, path = (found["what"], found["path"] or "") if found else (str(error), "")
    pointer = "".join(f"/{name or index}" for name, index in _STEP.findall(path))
    if field := _FIELD.search(what):
        pointer += f"/{escape(field[1])}"
    what = what if len(what) <= _LONG else f"{what[:_LONG]}..."
    place = f" at {pointer[:_LONG]}" if pointer else ""
    return InvalidArgument(f"{where} is not what this call takes: {what}{place}.", pointer=pointer[:_LONG] or None)


def escape(name: str) -> str:
    """*name* as one token of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _reason(error: Exception) -> str:
    match error:
        case RecursionError():
            return "it is nested too deeply"
        case UnicodeDecodeError():
            return "it is not UTF-8"
        case _:
            return str(error)
