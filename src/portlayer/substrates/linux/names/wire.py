"""DNS messages: one question is read, and an answer is put together.

EDNS is not spoken: what follows the question is not looked at, and answers have no OPT record, which tells so.
Names in a question are never compressed; one that is, is refused. Thus nothing here follows pointers.
Sources: RFC 1035 (sections 3 and 4), RFC 3596 (AAAA), RFC 6891 (section 7: who does not speak EDNS).
"""

from __future__ import annotations

import struct

A, PTR, AAAA, ANY = 1, 12, 28, 255
INTERNET = 1
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_SUCH_NAME, NOT_IMPLEMENTED, REFUSED = range(6)
LARGEST_UDP = 512
LARGEST_TCP = 65535

_RESPONSE, _OPCODE, _AUTHORITATIVE, _TRUNCATED, _WANTS_RECURSION, _RECURSES = 0x8000, 0x7800, 0x400, 0x200, 0x100, 0x80
_HEADER = struct.Struct("!6H")
_PAIR = struct.Struct("!HH")
_RECORD = struct.Struct("!HHHIH")
_LARGEST_LABEL, _LARGEST_NAME = 63, 255
_TO_THE_QUESTION = 0xC000 | _HEADER.size
_SECONDS_TO_LIVE = 0  # a name is true now, and may not be in a moment

Record = tuple[int, bytes]  # type and data; every record of an answer is about the name in the question


class Malformed(Exception):
    """answer: what to say to that; empty where nothing should be said, for it is no question at all."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


class Question:
    """number: the message's id. name: lower-case, without the last dot. text: the question as it was asked."""

    __slots__ = ("kind", "klass", "name", "number", "recursive", "text")

    def __init__(self, message: bytes) -> None:
        """Read *message*; raises Malformed."""
        if len(message) < _HEADER.size:
            raise Malformed(b"")
        self.number, flags, questions, *_ = _HEADER.unpack_from(message)
        self.recursive = flags & _WANTS_RECURSION
        self.text = b""
        if flags & _RESPONSE:
            raise Malformed(b"")
        if flags & _OPCODE:
            raise Malformed(self._head(NOT_IMPLEMENTED, 0, flags & _OPCODE))
        if questions != 1:
            raise Malformed(self._head(FORMAT_ERROR, 0))
        labels, end = self._labels(message)
        if end + _PAIR.size > len(message):
            raise Malformed(self._head(FORMAT_ERROR, 0))
        self.name = b".".join(labels).lower().decode("latin-1")
        self.kind, self.klass = _PAIR.unpack_from(message, end)
        self.text = message[_HEADER.size : end + _PAIR.size]

    def _labels(self, message: bytes) -> tuple[list[bytes], int]:
        """The labels of the name in the question, and where it ends."""
        labels: list[bytes] = []
        place = _HEADER.size
        while True:
            length = message[place] if place < len(message) else _LARGEST_LABEL + 1
            end = place + 1 + length
            if length > _LARGEST_LABEL or end > len(message) or end - _HEADER.size > _LARGEST_NAME:
                raise Malformed(self._head(FORMAT_ERROR, 0))
            if not length:
                return labels, end
            labels.append(message[place + 1 : end])
            place = end

    def answer(self, code: int, records: list[Record], limit: int) -> bytes:
        """The answer with as many of *records* as *limit* bytes hold; it says so where these are not all."""
        body, many, flags = b"", 0, _AUTHORITATIVE if code in {NO_ERROR, NO_SUCH_NAME} else 0
        for kind, data in records:
            record = _RECORD.pack(_TO_THE_QUESTION, kind, INTERNET, _SECONDS_TO_LIVE, len(data)) + data
            if _HEADER.size + len(self.text) + len(body) + len(record) > limit:
                flags |= _TRUNCATED
                break
            body += record
            many += 1
        return self._head(code, many, flags) + self.text + body

    def _head(self, code: int, many: int, flags: int = 0) -> bytes:
        flags |= _RESPONSE | _RECURSES | self.recursive | code
        return _HEADER.pack(self.number, flags, 1 if self.text else 0, many, 0, 0)


def pack_name(*names: str) -> bytes:
    """The labels of *names*, one after the other, on the wire; empty where they make no name."""
    labels = [label.encode("latin-1") for name in names for label in name.split(".")]
    packed = b"".join(bytes((len(label),)) + label for label in labels if len(label) <= _LARGEST_LABEL) + b"\0"
    whole = all(0 < len(label) <= _LARGEST_LABEL for label in labels)
    return packed if whole and len(packed) <= _LARGEST_NAME else b""


def renumber(message: bytes, number: int) -> bytes:
    """*message* with another id."""
    return number.to_bytes(2, "big") + message[2:]


def answers(message: bytes, question: Question, number: int) -> bool:
    """Whether *message* answers *question*, asked with id *number*."""
    if len(message) < _HEADER.size:
        return False
    found, flags, *_ = _HEADER.unpack_from(message)
    text = message[_HEADER.size : _HEADER.size + len(question.text)]
    return bool(found == number and flags & _RESPONSE and (text.lower() == question.text.lower() or not _asks(message)))


def _asks(message: bytes) -> int:
    """How many questions *message* repeats: a resolver that failed may repeat none."""
    return int(_HEADER.unpack_from(message)[2])
