"""The two OCI runtimes that we drive: how each is run, lets a created process go, and says that it cannot.

A created process waits at a FIFO, which the runtime's `start` would open. We open it ourselves and save a process:
crun's waits for a byte, runc's waits until somebody reads. Sources: crun's and runc's own code for `start`; the words
of their errors as crun 1.8 and runc 1.1 have them.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
from pathlib import Path
from typing import ClassVar

from portlayer.interfaces.substrate import StartFailure
from portlayer.substrates.linux import seccomp
from portlayer.substrates.linux.spec import Filter

NOT_FOUND, NOT_EXECUTABLE = 127, 126
_GATE_SECONDS = 5.0
_ABSENT = re.compile(r"not found|no such file|not a directory", re.IGNORECASE)
_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Runtime:
    """name: the program's name. path: where it is. command: what the shim runs, which may be a copy in memory."""

    name: ClassVar[str]
    _refusals: ClassVar[tuple[re.Pattern[str], ...]]
    _failed_start: ClassVar[re.Pattern[str]]

    def __init__(self, path: str) -> None:
        self.path = path
        self.command = path

    def seal(self) -> bool:
        """Run from a copy in memory from now on, where that is faster; whether it is."""
        return False

    def close(self) -> None:
        """Undo `seal`."""

    def filter(self, capabilities: frozenset[str]) -> Filter:
        """The seccomp filter in the shape that starts fastest."""
        return Filter(oci=seccomp.oci(capabilities))

    async def open_gate(self, gate: str) -> bool:
        """Let the process that waits at *gate* go; False where none waits there."""
        raise NotImplementedError

    def refusal(self, message: str) -> StartFailure | None:
        """What `create` says, where it means that the program cannot be executed; None where the host failed."""
        for pattern in self._refusals:
            found = pattern.search(message)
            if found is not None:
                return start_failure(found["reason"])
        return None

    def failed_start(self, output: str) -> StartFailure | None:
        """The same for the first line on stderr of a process that ended at once with 1."""
        found = self._failed_start.match(output)
        return None if found is None else start_failure(found["reason"])


class Crun(Runtime):
    """crun copies itself, or mounts itself anew, so that no container can write to the program of the host through
    /proc/self/exe, and then runs itself a second time. Run from a sealed file in memory, it finds that this is done:
    that halves the time to create."""

    name = "crun"
    _refusals = (
        re.compile(r"(?P<reason>executable file .* not found.*)"),
        re.compile(r"(?P<reason>open executable: .*)"),
        re.compile(r"(?P<reason>chdir to .*)"),
    )
    _failed_start = re.compile(r"(?P<reason>exec container process .*: .*)")

    def seal(self) -> bool:
        try:
            self._copy = os.memfd_create("crun", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.write(self._copy, Path(self.path).read_bytes())
            os.fchmod(self._copy, 0o755)
            fcntl.fcntl(self._copy, fcntl.F_ADD_SEALS, _ALL_SEALS)
        except OSError:
            return False
        self.command = f"/proc/{os.getpid()}/fd/{self._copy}"
        return True

    def close(self) -> None:
        if self.command != self.path:
            os.close(self._copy)
            self.command = self.path

    def filter(self, capabilities: frozenset[str]) -> Filter:
        try:
            return Filter(bpf=seccomp.bpf(capabilities))
        except OSError:
            return Filter(oci=seccomp.oci(capabilities))

    async def open_gate(self, gate: str) -> bool:
        try:
            descriptor = os.open(gate, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # ENXIO: nobody has it open; ENOENT: it was opened before
            return False
        try:
            os.write(descriptor, b"0")
        except BrokenPipeError:
            return False
        finally:
            os.close(descriptor)
        return True


class Runc(Runtime):
    name = "runc"
    _refusals = (
        re.compile(r'exec: \\?".*?\\?": (?P<reason>[^"]*)'),
        re.compile(r"(?P<reason>chdir to cwd .*)"),
    )
    _failed_start = re.compile(r"(?P<reason>exec \S.*: .*)")

    async def open_gate(self, gate: str) -> bool:
        try:
            descriptor = os.open(gate, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(descriptor, readable.set)
        try:
            async with asyncio.timeout(_GATE_SECONDS):
                await readable.wait()
            return os.read(descriptor, 1) != b""
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


RUNTIMES: tuple[type[Runtime], ...] = (Crun, Runc)


def start_failure(reason: str) -> StartFailure:
    """127 where the reason says that it is not there, else 126."""
    code = NOT_FOUND if _ABSENT.search(reason) else NOT_EXECUTABLE
    return StartFailure(exit_code=code, reason=reason.strip().replace('\\"', '"').removesuffix('"'))


def made_by(name: str) -> Runtime:
    """What lets processes go that the runtime called *name* has created; it need not be installed any more."""
    return next(kind("") for kind in RUNTIMES if kind.name == name)


def installed(only: str = "") -> list[Runtime]:
    """The runtimes that this host has, the faster first; *only* names one, or is the path of a program that behaves
    like the one that its name begins with."""
    found = []
    for kind in RUNTIMES:
        path = find_program(only or kind.name)
        if path and Path(only or kind.name).name.startswith(kind.name):
            found.append(kind(path))
    return found


def find_program(name: str) -> str:
    """Where *name* is, among the usual places whatever our own PATH is; "" for nowhere."""
    return shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") or ""
