"""The server's log on stderr: a JSON object a line, or lines to read.

Each says what it is about: the request, the VCH, the container, and the trace.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import msgspec

from portlayer import scope, tracing
from portlayer.model.base import rfc3339

Form = Literal["json", "text"]

_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", ...}`, with what the record has beyond the ordinary."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": rfc3339(int(record.created * 1e9)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {name}={value}" for name, value in _extras(record).items())
        when = self.formatTime(record, "%H:%M:%S")
        line = f"{when}.{record.msecs:03.0f} {record.levelname.lower():7} {record.getMessage()}{facts}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_logging(level: str, form: Form | None = None) -> None:
    """All of this process's logging to stderr. form: by default, text on a terminal."""
    form = form or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if form == "text" else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """What is being done here, and what the record has beyond the ordinary."""
    link = tracing.current()
    trace = {"trace": link.trace, "span": link.span} if link else {}
    own = {name: value for name, value in vars(record).items() if name not in _ORDINARY}
    return {**scope.fields(), **trace, **own}
