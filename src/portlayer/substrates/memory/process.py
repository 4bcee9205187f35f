"""Processes in memory: an incarnation with its pid namespace, and signals as Linux delivers them.

Pid 1 of a namespace gets a signal only where it has a trap for it, SIGKILL and SIGSTOP from outside excepted;
the default action of every other process is death (pid_namespaces(7), signal(7)).
"""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from portlayer.model.base import now
from portlayer.model.execution import ContainerSpec, Resources
from portlayer.model.interaction import STDERR, STDOUT
from portlayer.model.network import EndpointSpec
from portlayer.substrates.memory.files import View
from portlayer.substrates.memory.pipes import Bell, Log, Pipe, Terminal

_IGNORED = frozenset({signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH})
_STOPPING = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})


class Died(Exception):
    """A process that sent itself a deadly signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Source(Protocol):
    """Where a process reads from."""

    async def read(self, size: int = ...) -> bytes: ...


class Content:
    """Bytes to read, then the end: a file, or nothing at all (/dev/null)."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = data

    async def read(self, size: int = 65536) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return data


class Resolver(Protocol):
    """The name servers of all networks."""

    def addresses(self, asking: Incarnation, name: str) -> list[str]: ...

    def name(self, asking: Incarnation, address: str) -> str: ...


Sink = Callable[[bytes], None]
Program = Callable[["Process"], Awaitable[int]]


class Process:
    """A process: what it was given, and what signals did to it."""

    def __init__(
        self, machine: Incarnation, args: tuple[str, ...], env: dict[str, str], cwd: str, stdin: Source, *sinks: Sink
    ) -> None:
        self.machine = machine
        self.args = args
        self.env = env
        self.cwd = cwd
        self.stdin = stdin
        self.sinks = {STDOUT: sinks[0], STDERR: sinks[1]}
        self.traps: dict[int, str] = {}
        self.pending: list[int] = []
        self.forward_to: Process | None = None
        self.status: int | None = None
        self.stopped = False
        self.pid = machine.enter(self)
        self._killed_by = 0
        self._task: asyncio.Task[int] | None = None

    def run(self, program: Program) -> None:
        self._task = asyncio.create_task(self._guard(program))
        self._task.add_done_callback(self._finish)

    async def _guard(self, program: Program) -> int:
        try:
            status = await program(self)
        except Died as death:
            return 128 + death.number
        except OSError as error:
            status = await self.complain(error.strerror or str(error))
        await self.awake()
        return status & 0xFF

    def _finish(self, task: asyncio.Task[int]) -> None:
        self.status = 128 + self._killed_by if task.cancelled() else task.result()
        self.machine.leave(self)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def deliver(self, number: int, *, outside: bool = False) -> None:
        """Send *number*; outside: from the parent namespace, which alone can kill or stop pid 1."""
        first = self.pid == 1
        if number == signal.SIGKILL:
            self._die(number, spared=first and not outside)
        elif number == signal.SIGSTOP:
            self.stopped = self.stopped or outside or not first
        elif number in self.traps:
            if self.traps[number]:
                self.pending.append(number)
        elif self.forward_to is not None:
            self.forward_to.deliver(number)
        elif number == signal.SIGCONT:
            self.stopped = False
        elif number in _STOPPING:
            self.stopped = not first
        elif number not in _IGNORED:
            self._die(number, spared=first)
        self.machine.bell.ring()

    def _die(self, number: int, *, spared: bool) -> None:
        if spared:
            return
        self._killed_by = number
        if self.pid == 1:
            self.machine.end(128 + number)
        elif self._task is asyncio.current_task():
            raise Died(number)
        else:
            self.cancel()

    async def awake(self) -> None:
        """Return at once, or as soon as the process is neither frozen nor stopped."""
        while self.machine.frozen or self.stopped:
            await self.machine.bell.wait()

    async def read(self, size: int = 65536) -> bytes:
        data = await self.stdin.read(size)
        await self.awake()
        return data

    async def write(self, data: bytes, stream: int = STDOUT) -> None:
        await self.awake()
        self.sinks[stream](data)

    async def say(self, text: str) -> None:
        await self.write(text.encode("utf-8", "surrogateescape"))

    async def complain(self, text: str) -> int:
        """Print *text* to stderr after the program's name; exit code 1."""
        name = self.args[0].rsplit("/", 1)[-1]
        await self.write(f"{name}: {text}\n".encode("utf-8", "surrogateescape"), STDERR)
        return 1


