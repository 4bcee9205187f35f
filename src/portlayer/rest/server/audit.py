"""The audit log: who changed what, and who was refused. A JSON object a line; no query, no header, no body."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import msgspec

from portlayer.model.access import Identity, without_secrets
from portlayer.model.base import now
from portlayer.rest.server.doings import Doing
from portlayer.rest.server.refusals import Refusals

MAX_BYTES = 16 * 1024 * 1024
KEPT = 3
_MAX_TEXT = 1024
_logger = logging.getLogger(__name__)


class Audit:
    """Writes to *path* (mode 0600). Over *most* bytes it becomes `.1`, that one `.2`, and so on; KEPT of them stay.

    Without a path, the logger alone is told.
    """

    def __init__(self, path: Path | None = None, most: int = MAX_BYTES) -> None:
        self._path = path
        self._most = most
        self._file: int | None = None
        self._bytes = 0
        self._refusals = Refusals(self._sum_up)

    def refuse(
        self, identity: Identity | None, vch: str | None, call: str, path: str, doing: Doing, *, request: str | None
    ) -> None:
        """As `tell`, of who may not. Those who are refused often have a line a minute that says how often."""
        if self._refusals.has_line(identity):
            self.tell(identity, vch, call, path, doing, request=request)

    def _sum_up(self, identity: Identity | None, count: int, since: str) -> None:
        self._put({"time": now(), **_who(identity), "refusals": count, "since": since})

    def tell(
        self,
        identity: Identity | None,
        vch: str | None,
        call: str,
        path: str,
        doing: Doing,
        *,
        request: str | None = None,
    ) -> None:
        """One line. request: its id. A disk that takes no line is an error in the log; the call goes on."""
        self._put(
            {
                "time": now(),
                **_who(identity),
                "vch": vch and without_secrets(vch)[:_MAX_TEXT],
                "call": call,
                "target": without_secrets(path)[:_MAX_TEXT],
                **doing._asdict(),
                "request": request,
            }
        )

    def _put(self, line: dict[str, Any]) -> None:
        # The log's own line is a copy, and can wait until the caller has the answer.
        asyncio.get_running_loop().call_soon(_log, line)
        try:
            self._write(msgspec.json.encode(line) + b"\n")
        except OSError:
            _logger.exception("the audit log takes no line")

    def close(self) -> None:
        """Tell what is left to tell, and let go of the file."""
        self._refusals.sum_up()
        self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, line: bytes) -> None:
        if self._path is None:
            return
        if self._file is not None and self._bytes + len(line) > self._most:
            self._rotate(self._path)
        if self._file is None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._bytes = os.fstat(self._file).st_size
        self._bytes += os.write(self._file, line)

    def _rotate(self, path: Path) -> None:
        self._let_go()
        for number in range(KEPT - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))


def _who(identity: Identity | None) -> dict[str, str | None]:
    if identity is None:
        return {"subject": None, "role": None, "how": None}
    return {"subject": identity.subject, "role": identity.role, "how": identity.how}


def _log(line: dict[str, Any]) -> None:
    _logger.info("audit", extra={name: value for name, value in line.items() if name != "time"})
