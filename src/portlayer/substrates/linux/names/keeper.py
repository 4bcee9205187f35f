"""Starting, adopting and ending the name server, and telling it of networks: from the port layer's own process.

The server is no child to care for: it outlives us, and another of our processes finds it by its socket.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import portlayer
from portlayer.substrates.linux import cgroups, process
from portlayer.substrates.linux.live import make_directories
from portlayer.substrates.linux.names import records
from portlayer.substrates.linux.paths import Paths

# Without site and environment, which would only add to its memory.
_CODE = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from portlayer.substrates.linux.names.server import main; main(*sys.argv[2:])"
)
_GROUP = "names"
_ANSWER_SECONDS = 5.0
_POLL_SECONDS = 0.002
_CREDENTIALS = struct.Struct("3i")
_TOLD = 2000


class Keeper:
    """Used by one thread at a time. Every call is idempotent; OSError where the host fails.

    pidfd: of the server that answered last, for whoever wants to know of its death; -1 for none.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._directory = str(paths.names)
        self._groups = cgroups.detect(paths.instance)
        self.pidfd = -1

    def open(self, network: str, record: records.Network) -> None:
        """Names of network id *network* are answered at its gateways when this returns."""
        make_directories(self._paths)
        if records.read(self._directory, records.NETWORKS, network) != record.text():
            records.write(self._directory, records.NETWORKS, network, record.text())
        problem = self._ask(network)
        if problem:
            records.remove(self._directory, records.NETWORKS, network)
            raise OSError(errno.EADDRINUSE, f"names cannot be served, {problem}; free it from other name servers")

    def close(self, network: str) -> None:
        """Its sockets are closed when this returns."""
        records.remove(self._directory, records.NETWORKS, network)
        with contextlib.suppress(OSError):  # of one that is not there, no socket is open
            self._asked(network)

    def served(self, networks: Iterable[str]) -> set[str]:
        """Those of *networks* whose names are answered."""
        found = set()
        with contextlib.suppress(OSError):  # none more, by a server that is not there or hangs
            for network in networks:
                if records.read(self._directory, records.NETWORKS, network) is not None and not self._asked(network):
                    found.add(network)
        return found

    def revive(self) -> None:
        """Where networks have names, the server runs."""
        if self._networks():
            self._ask("")

    def running(self) -> list[process.Process]:
        """The server; none where it does not run."""
        return [*process.find(_CODE, self._directory)]

    def stop(self) -> None:
        """End the server, and forget the networks."""
        for network in self._networks():
            records.remove(self._directory, records.NETWORKS, network)
        self._kill()
        self._groups.dissolve(_GROUP)

    def release(self) -> None:
        """Let go of what is ours; the server runs on."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def complaints(self) -> str:
        """The last words of the server."""
        log = Path(self._directory, records.LOG)
        return log.read_text(errors="replace")[-_TOLD:].strip() if log.exists() else ""

    def _networks(self) -> list[str]:
        directory = Path(self._directory, records.NETWORKS)
        return [path.name for path in directory.iterdir()] if directory.exists() else []

    def _ask(self, network: str) -> str:
        """What hinders *network*; one that does not answer is replaced by another."""
        try:
            return self._asked(network)
        except OSError:
            self._kill()
            self._start()
            return self._asked(network)

    def _asked(self, network: str) -> str:
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_ANSWER_SECONDS)
                connection.connect(f"/proc/self/fd/{directory}/{records.SOCKET}")  # paths of sockets are short
                self._watch(connection)
                connection.sendall(f"{network}\n".encode())
                answer = connection.recv(_TOLD)
        finally:
            os.close(directory)
        if not answer:
            raise ConnectionResetError(errno.ECONNRESET, "the name server has gone")
        return answer.decode().strip()

    def _watch(self, connection: socket.socket) -> None:
        """Whose death means that names are not answered: it listens on the socket that we are connected to."""
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        descriptor = os.pidfd_open(_CREDENTIALS.unpack(credentials)[0])
        self.release()
        self.pidfd = descriptor

    def _start(self) -> None:
        """Start it, in a session and a group of its own, and wait until it listens."""
        source = Path(portlayer.__file__).parents[1]
        command = [sys.executable, "-I", "-S", "-c", _CODE, str(source), self._directory, str(self._paths.live)]
        log = str(Path(self._directory, records.LOG))
        pid = os.posix_spawn(
            *(command[0], command, {}),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                self._asked("")
            except OSError as error:
                if os.waitpid(pid, os.WNOHANG)[0] or time.monotonic() > deadline:
                    told = self.complaints().rpartition("\n")[2] or str(error)
                    raise OSError(errno.ECONNREFUSED, f"the name server does not start: {told}") from error
                time.sleep(_POLL_SECONDS)
            else:
                break
        self._groups.keep(_GROUP, pid)

    def _kill(self) -> None:
        """It is gone when this returns."""
        for one in self.running():
            descriptor = process.open_pidfd(one)
            if descriptor is not None:
                process.send_signal(one, signal.SIGKILL)
                select.select([descriptor], [], [], _ANSWER_SECONDS)
                os.close(descriptor)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(one.pid, os.WNOHANG)
        self.release()