@dataclass(frozen=True)
class Plan:
    """What the main process will be. user: uid and gid."""

    program: Program
    env: dict[str, str]
    user: tuple[int, int]
    resolver: Resolver


class Incarnation:
    """One start of a container: its processes, streams, limits and links."""

    def __init__(self, spec: ContainerSpec, incarnation: str, log: Log, view: View, plan: Plan) -> None:
        self.spec = spec
        self.id = incarnation
        self.log = log
        self.view = view
        self.user = plan.user
        self.resolver = plan.resolver
        self._plan = plan
        self.state: Literal["prepared", "running", "exited"] = "prepared"
        self.frozen = False
        self.exit_code: int | None = None
        self.finished_at: str | None = None
        self.oom_killed = False
        self.resources: Resources = spec.resources
        self.links: dict[str, EndpointSpec] = {}
        self.bell = Bell()
        self.terminal = Terminal(log, self._interrupt) if spec.terminal else None
        self.stdin: Pipe | None = None
        if spec.stdin:
            self.stdin = self.terminal.input if self.terminal else Pipe()
        self._processes: dict[int, Process] = {}
        self._last_pid = 0
        self._started = False

    @property
    def live(self) -> bool:
        return self.state != "exited"

    @property
    def died_prepared(self) -> bool:
        """Whether it ended before it was let go: nothing of its container ever ran, so that this is no exit."""
        return self.state == "exited" and not self._started

    def start(self) -> None:
        """Let the main process go."""
        source: Source = self.stdin or (self.terminal.input if self.terminal else Content())
        self.state = "running"
        self._started = True
        process = self.spec.process
        Process(self, process.args, self._plan.env, process.cwd, source, *self._sinks()).run(self._plan.program)

    def _sinks(self) -> Iterable[Sink]:
        if self.terminal is not None:
            return self.terminal.output, self.terminal.output
        return lambda data: self.log.append(STDOUT, data), lambda data: self.log.append(STDERR, data)

    def enter(self, process: Process) -> int:
        """The pid of a new process."""
        limit = self.resources.pids
        if limit is not None and len(self._processes) >= limit:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self._last_pid += 1
        self._processes[self._last_pid] = process
        return self._last_pid

    def leave(self, process: Process) -> None:
        self._processes.pop(process.pid, None)
        if process.pid == 1:
            self.end(process.status or 0)
        self.bell.ring()

    def signal(self, number: int, pid: int = 1, *, outside: bool = False) -> bool:
        """Send to one process; False where there is none."""
        process = self._processes.get(pid)
        if process is not None:
            process.deliver(number, outside=outside)
        elif self.state == "prepared" and number == signal.SIGKILL:
            self.end(128 + number)
        return process is not None

    def _interrupt(self) -> None:
        self.signal(signal.SIGINT)

    def resize(self, width: int, height: int) -> None:
        if self.terminal is not None and (self.terminal.width, self.terminal.height) != (width, height):
            self.terminal.width, self.terminal.height = width, height
            self.signal(signal.SIGWINCH)

    def freeze(self, frozen: bool) -> None:
        self.frozen = frozen
        self.bell.ring()

    def end(self, exit_code: int, *, oom_killed: bool = False) -> None:
        """The main process is gone, and takes all others, the streams and the links with it."""
        if not self.live:
            return
        self.state = "exited"
        self.frozen = False
        self.exit_code = exit_code
        self.finished_at = now()
        self.oom_killed = oom_killed
        self.links.clear()
        for process in list(self._processes.values()):
            process.cancel()
        if self.stdin is not None:
            self.stdin.break_()
        self.bell.ring()
        self.log.bell.ring()
