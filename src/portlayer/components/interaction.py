"""Interaction: the streams of a container's main task."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator

from portlayer.components.admission import Gate, Held
from portlayer.components.attachment import Life, LocalAttachment
from portlayer.components.drafts import Drafts
from portlayer.components.membership import Membership
from portlayer.components.tail import find_tail, last_lines
from portlayer.interfaces.substrate import InteractionDriver
from portlayer.model import changes as c
from portlayer.model import interaction as m
from portlayer.model.caller import Caller
from portlayer.model.detach import DEFAULT_KEYS, parse_keys
from portlayer.model.errors import AlreadyExists, InvalidArgument, InvalidState, Unsupported
from portlayer.model.execution import ContainerRecord, ContainerSpec, Observed
from portlayer.model.storage import HandleAnswer
from portlayer.model.times import parse_time

MAX_SIZE = 65535
_OUTPUTS = {m.STDOUT: "stdout", m.STDERR: "stderr"}


class LocalInteraction:
    """Implements interfaces.interaction.Interaction."""

    def __init__(self, drafts: Drafts, driver: InteractionDriver, streams: Gate, membership: Membership) -> None:
        self._drafts = drafts
        self._membership = membership
        self._streams = streams
        self._records = drafts.records
        self._driver = driver

    async def join(self, caller: Caller, request: m.JoinInteraction) -> HandleAnswer:
        _check_task(request.task_id)
        preview = await self._drafts.open(caller, request.handle)
        if preview.spec.interaction is not None:
            raise AlreadyExists("The main task has its interaction already.", kind="interaction", id=m.MAIN_TASK)
        interaction = m.InteractionSpec(
            stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal
        )
        return HandleAnswer(handle=self._drafts.seal(preview, c.AddInteraction(interaction=interaction)))

    async def bind(self, caller: Caller, request: m.BindInteraction) -> HandleAnswer:
        _check_task(request.task_id)
        return await self._drafts.stage(caller, request.handle, c.ActivateInteraction())

    async def unbind(self, caller: Caller, request: m.BindInteraction) -> HandleAnswer:
        _check_task(request.task_id)
        return await self._drafts.stage(caller, request.handle, c.DeactivateInteraction())

    async def attach(self, caller: Caller, request: m.Attach) -> LocalAttachment:
        _check_task(request.task_id)
        record, observed = await self._records.find_container(caller.vch, request.ref)
        spec = record.spec
        if request.stdin and not _has_stdin(record, observed):
            raise _no_stdin(record)
        default_keys = DEFAULT_KEYS if _has_terminal(record, observed) else ""
        detach_keys = default_keys if request.detach_keys is None else request.detach_keys
        sequence = parse_keys(detach_keys) if detach_keys else b""
        cursor = await self._cursor(request, spec.id)
        if observed.state == "stopped" and not request.logs and request.cursor is None:
            raise _not_running(record, observed)
        wanted = frozenset(stream for stream, on in ((m.STDOUT, request.stdout), (m.STDERR, request.stderr)) if on)
        streams = _given(wanted, record, observed, needed=not request.stdin)
        place = await self._streams.admit(caller.vch)
        try:
            life = await self._life(caller.vch, spec)
        except BaseException:
            place.leave()
            raise
        return LocalAttachment(self._driver, life, spec.id, cursor, streams, sequence, place, stdin=request.stdin)

    async def _life(self, vch: str, spec: ContainerSpec) -> Life:
        """Of what attaches; who is removed on exit is not before it has been read."""
        if spec.remove_on_exit:
            return await Life.announced(self._records, vch, spec.id, self._membership.id)
        return Life(self._records, vch, spec.id)

    async def _cursor(self, request: m.Attach, container: str) -> int:
        if request.cursor is not None:
            return _cursor(request.cursor)
        return 0 if request.logs else await self._driver.log_end(container)

    async def output(self, caller: Caller, request: m.Streams, stream: int) -> AsyncIterator[bytes]:
        _check_task(request.task_id)
        record, observed = await self._records.find_container(caller.vch, request.ref)
        if observed.state == "stopped":
            raise _not_running(record, observed)
        _given(frozenset({stream}), record, observed)
        cursor = await self._driver.log_end(record.spec.id)
        place = await self._streams.admit(caller.vch)
        return Held(place, self._output(caller.vch, record.spec.id, cursor, stream))

    async def _output(self, vch: str, container: str, cursor: int, stream: int) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(Life(self._records, vch, container)) as life:
            incarnation = await life.incarnation()
            if incarnation is None:
                return
            async with contextlib.aclosing(self._driver.read_log(container, cursor, follow=incarnation)) as log:
                async for chunk in log:
                    if chunk.stream == stream:
                        yield chunk.data

    async def write_stdin(self, caller: Caller, request: m.Streams, body: AsyncIterator[bytes]) -> None:
        container, incarnation = await self._with_stdin(caller, request)
        place = await self._streams.admit(caller.vch)
        try:
            async for data in body:
                await self._driver.write_stdin(container, incarnation, data)
        finally:
            place.leave()

    async def close_stdin(self, caller: Caller, request: m.Streams) -> None:
        await self._driver.close_stdin(*await self._with_stdin(caller, request))

    async def _with_stdin(self, caller: Caller, request: m.Streams) -> tuple[str, str]:
        _check_task(request.task_id)
        record, observed = await self._records.find_container(caller.vch, request.ref)
        if not _has_stdin(record, observed):
            raise _no_stdin(record)
        return record.spec.id, _live(record, observed)

    async def resize(self, caller: Caller, request: m.Resize) -> None:
        _check_task(request.task_id)
        check_size(request.width, request.height)
        record, observed = await self._records.find_container(caller.vch, request.ref)
        if not _has_terminal(record, observed):
            raise InvalidState(f"{record.spec.name} has no terminal.", kind="container", id=record.spec.id)
        await self._driver.resize(record.spec.id, _live(record, observed), request.width, request.height)

    async def logs(self, caller: Caller, request: m.Logs) -> AsyncIterator[m.Chunk]:
        since = parse_time(request.since, "?since") if request.since is not None else 0
        until = parse_time(request.until, "?until") if request.until is not None else None
        if request.tail is not None and request.tail < 0:
            raise InvalidArgument("tail counts lines; it cannot be negative.", pointer="?tail")
        if request.tail is not None and request.cursor is not None:
            raise InvalidArgument("Give tail or cursor: each says where the log begins.", pointer="?tail")
        begin = 0 if request.cursor is None else _cursor(request.cursor)
        record, _ = await self._records.find_container(caller.vch, request.ref)
        place = await self._streams.admit(caller.vch)
        log = self._log(caller.vch, record.spec.id, request, begin)
        return Held(place, _within(log, since, until, frozenset(_streams(request))))

    async def _log(self, vch: str, container: str, request: m.Logs, cursor: int) -> AsyncGenerator[m.Chunk, None]:
        """The log so far, its tail where asked, and what follows."""
        split = bool(request.timestamps or request.since or request.until or request.tail is not None)
        streams = frozenset(_streams(request))
        follow = request.follow and (request.until is None or parse_time(request.until, "?until") > time.time_ns())
        async with contextlib.aclosing(Life(self._records, vch, container)) as life:
            read = functools.partial(self._driver.read_log, container, split=split)
            if request.tail is None:
                there = read(cursor)
            else:
                begin = await self._driver.log_tail(container, request.tail, streams)
                tail = await find_tail(read(begin), begin, request.tail, streams)
                there, cursor = last_lines(read(tail.begin), tail, streams), tail.end
            async with contextlib.aclosing(there):
                async for chunk in there:
                    cursor = chunk.cursor
                    yield chunk
            if not follow:
                return
            incarnation = await life.incarnation()
            if incarnation is None:
                return
            async with contextlib.aclosing(read(cursor, follow=incarnation)) as rest:
                async for chunk in rest:
                    yield chunk


async def _within(
    log: AsyncGenerator[m.Chunk, None], since: int, until: int | None, streams: frozenset[int]
) -> AsyncGenerator[m.Chunk, None]:
    """The chunks of *log* between two times; a log that is followed is left when the second one is reached."""

    def patience() -> float | None:
        return until / 1e9 - time.time() if until is not None and until > time.time_ns() else None

    async with contextlib.aclosing(log):
        while True:
            try:
                async with asyncio.timeout(patience()):
                    chunk = await anext(log, None)
            except TimeoutError:
                return
            if chunk is None or (until is not None and chunk.time > until):
                return
            if chunk.time >= since and chunk.stream in streams:
                yield chunk


def _streams(request: m.Logs) -> tuple[int, ...]:
    return tuple(stream for stream, on in ((m.STDOUT, request.stdout), (m.STDERR, request.stderr)) if on)


def check_size(width: int, height: int) -> None:
    """Raises InvalidArgument for a size that no terminal has."""
    if not (1 <= width <= MAX_SIZE and 1 <= height <= MAX_SIZE):
        raise InvalidArgument(f"width and height must be between 1 and {MAX_SIZE}.", pointer="/width")


def _cursor(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise InvalidArgument("This is no cursor of a container's output.", pointer="?cursor")
    return int(text)


def _check_task(task: str | None) -> None:
    if task not in (None, m.MAIN_TASK):
        raise Unsupported("There is only the main task; leave taskId out.", option="taskId", pointer="/taskId")


def _live(record: ContainerRecord, observed: Observed) -> str:
    if observed.state not in ("running", "paused"):
        raise _not_running(record, observed)
    return observed.incarnation


def _not_running(record: ContainerRecord, observed: Observed) -> InvalidState:
    spec = record.spec
    return InvalidState(
        f"{spec.name} is {observed.state}; start it first, or read its logs.",
        kind="container",
        id=spec.id,
        state=observed.state,
    )


def _given(
    wanted: frozenset[int], record: ContainerRecord, observed: Observed, *, needed: bool = True
) -> frozenset[int]:
    """Those of the *wanted* output streams that the container has for who attaches. needed: raise InvalidState where it
    has none of them, for nothing would ever come."""
    given = wanted & _joined(record)
    terminal = _has_terminal(record, observed)
    if terminal:
        given -= {m.STDERR}
    if wanted and not given and needed:
        names = " and ".join(_OUTPUTS[stream] for stream in sorted(wanted))
        reason = (
            "its terminal writes to stdout alone"
            if terminal and m.STDOUT not in wanted
            else "join interaction with it, and bind it"
        )
        raise InvalidState(
            f"{record.spec.name} has no {names} to attach to: {reason}; its logs have all that it writes.",
            kind="container",
            id=record.spec.id,
        )
    return given


def _joined(record: ContainerRecord) -> frozenset[int]:
    """The output streams that attaching gives."""
    spec = record.spec.interaction
    if spec is None or not spec.bound:
        return frozenset(_OUTPUTS)
    return frozenset(stream for stream, on in ((m.STDOUT, spec.stdout), (m.STDERR, spec.stderr)) if on)


def _has_stdin(record: ContainerRecord, observed: Observed) -> bool:
    return observed.stdin if observed.state in ("running", "paused") else record.spec.stdin


def _has_terminal(record: ContainerRecord, observed: Observed) -> bool:
    return observed.terminal if observed.state in ("running", "paused") else record.spec.terminal


def _no_stdin(record: ContainerRecord) -> InvalidState:
    return InvalidState(
        f"{record.spec.name} has no stdin; join interaction with stdin and bind it before its start.",
        kind="container",
        id=record.spec.id,
    )
