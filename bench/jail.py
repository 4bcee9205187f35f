"""Namespaces and a cgroup of its own for each peer, so that nothing of it outlives the benchmark."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from bench.peers import PeerUnavailable

SCRIPT = Path(__file__).with_name("jail.sh")
CGROUPS = Path("/sys/fs/cgroup")
ROOT = Path(__file__).parent.parent


class Jail:
    """A peer's processes. directory: where its state, its sockets and its log go; it is the caller's to remove."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.group = f"{directory.parent.name}-{directory.name}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, cgroup2: bool = True
    ) -> None:
        """Run *argv*. cgroup2=False hides the v2 tree of a hybrid host."""
        self.directory.mkdir()
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("sh", str(SCRIPT), "outer", self.group, "keep" if cgroup2 else "drop", *argv),
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )

    async def until(self, answers: Callable[[], Awaitable[object]], seconds: float = 20) -> None:
        """Wait for the server: *answers* raises OSError until it does. Raises PeerUnavailable with its log's end."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                await answers()
            except (OSError, EOFError) as error:
                reason = str(error)
            else:
                return
            if self._process is None or self._process.returncode is not None:
                raise PeerUnavailable(f"its server ended: {self.last_words()}")
            if asyncio.get_running_loop().time() > deadline:
                raise PeerUnavailable(f"no answer in {seconds:.0f} s ({reason}): {self.last_words()}")
            await asyncio.sleep(0.05)

    async def ended(self, seconds: float) -> None:
        """Wait for its end. Raises PeerUnavailable with its last words where it fails, or takes too long."""
        assert self._process is not None
        try:
            status = await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            raise PeerUnavailable(f"it took more than {seconds:.0f} s: {self.last_words()}") from None
        if status:
            raise PeerUnavailable(f"it ended with {status}: {self.last_words()}")

    def last_words(self) -> str:
        """The last lines that it logged."""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-3:]) or "(it logged nothing)"

    def processes(self) -> frozenset[int]:
        """All that it holds but for what the benchmark itself put there, containers' processes included."""
        inside = {int(line) for path in cgroups(self.group) for line in read(path / "cgroup.procs").split()}
        return frozenset(pid for pid in inside if not _is_ours(_command(pid)))

    async def kill(self) -> None:
        """Kill it with all that it started, and remove its cgroups."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._process = None
        await asyncio.to_thread(remove_cgroups, self.group)


def cgroups(pattern: str) -> list[Path]:
    """The cgroups whose topmost name matches *pattern* (as glob), with all below them, children first."""
    tops = [*CGROUPS.glob(f"*/{pattern}"), *CGROUPS.glob(pattern)]
    return [Path(path) for top in tops for path, _, _ in os.walk(top, topdown=False)]


def remove_cgroups(group: str) -> None:
    """Remove them; a process just killed may hold one for some milliseconds more."""
    for path in cgroups(group):
        for _ in range(200):
            try:
                path.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.01)
            else:
                break


def engine_pss(processes: Iterable[int], container: Sequence[str]) -> int:
    """Bytes of *processes*, shared pages divided among their users, without those that run *container*'s command."""
    return sum(_pss(pid) for pid in processes if _command(pid) != list(container))


def _is_ours(command: Sequence[str]) -> bool:
    return command[:1] == ["tini"] or command[1:3] == ["-m", "bench.spawner"]


def _command(pid: int) -> list[str]:
    return read(Path(f"/proc/{pid}/cmdline")).split("\0")[:-1]


def _pss(pid: int) -> int:
    lines = read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def read(path: Path) -> str:
    """Its text; empty where the process or the group is gone by now."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
