"""Which OCI runtime works here, found out by running a container with it; remembered until runtime or boot changes.

The container's program is a few dozen bytes that we write ourselves, for a host need not have any that runs alone.
Source of its layout: elf(5). It exits with 42.
"""

from __future__ import annotations

import asyncio
import platform
import shutil
import struct
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from portlayer.interfaces.substrate import Observation, StartFailure
from portlayer.model.base import Value, now
from portlayer.model.errors import PortlayerError, Unavailable
from portlayer.model.execution import ContainerImage, ContainerSpec, Process
from portlayer.model.names import new_id
from portlayer.substrates.linux import shim
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.runtime import Runtime, find_program, installed

_EXIT_CODE = 42
_SECONDS = 30.0
_PROGRAMS = {  # machine -> ELF's number for it, exit_group(42)
    "x86_64": (62, bytes.fromhex("b8e7000000 bf2a000000 0f05")),
    "aarch64": (183, bytes.fromhex("400580d2 c80b80d2 010000d4")),
}
Try = Callable[[Runtime, ContainerSpec, str], Awaitable[Observation | StartFailure]]


class Chosen(NamedTuple):
    """The runtime, ready to use, and what it calls itself."""

    runtime: Runtime
    version: str


class _Remembered(Value):
    """key: of the host as it was when this was found out. sealed: whether it works from memory."""

    key: list[str]
    path: str
    sealed: bool
    version: str


async def choose(paths: Paths, only: str, try_it: Try) -> Chosen:
    """The fastest that works; *only* names the one to use. Raises Unavailable with what each one said."""
    if not shim.is_there():
        raise Unavailable(f"The shim, which holds the containers' streams, is not there: {shim.REMEDY}.")
    memory = paths.run / "runtime.json"
    runtimes = installed(only)
    key = [only, _boot(), *(_stamp(runtime.path) for runtime in runtimes), _stamp(shim.PROGRAM)]
    remembered = _recall(memory)
    if remembered is not None and remembered.key == key:
        runtime = next(runtime for runtime in runtimes if runtime.path == remembered.path)
        if not remembered.sealed or runtime.seal():
            return Chosen(runtime, remembered.version)
    chosen, sealed = await _first_that_works(paths, runtimes, try_it)
    version = await asyncio.to_thread(_version, chosen)
    memory.write_bytes(msgspec.json.encode(_Remembered(key=key, path=chosen.path, sealed=sealed, version=version)))
    return Chosen(chosen, version)


async def _first_that_works(paths: Paths, runtimes: list[Runtime], try_it: Try) -> tuple[Runtime, bool]:
    failures = []
    for runtime, sealed in _ways(runtimes):
        failure = await _failure(paths, runtime, try_it)
        if not failure:
            return runtime, sealed
        runtime.close()
        failures.append(f"{runtime.path}{' from memory' if sealed else ''}: {failure}")
    said = "; ".join(failures) or "none is installed"
    raise Unavailable(f"No OCI runtime works on this host ({said}). Install another: apt install crun runc.")


def _ways(runtimes: list[Runtime]) -> Iterator[tuple[Runtime, bool]]:
    for runtime in runtimes:
        if runtime.seal():
            yield runtime, True
        yield runtime, False


async def _failure(paths: Paths, runtime: Runtime, try_it: Try) -> str:
    """Why *runtime* does not work; "" where it does."""
    container = new_id()
    root = paths.rootfs(container)
    root.mkdir(parents=True)
    try:
        _write_program(root / "probe")
        async with asyncio.timeout(_SECONDS):
            seen = await try_it(runtime, _specification(container), new_id())
    except TimeoutError:
        return f"nothing came of it within {_SECONDS:g} s"
    except PortlayerError as error:
        return error.detail
    finally:
        for path in (root.parent, paths.container(container)):
            shutil.rmtree(path, ignore_errors=True)
    return "" if seen.exit_code == _EXIT_CODE else f"a program that exits with {_EXIT_CODE} ended as {seen}"


def _specification(container: str) -> ContainerSpec:
    return ContainerSpec(
        id=container,
        vch="",
        name="probe",
        image=ContainerImage(id="", name="", layers=()),
        process=Process(args=("/probe",), env=()),
        hostname="probe",
        created_at=now(),
        substrate="linux",
        host="",
    )


def _write_program(path: Path) -> None:
    if platform.machine() in _PROGRAMS:
        path.write_bytes(_executable(*_PROGRAMS[platform.machine()]))
    else:
        shell = find_program("busybox")
        if not shell:
            raise Unavailable("The probe of the OCI runtime needs a program: apt install busybox-static.")
        path.with_name("busybox").write_bytes(Path(shell).read_bytes())
        path.with_name("busybox").chmod(0o755)
        path.write_text(f"#!/busybox sh\nexit {_EXIT_CODE}\n")
    path.chmod(0o755)


def _executable(machine: int, code: bytes) -> bytes:
    """A static 64-bit little-endian ELF program with one segment that holds the headers and *code*."""
    base, header, segment = 0x40_0000, 64, 56
    start = header + segment
    size = start + len(code)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    return (
        identity
        + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, base + start, header, 0, 0, header, segment, 1, 0, 0, 0)
        + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
        + code
    )


def _recall(memory: Path) -> _Remembered | None:
    try:
        return msgspec.json.decode(memory.read_bytes(), type=_Remembered)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stamp(program: str) -> str:
    status = Path(program).stat()
    return f"{program} {status.st_size} {status.st_mtime_ns}"


def _version(runtime: Runtime) -> str:
    said = subprocess.run([runtime.path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    words = said.stdout.partition("\n")[0].split()
    return f"{runtime.name} {words[-1] if words else 'of unknown version'}"
