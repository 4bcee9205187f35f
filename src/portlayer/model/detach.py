"""Detach keys: the sequence that ends an attachment without ending the container."""

from __future__ import annotations

from portlayer.model.errors import InvalidArgument

DEFAULT_KEYS = "ctrl-p,ctrl-q"
_SPECIAL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_keys(text: str) -> bytes:
    """The bytes of a sequence such as `ctrl-p,ctrl-q` or `x,y`. Source: docker attach, --detach-keys."""
    sequence = bytearray()
    for key in text.split(","):
        name = key.removeprefix("ctrl-")
        if key == name and len(key) == 1 and key.isascii():
            sequence += key.encode()
        elif key != name and len(name) == 1 and (name.isalpha() or name in _SPECIAL) and name.isascii():
            sequence.append(_SPECIAL[name] if name in _SPECIAL else ord(name.lower()) - 96)
        else:
            raise InvalidArgument(f"{key[:20]!r} is no key; write 'a' or 'ctrl-a'.", pointer="?detachKeys")
    return bytes(sequence)


class Detacher:
    """Finds the sequence in what flows by, also across pieces."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What may pass on of *data* (and of what was held back before), and whether the sequence is complete."""
        if not self._sequence:
            return data, False
        data = self._held + data
        at = data.find(self._sequence)
        if at >= 0:
            self._held = b""
            return data[:at], True
        for size in range(min(len(self._sequence) - 1, len(data)), 0, -1):
            if data.endswith(self._sequence[:size]):
                self._held = data[-size:]
                return data[:-size], False
        self._held = b""
        return data, False
