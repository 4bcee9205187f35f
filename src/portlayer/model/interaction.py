"""Streams of a task: what a container has of them, requests, and what flows."""

from __future__ import annotations

from portlayer.model.base import Value

STDIN, STDOUT, STDERR, CONTROL = 0, 1, 2, 3
MAIN_TASK = "main"


class InteractionSpec(Value, omit_defaults=False):
    """Which streams of the main task are joined; active (`bound`) from the next start on.

    Without a bound interaction a task has no stdin, and attaching gives both outputs; with one, attaching gives those
    that it has, and is refused where only others are asked for. The log keeps both always.
    """

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    terminal: bool = False
    bound: bool = False


class JoinInteraction(Value):
    handle: str
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    terminal: bool = False
    task_id: str | None = None


class BindInteraction(Value):
    """Also for unbind."""

    handle: str
    task_id: str | None = None


class Attach(Value):
    """Which streams to attach. `logs` starts with what was written before; `cursor` resumes after a cut."""

    ref: str
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    logs: bool = False
    task_id: str | None = None
    detach_keys: str | None = None
    cursor: str | None = None


class Resize(Value):
    """Sizes of the terminal in characters."""

    ref: str
    width: int
    height: int
    task_id: str | None = None


class Streams(Value):
    """For the plain stream calls."""

    ref: str
    task_id: str | None = None


class Logs(Value):
    """`since` and `until` are RFC 3339 or seconds since the epoch; `tail` counts lines; `cursor` goes on behind a piece
    of a framed log."""

    ref: str
    follow: bool = False
    tail: int | None = None
    since: str | None = None
    until: str | None = None
    timestamps: bool = False
    stdout: bool = True
    stderr: bool = True
    cursor: str | None = None


class Chunk(Value):
    """A piece of a log as the driver reads it.

    stream: STDOUT or STDERR. data: the bytes as the process wrote them. time: nanoseconds since the epoch.
    cursor: position after this piece; reading from it gives what follows.
    """

    stream: int
    data: bytes
    time: int
    cursor: int
