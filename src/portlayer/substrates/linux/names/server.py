"""The name server's process: `python -c CODE SOURCE NAMES LIVE`, see `keeper`.

Before each answer it reads what has changed in its records, of which inotify told before whoever changed them went on:
so an answer is never older than the commit before it.
"""

# ruff: noqa: PTH118, PTH208
from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Callable
from functools import partial

from portlayer.substrates.linux import kernel
from portlayer.substrates.linux.names import book, records, wire
from portlayer.substrates.linux.names.forward import PORT, Forwarded, HostResolvers
from portlayer.substrates.linux.names.listening import listen
from portlayer.substrates.linux.names.loop import Loop, Waiting

_EVENT = struct.Struct("iIII")
_LARGEST = 65536
_MOST_FORWARDED = 256  # from one network, so that none can use up what others need
_WAITING = 16


class Server:
    """directory: `records`' own. live: where incarnations and exits stand."""

    def __init__(self, directory: str, live: str) -> None:
        self.loop = Loop()
        self._directory = directory
        self._live = live
        self._book = book.Book()
        self._host_resolvers = HostResolvers()
        self._sockets: dict[str, list[Waiting]] = {}
        self._problems: dict[str, str] = {}
        self._forwarded: dict[str, int] = {}
        self._networks = _follow(directory, records.NETWORKS)
        self._incarnations = _follow(directory, records.INCARNATIONS)
        self.loop.call(self._networks, self.refresh)  # a new network wants sockets though nobody asks it yet
        self._read_all()

    def refresh(self) -> None:
        """Read what has changed since the last time. Of incarnations the kernel remembers it until somebody asks, so
        that a start and an end wake nobody here; where it has forgotten some, all are read."""
        for changes, read in ((self._networks, self._read_network), (self._incarnations, self._read_incarnation)):
            names, all_told = _changed(changes)
            if not all_told:
                self._read_all()
            for name in names:
                read(name)

    def problem(self, network: str) -> str:
        """Why *network* has no names; empty where it has. What failed before is tried again."""
        if network in self._problems:
            self._open(network)
        return self._problems.get(network, "")

    def _read_all(self) -> None:
        for kind, known, read in (
            (records.NETWORKS, list(self._book.networks), self._read_network),
            (records.INCARNATIONS, self._book.incarnations(), self._read_incarnation),
        ):
            for name in {*known, *os.listdir(os.path.join(self._directory, kind))}:
                read(name)

    def _read_incarnation(self, name: str) -> None:
        text = records.read(self._directory, records.INCARNATIONS, name)
        if text is None:
            self._book.drop(name)
        else:
            self._book.put(name, records.read_incarnation(text))

    def _read_network(self, name: str) -> None:
        self._close(name)
        text = records.read(self._directory, records.NETWORKS, name)
        if text is None:
            self._book.networks.pop(name, None)
        else:
            self._book.networks[name] = records.read_network(text)
            self._open(name)

    def _open(self, network: str) -> None:
        """Listen on all gateways of *network*; on none where one cannot be had."""
        known = self._book.networks[network]
        self._problems.pop(network, None)
        sockets = self._sockets[network] = []
        for gateway in known.gateways:
            try:
                sockets += listen(self.loop, known.bridge, gateway, partial(self.handle, network))
            except OSError as error:
                self._close(network)
                self._problems[network] = f"port {PORT} of {gateway}: {error.strerror}"
                return

    def _close(self, network: str) -> None:
        self._problems.pop(network, None)
        for waiting in self._sockets.pop(network, ()):
            self.loop.drop(waiting)

    def handle(self, network: str, source: bytes, message: bytes, answer: Callable[[bytes], None], limit: int) -> None:
        """*message* came from *source* to a gateway of *network*; *answer* is called once at most, maybe later."""
        try:
            question = wire.Question(message)
        except wire.Malformed as error:
            if error.answer:
                answer(error.answer)
            return
        self.refresh()
        asking = [one for one in self._book.who(network, source) if self._runs(one)]
        if not asking:
            answer(question.answer(wire.REFUSED, [], limit))
            return
        networks = self._book.networks_of(asking[0], network)
        found = self._known(networks, question) if question.klass in {wire.INTERNET, wire.ANY} else None
        if found is not None:
            answer(question.answer(wire.NO_ERROR, found, limit))
            return
        resolvers = self._book.resolvers(networks, self._host_resolvers())
        if resolvers:
            self._forward(network, question, message, resolvers, answer, limit)
        else:
            answer(question.answer(wire.NO_SUCH_NAME, [], limit))

    def _known(self, networks: list[str], question: wire.Question) -> list[wire.Record] | None:
        """What we know of the name: nothing, where that is not of the kind that was asked for; None: it is not ours."""
        address = book.address_in(question.name)
        if address is not None:
            found = [place for one, place in self._book.at(networks, address) if self._runs(one)]
            names = [(wire.PTR, self._book.full_name(place)) for place in found]
            return [one for one in names if question.kind in {wire.PTR, wire.ANY}] if names else None
        named = [place for one, place in self._book.named(networks, question.name) if self._runs(one)]
        if not named:
            return None
        all_of_it = dict.fromkeys(records.packed(address) for place in named for address in place.addresses)
        answers = [(wire.A if len(one) == 4 else wire.AAAA, one) for one in all_of_it]
        answers = [one for one in answers if question.kind in {one[0], wire.ANY}]
        turn = question.number % len(answers) if answers else 0
        return answers[turn:] + answers[:turn]  # by chance somebody else is the first each time

    def _runs(self, incarnation: str) -> bool:
        """Whether it was let go and has not ended."""
        return os.access(f"{self._live}/incarnations/{incarnation}/released", os.F_OK) and not os.access(
            f"{self._live}/exits/{incarnation}", os.F_OK
        )

    def _forward(
        self,
        network: str,
        question: wire.Question,
        message: bytes,
        resolvers: tuple[str, ...],
        answer: Callable[[bytes], None],
        limit: int,
    ) -> None:
        if self._forwarded.get(network, 0) >= _MOST_FORWARDED:
            answer(question.answer(wire.SERVER_FAILURE, [], limit))
            return
        self._forwarded[network] = self._forwarded.get(network, 0) + 1

        def done(found: bytes) -> None:
            self._forwarded[network] -= 1
            answer(found)

        Forwarded(self.loop, message, question, resolvers, done, over_tcp=limit > wire.LARGEST_UDP)


