"""Signals by name and number, as Linux has them."""

from __future__ import annotations

import signal

from portlayer.model.errors import InvalidArgument


def parse_signal(text: str, pointer: str = "/signal") -> int:
    """The number of a signal given as `SIGTERM`, `term`, `15` or `SIGRTMIN+3`.

    Raises:
        InvalidArgument: no such signal.
    """
    name = text.strip().upper()
    if name.isascii() and name.isdecimal() and len(name) < 4 and 0 < int(name) <= signal.SIGRTMAX:
        return int(name)
    base, plus, offset = name.removeprefix("SIG").partition("+")
    try:
        number = int(signal.Signals[f"SIG{base}"])
    except KeyError:
        number = 0
    if plus:
        number = number + int(offset) if base == "RTMIN" and offset.isdecimal() and len(offset) < 3 else 0
    if not 0 < number <= signal.SIGRTMAX:
        raise InvalidArgument(
            f"There is no signal {text[:40]!r}; use a name such as SIGTERM or a number.", pointer=pointer
        )
    return number
