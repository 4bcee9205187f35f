"""The shell in memory: `sh -c SCRIPT`, with the behaviour of busybox's ash for what `syntax` reads."""

from __future__ import annotations

import copy
import errno
import posixpath
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from portlayer.model.interaction import STDERR, STDOUT
from portlayer.substrates.memory.process import Content, Process, Program
from portlayer.substrates.memory.programs import TABLE, CannotRun, applet, find_program
from portlayer.substrates.memory.syntax import (
    Command,
    Item,
    Part,
    Redirect,
    Script,
    ShellSyntaxError,
    Simple,
    Word,
    parse,
)

_EXEC = (Part("exec", parameter=False, quoted=True),)
_INTERRUPTED = "exit 130"  # ash, even as pid 1, ends so by a SIGINT that it has no trap for
_INLINE = ("echo", "printf", "true", "false", ":", "test", "[", "pwd")


class _Exit(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Redirection(Exception):
    def __init__(self, operator: str, name: str, error: OSError) -> None:
        verb, missing = ("open", "no such file") if operator == "<" else ("create", "nonexistent directory")
        reason = missing if error.errno in {errno.ENOENT, errno.ENOTDIR} else error.strerror
        super().__init__(f"can't {verb} {name}: {reason}")


@applet("sh", "ash")
async def _sh(process: Process) -> int:
    """`sh -c SCRIPT`, or a script from stdin."""
    if process.args[1:2] == ("-c",) and len(process.args) > 2:
        return await _Shell(process, process.env).main(process.args[2])
    data = b""
    while more := await process.read():
        data += more
    return await _Shell(process, process.env).main(data.decode())


class _Shell:
    def __init__(self, process: Process, variables: dict[str, str], pid: int = 0) -> None:
        self._process = process
        self._variables = dict(variables)
        self._pid = pid or process.pid
        self._jobs: dict[int, Process] = {}
        self._last_job = 0
        self._status = 0
        self._trapped = False
        self._builtins: dict[str, Callable[[Process], Awaitable[int]]] = {
            **{name: TABLE[name] for name in _INLINE},
            "exit": self._exit,
            "exec": self._exec,
            "trap": self._trap,
            "wait": self._wait,
            "kill": self._kill,
            "read": self._read,
            "cd": self._cd,
        }

    async def main(self, source: str) -> int:
        self._process.traps.setdefault(signal.SIGINT, _INTERRUPTED)
        try:
            return await self.run(parse(source), last=True)
        except ShellSyntaxError as error:
            await self._process.complain(f"syntax error: {error}")
            return 2
        except _Exit as done:
            return done.status

    async def run(self, script: Script, *, last: bool = False) -> int:
        """Run *script*. last: nothing follows it, so that its last program takes this process over, as in ash."""
        for number, item in enumerate(script, 1):
            if item.background:
                self._background(item)
            else:
                await self._chain(item, last=last and number == len(script))
            await self._run_traps()
        return self._status

    async def _chain(self, item: Item, *, last: bool) -> None:
        for number, (operator, command) in enumerate(item.chain, 1):
            if operator == ";" or (operator == "&&") == (self._status == 0):
                self._status = await self._command(command, last=last and number == len(item.chain))

    async def _command(self, command: Command, *, last: bool) -> int:
        if isinstance(command, Simple):
            return await self._simple(command, last=last)
        status = 0
        while await self.run(command.condition) == 0:
            status = await self.run(command.body)
        return status

    async def _simple(self, command: Simple, *, last: bool) -> int:
        words = [text for word in command.words for text in self._expand(word)]
        assigned = {name: " ".join(self._expand(word)) for name, word in command.assignments}
        try:
            redirected = self._redirected(command.redirects)
        except _Redirection as error:
            return await self._process.complain(str(error))
        if not words:
            self._variables.update(assigned)
            return 0
        redirected.args = tuple(words)
        exported = {name: self._variables[name] for name in self._process.env}
        redirected.env = {**exported, **assigned}
        await self._process.awake()
        if words[0] in self._builtins:
            return await self._builtins[words[0]](redirected)
        return await self._foreground(redirected, last=last and not self._trapped)

    def _redirected(self, redirects: Sequence[Redirect]) -> Process:
        """This process as a command sees it whose streams go elsewhere."""
        command = copy.copy(self._process)
        command.sinks = dict(command.sinks)
        view = self._process.machine.view
        for redirect in redirects:
            if isinstance(redirect.target, int):
                command.sinks[redirect.fd] = command.sinks[redirect.target]
                continue
            name = "".join(self._expand(redirect.target))
            path = posixpath.join(self._process.cwd, name)
            try:
                if redirect.operator == "<":
                    command.stdin = Content(view.read(path))
                else:
                    view.write(path, b"", append=redirect.operator == ">>")
                    command.sinks[redirect.fd] = partial(view.write, path, append=True)
            except OSError as error:
                raise _Redirection(redirect.operator, name, error) from error
        return command

    async def _find(self, command: Process) -> Program | int:
        """The program of *command*, or the status where it cannot be run."""
        try:
            return find_program(command.machine.view, command.args[0], command.env, command.cwd)
        except CannotRun as error:
            await command.write(f"sh: {command.args[0]}: {error.reason}\n".encode(), STDERR)
            return error.exit_code

    async def _foreground(self, command: Process, *, last: bool) -> int:
        program = await self._find(command)
        if isinstance(program, int):
            return program
        if last:
            await self._become(command, program)
        try:
            child = self._fork(command, program)
        except OSError as error:
            await self._process.complain(f"can't fork: {error.strerror}")
            raise _Exit(2) from error
        return await self._ended(child)

    def _fork(self, command: Process, program: Program) -> Process:
        sinks = command.sinks[STDOUT], command.sinks[STDERR]
        child = Process(command.machine, command.args, command.env, command.cwd, command.stdin, *sinks)
        child.traps = {number: action for number, action in self._process.traps.items() if not action}
        child.run(program)
        return child

    def _background(self, item: Item) -> None:
        """Run *item* in a process of its own, without stdin; one plain command becomes that process."""
        first = item.chain[0][1]
        if len(item.chain) == 1 and isinstance(first, Simple) and first.words:
            name = "".join(self._expand(first.words[0]))
            if name not in self._builtins:
                item = Item(((";", replace(first, words=(_EXEC, *first.words))),), background=False)

        async def program(process: Process) -> int:
            shell = _Shell(process, self._variables, self._pid)
            try:
                return await shell.run((replace(item, background=False),))
            except _Exit as done:
                return done.status

        command = copy.copy(self._process)
        command.stdin = Content()
        job = self._fork(command, program)
        self._jobs[job.pid] = job
        self._last_job = job.pid
        self._status = 0

    async def _ended(self, child: Process, *, interruptible: bool = False) -> int:
        while child.status is None:
            if interruptible and self._process.pending:
                return 128 + self._process.pending[0]
            await self._process.machine.bell.wait()
        if child.status in {128 + signal.SIGKILL, 128 + signal.SIGTERM}:
            await self._process.write(f"{signal.strsignal(child.status - 128)}\n".encode(), STDERR)
        return child.status

    async def _run_traps(self) -> None:
        while self._process.pending:
            action = self._process.traps.get(self._process.pending.pop(0))
            if action:
                status = self._status
                await self.run(parse(action))
                self._status = status

    def _expand(self, word: Word) -> list[str]:
        """The words that *word* becomes: none where it was a parameter that is empty."""
        text = "".join(self._parameter(part.text) if part.parameter else part.text for part in word)
        bare = any(part.parameter for part in word) and not any(part.quoted for part in word)
        return text.split() if bare else [text]

    def _parameter(self, name: str) -> str:
        special = {"$": self._pid, "!": self._last_job or "", "?": self._status}
        return str(special.get(name, self._variables.get(name, "")))

    async def _exit(self, command: Process) -> int:
        raise _Exit(int(command.args[1]) if len(command.args) > 1 else self._status)

    async def _exec(self, command: Process) -> int:
        command.args = command.args[1:]
        program = await self._find(command)
        if isinstance(program, int):
            raise _Exit(program)
        await self._become(command, program)
        return 0

    async def _become(self, command: Process, program: Program) -> None:
        """Run *program* in this process, in place of the shell; never returns."""
        process = self._process
        process.args, process.env, process.stdin, process.sinks = (
            command.args,
            command.env,
            command.stdin,
            command.sinks,
        )
        process.traps = {number: action for number, action in process.traps.items() if not action}
        raise _Exit(await program(process))

    async def _trap(self, command: Process) -> int:
        action, *names = command.args[1:]
        for name in names:
            number = _signal_number(name)
            if number is None:
                return await command.complain(f"{name}: this trap is not offered here")
            self._trapped = True
            if action == "-":
                self._process.traps.pop(number, None)
                self._process.traps |= {number: _INTERRUPTED} if number == signal.SIGINT else {}
            else:
                parse(action)
                self._process.traps[number] = action
        return 0

    async def _wait(self, command: Process) -> int:
        pids = [int(word) for word in command.args[1:]]
        status = 0
        for pid in pids or list(self._jobs):
            if pid not in self._jobs:
                return 127
            status = await self._ended(self._jobs[pid], interruptible=True)
            if self._process.pending:
                return status
            del self._jobs[pid]
        return status if pids else 0

    async def _kill(self, command: Process) -> int:
        words = list(command.args[1:])
        number = _signal_number(words.pop(0)[1:]) if words[0].startswith("-") else signal.SIGTERM
        if number is None:
            return await command.complain("bad signal name")
        for word in words:
            if not command.machine.signal(number, int(word)):
                return await command.complain(f"can't kill pid {word}: No such process")
        return 0

    async def _read(self, command: Process) -> int:
        line = b""
        while (byte := await command.read(1)) not in {b"", b"\n"}:
            line += byte
        names = command.args[1:] or ("REPLY",)
        fields = line.decode("utf-8", "surrogateescape").strip().split(None, len(names) - 1)
        self._variables.update(zip(names, [*fields, *[""] * len(names)], strict=False))
        return 0 if byte else 1

    async def _cd(self, command: Process) -> int:
        path = posixpath.normpath(posixpath.join(self._process.cwd, command.args[1]))
        try:
            command.machine.view.names(path)
        except OSError as error:
            await command.complain(f"can't cd to {command.args[1]}: {error.strerror}")
            return 2
        self._process.cwd = path
        return 0


def _signal_number(name: str) -> int | None:
    if name.isdigit():
        return int(name)
    member = signal.Signals.__members__.get(f"SIG{name.upper().removeprefix('SIG')}")
    return member.value if member else None