def _follow(directory: str, kind: str) -> int:
    """A descriptor that tells of changes of *kind*."""
    descriptor = kernel.inotify_init()
    kernel.inotify_add_watch(descriptor, os.path.join(directory, kind), kernel.IN_MOVED_TO | kernel.IN_DELETE)
    return descriptor


def _changed(descriptor: int) -> tuple[dict[str, None], bool]:
    """The names of what has changed, in order, and whether these are all."""
    names: dict[str, None] = {}
    all_told = True
    while events := _read(descriptor):
        place = 0
        while place < len(events):
            _, mask, _, length = _EVENT.unpack_from(events, place)
            place += _EVENT.size + length
            if mask & kernel.IN_Q_OVERFLOW:
                all_told = False
            else:
                names[events[place - length : place].rstrip(b"\0").decode()] = None
    return names, all_told


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _LARGEST)
    except BlockingIOError:
        return b""


class Control(Waiting):
    """Where the port layer asks whether a network is served: it sends its id in a line, and reads a line with what is
    wrong, empty for nothing."""

    def __init__(self, own: socket.socket, server: Server) -> None:
        self.socket = own
        self._server = server

    def ready(self) -> None:
        accepted, _ = self.socket.accept()
        accepted.setblocking(False)
        self._server.loop.add(Asking(accepted, self._server))


class Asking(Waiting):
    """One connection of it."""

    def __init__(self, own: socket.socket, server: Server) -> None:
        self.socket = own
        self._server = server

    def ready(self) -> None:
        line = self.socket.recv(_LARGEST)
        if not line:
            self._server.loop.drop(self)
            return
        self._server.refresh()
        self.socket.send(f"{self._server.problem(line.decode().strip())}\n".encode())


def main(directory: str, live: str) -> None:
    """Serve until killed."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.chdir(directory)  # the path of a socket may only have 108 bytes
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    server = Server(directory, live)
    records.remove(directory, "", records.SOCKET)  # of one that was killed
    control.bind(records.SOCKET)
    control.listen(_WAITING)
    server.loop.add(Control(control, server))
    server.loop.run()
