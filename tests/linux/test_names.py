"""The name server, as containers see it who send it messages, good and bad ones."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linux import dnslab, netlab
from linux.dnslab import AAAA, MX, PTR, Answer, question, read_answer
from linux.netlab import Lab, Machine, endpoint, network, until

from portlayer.model.errors import SubstrateFailed
from portlayer.model.network import NetworkSpec, Port
from portlayer.substrates.linux.incarnation import Incarnation
from portlayer.substrates.linux.names import wire
from portlayer.substrates.linux.names.book import Book, address_in
from portlayer.substrates.linux.names.records import Network, Place
from portlayer.substrates.linux.network import LinuxNetwork

OK, FORMAT, FAILED, UNKNOWN, NOT_IMPLEMENTED, REFUSED = range(6)
GATEWAY = "10.210.1.1"
LARGEST_MEGABYTES = 12


@pytest.fixture
def lab(tmp_path) -> Iterator[Lab]:
    with netlab.fresh_host():
        lab = Lab(tmp_path)
        yield lab
        lab.close()


@pytest.fixture
async def driver(lab) -> AsyncIterator[LinuxNetwork]:
    async with another(lab) as driver:
        yield driver
    log = lab.paths.names / "log"
    assert not log.exists() or not log.read_text()
    async with another(lab) as last:
        await last.purge()
        assert await last.leftovers() == []
        assert server(lab) == []


@asynccontextmanager
async def another(lab: Lab) -> AsyncIterator[LinuxNetwork]:
    """The driver of another process of ours."""
    driver = LinuxNetwork(lab.paths)
    await driver.start()
    await driver.serve_names()
    try:
        yield driver
    finally:
        await driver.close()


async def enter(lab: Lab, driver: LinuxNetwork, net: NetworkSpec, last: int, *names: str) -> Machine:
    """A running container at address <last> of *net*, called *names*."""
    machine = lab.machine()
    made = endpoint(net, last)
    await driver.make_network(net)
    await driver.plug(machine.id, machine.incarnation, made, net)
    call(lab, machine, Place(net.id, (made.address,), (*names, machine.id[:12])))
    (lab.paths.incarnation(machine.incarnation) / "released").touch()
    return machine


def call(lab: Lab, machine: Machine, *places: Place) -> None:
    Incarnation(lab.paths, machine.incarnation).name(places)


def exchange(machine: Machine, *messages: bytes, tcp: bool = False, to: str = GATEWAY) -> list[bytes]:
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    return dnslab.exchange(machine.inside(lambda: socket.socket(socket.AF_INET, kind)), to, *messages)


def ask(machine: Machine, name: str, kind: int = dnslab.A, *, tcp: bool = False, to: str = GATEWAY) -> Answer:
    return read_answer(exchange(machine, question(name, kind), tcp=tcp, to=to)[0])


def server(lab: Lab) -> list[int]:
    """The pids of name servers of this instance."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(lab.paths.names) in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def kilobytes(pid: int) -> int:
    """The memory of a process, what it shares divided by those who do."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


def upstream(machine: Machine, address: str) -> Callable[[int], socket.socket]:
    def bind(kind: int) -> socket.socket:
        made = machine.inside(lambda: socket.socket(socket.AF_INET, kind))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, 53))
        return made

    return bind


class TestAnswers:
    async def test_of_both_families_each_where_it_belongs(self, lab, driver):
        net = network()
        a = await enter(lab, driver, net, 2, "web")
        assert ask(a, "web").found == ["10.210.1.2"]
        assert ask(a, "web", AAAA) == Answer(OK, [], False, 7)
        call(lab, a, Place(net.id, ("10.210.1.2", "fd00::2"), ("web", "w")))
        assert ask(a, "web").found == ["10.210.1.2"]
        assert ask(a, "web", AAAA).found == ["fd00::2"]
        assert sorted(ask(a, "web", 255).found) == ["10.210.1.2", "fd00::2"]
        assert ask(a, "web", MX) == Answer(OK, [], False, 7)
        reverse = ".".join(reversed("fd000000000000000000000000000002")) + ".ip6.arpa"
        assert ask(a, reverse, PTR).found == ["web.n1"]
        assert ask(a, "2.1.210.10.in-addr.arpa", PTR).found == ["web.n1"]

    async def test_over_tcp_several_in_one_connection(self, lab, driver):
        a = await enter(lab, driver, network(), 2, "web")
        answers = exchange(a, *(question("web", number=number) for number in range(20)), tcp=True)
        assert [read_answer(one) for one in answers] == [Answer(OK, ["10.210.1.2"], False, n) for n in range(20)]

    async def test_what_does_not_fit_is_told_whole_over_tcp(self, lab, driver):
        net = network()
        a = await enter(lab, driver, net, 2, "web")
        everybody = tuple(f"10.210.1.{last}" for last in range(2, 100))
        call(lab, a, Place(net.id, everybody, ("web", "w")))
        (cut,) = exchange(a, question("web"))
        assert len(cut) <= 512
        assert read_answer(cut).more
        whole = ask(a, "web", tcp=True)
        assert not whole.more
        assert sorted(whole.found) == sorted(everybody)

    async def test_the_first_of_several_changes(self, lab, driver):
        net = network()
        a = await enter(lab, driver, net, 2, "one", "web")
        await enter(lab, driver, net, 3, "two", "web")
        answers = exchange(a, *(question("web", number=number) for number in range(2)))
        assert {read_answer(one).found[0] for one in answers} == {"10.210.1.2", "10.210.1.3"}

    async def test_a_name_is_found_the_instant_it_is_written(self, lab, driver):
        net = network()
        a = await enter(lab, driver, net, 2, "web")
        for number in range(300):
            call(lab, a, Place(net.id, ("10.210.1.2",), (f"n{number}", "w")))
            assert ask(a, f"n{number}").found == ["10.210.1.2"]
        assert ask(a, "n298").code != OK

    async def test_names_that_dns_cannot_say_have_an_address_all_the_same(self, lab, driver):
        net = network()
        a = await enter(lab, driver, net, 2, "..a.." + "b" * 100)
        assert ask(a, "2.1.210.10.in-addr.arpa", PTR).found == [f"{a.id[:12]}.n1"]

    async def test_strangers_are_told_nothing(self, lab, driver):
        net, other = network(1), network(2)
        await enter(lab, driver, net, 2, "web")
        b = await enter(lab, driver, other, 2, "b")
        b.ip("addr", "add", "10.210.2.77/24", "dev", "eth0")
        made = b.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind(("10.210.2.77", 0))
        assert read_answer(dnslab.exchange(made, "10.210.2.1", question("b"))[0]).code == REFUSED
        assert b.fails_to_reach(GATEWAY, 53)  # nobody listens there for who is not on that bridge

    async def test_a_published_port_53_gets_no_questions_of_others(self, lab, driver):
        net, other = network(1), network(2)
        a = await enter(lab, driver, net, 2, "web")
        ports = [Port(container_port=53, host_port=53, protocol=kind) for kind in ("udp", "tcp")]
        thief, made = lab.machine(), endpoint(other, 2, *ports)
        await driver.make_network(other)
        await driver.plug(thief.id, thief.incarnation, made, other)
        with dnslab.resolver(upstream(thief, "10.210.2.2"), dnslab.says("192.0.2.66")) as asked:
            assert ask(a, "web").found == ["10.210.1.2"]
            assert ask(a, "web", tcp=True).found == ["10.210.1.2"]
        assert asked == []


class TestBadMessages:
    async def test_they_are_refused_and_good_ones_answered_after_them(self, lab, driver):
        a = await enter(lab, driver, network(), 2, "web")
        loop = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + b"\xc0\x0c" + struct.pack("!HH", 1, 1)
        for message, code in (
            (loop, FORMAT),
            (question("web")[:-3], FORMAT),
            (struct.pack("!6H", 7, 0x100, 0, 0, 0, 0), FORMAT),
            (question("web", number=7).replace(b"\x00\x01\x00\x00", b"\x00\x02\x00\x00", 1), FORMAT),
            (b"\x00\x07\x28\x00" + question("web")[4:], NOT_IMPLEMENTED),
            (question(".".join(["a" * 63] * 4)), FORMAT),
        ):
            for tcp in (False, True):
                assert read_answer(exchange(a, message, tcp=tcp)[0])[::3] == (code, 7)
        silent = [b"", b"\x00", b"\x00\x07\x81\x80" + question("web")[4:]]
        answers = exchange(a, question("web"))
        with a.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as made:
            made.connect((GATEWAY, 53))
            for message in (*silent, question("web")):
                made.send(message)
            assert made.recv(512) == answers[0]

    async def test_edns_is_not_spoken_and_does_not_hurt(self, lab, driver):
        a = await enter(lab, driver, network(), 2, "web")
        option = b"\0" + struct.pack("!HHIH", 41, 4096, 0, 0)
        (plain,) = exchange(a, question("web"))
        assert exchange(a, question("web", tail=option, additional=1)) == [plain]

    async def test_a_connection_that_says_nothing_holds_nobody_up(self, lab, driver):
        a = await enter(lab, driver, network(), 2, "web")
        idle = [a.inside(netlab.client) for _ in range(80)]
        for one in idle:
            one.connect((GATEWAY, 53))
        assert ask(a, "web").found == ["10.210.1.2"]
        for one in idle:
            one.close()
        until(lambda: ask(a, "web", tcp=True).found)


class TestOtherNames:
    async def test_they_are_asked_of_the_networks_own_servers(self, lab, driver):
        outside = lab.outside()
        a = await enter(lab, driver, network(dns=("198.51.100.9", "198.51.100.2")), 2, "web")
        with dnslab.resolver(upstream(outside, "198.51.100.2"), dnslab.says("192.0.2.7")) as asked:
            assert ask(a, "example.org", tcp=True).found == ["192.0.2.7"]
            assert ask(a, "Example.ORG").found == ["192.0.2.7"]
            assert ask(a, "web").found == ["10.210.1.2"]
        assert [message[12:] for message in asked] == [question(name)[12:] for name in ("example.org", "Example.ORG")]

    async def test_a_server_that_fails_is_passed_over(self, lab, driver):
        outside = lab.outside()
        outside.ip("addr", "add", "198.51.100.2/32", "dev", "lo")
        outside.ip("addr", "add", "203.0.113.1/32", "dev", "lo")
        netlab.ip("route", "add", "203.0.113.0/24", "via", "198.51.100.2")
        a = await enter(lab, driver, network(dns=("203.0.113.2", "203.0.113.1", "198.51.100.2")), 2, "web")
        with (
            dnslab.resolver(upstream(outside, "203.0.113.1"), dnslab.says("192.0.2.8", code=FAILED)) as first,
            dnslab.resolver(upstream(outside, "198.51.100.2"), dnslab.says("192.0.2.7")) as second,
        ):
            assert ask(a, "example.org").found == ["192.0.2.7"]
        assert (len(first), len(second)) == (1, 1)

    async def test_where_nobody_answers_that_is_told(self, lab, driver):
        lab.outside()
        a = await enter(lab, driver, network(dns=("198.51.100.2",)), 2, "web")
        assert ask(a, "example.org") == Answer(FAILED, [], False, 7)
        assert ask(a, "example.org", tcp=True) == Answer(FAILED, [], False, 7)

    async def test_forged_answers_are_not_believed(self, lab, driver):
        outside = lab.outside()
        a = await enter(lab, driver, network(dns=("198.51.100.2",)), 2, "web")

        def forge(message: bytes) -> bytes:
            return bytes((message[0] ^ 1,)) + dnslab.says("192.0.2.66")(message)[1:]

        with dnslab.resolver(upstream(outside, "198.51.100.2"), forge):
            assert ask(a, "example.org").code == FAILED

    async def test_an_internal_network_knows_no_others(self, lab, driver):
        outside = lab.outside()
        a = await enter(lab, driver, network(internal=True, dns=("198.51.100.2",)), 2, "web")
        with dnslab.resolver(upstream(outside, "198.51.100.2"), dnslab.says("192.0.2.7")) as asked:
            assert ask(a, "example.org").code == UNKNOWN
        assert asked == []


class TestLife:
    async def test_it_is_small(self, lab, driver):
        await enter(lab, driver, network(), 2, "web")
        assert kilobytes(server(lab)[0]) < LARGEST_MEGABYTES * 1024

    async def test_killed_it_comes_back_by_itself(self, lab, driver):
        a = await enter(lab, driver, network(), 2, "web")
        for _ in range(3):
            (pid,) = server(lab)
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(until, lambda gone=pid: gone not in server(lab) and _answers(a))

    async def test_it_runs_on_without_us_and_is_adopted(self, lab, driver):
        a = await enter(lab, driver, network(), 2, "web")
        before = server(lab)
        await driver.close()
        assert ask(a, "web").found == ["10.210.1.2"]
        async with another(lab):
            assert server(lab) == before
        os.kill(before[0], signal.SIGKILL)
        until(lambda: not server(lab))
        async with another(lab) as last:
            assert server(lab) not in ([], before)
            assert ask(a, "web").found == ["10.210.1.2"]
            await last.purge()

    async def test_one_that_hangs_is_replaced(self, lab, driver):
        a = await enter(lab, driver, network(1), 2, "web")
        (pid,) = server(lab)
        os.kill(pid, signal.SIGSTOP)
        await driver.make_network(network(2))
        assert server(lab) != [pid]
        assert ask(a, "web").found == ["10.210.1.2"]

    async def test_networks_come_and_go(self, lab, driver):
        first, second = network(1), network(2)
        a = await enter(lab, driver, first, 2, "web")
        b = await enter(lab, driver, second, 2, "other")
        assert ask(b, "other", to="10.210.2.1").found == ["10.210.2.2"]
        (pid,) = server(lab)
        before = descriptors(pid)
        await driver.remove_network(second.id)
        until(lambda: descriptors(pid) <= before - 2)  # who tells it of networks has a connection for a moment
        assert ask(a, "web").found == ["10.210.1.2"]
        await driver.remove_network(first.id)
        assert server(lab) == []

    async def test_a_bridge_that_was_made_again_has_names(self, lab, driver):
        net = network()
        await driver.make_network(net)
        (bridge,) = netlab.links() - {"lo"}
        netlab.ip("link", "del", bridge)
        a = await enter(lab, driver, net, 2, "web")
        await driver.plug(a.id, a.incarnation, endpoint(net, 2), net)
        assert ask(a, "web").found == ["10.210.1.2"]

    async def test_a_port_that_others_hold_is_told(self, lab, driver):
        net = network()
        with netlab.listen(53), pytest.raises(SubstrateFailed, match=r"port 53 of 10\.210\.1\.1.*in use"):
            await driver.make_network(net)
        a = await enter(lab, driver, net, 2, "web")
        assert ask(a, "web").found == ["10.210.1.2"]


def _answers(machine: Machine) -> bool:
    made = machine.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    try:
        return read_answer(dnslab.exchange(made, GATEWAY, question("web"), seconds=1)[0]).code == OK
    except OSError:
        return False


class TestWire:
    @given(st.binary(max_size=600))
    def test_any_bytes_are_read_or_refused(self, message: bytes) -> None:
        _read(message)

    @given(st.binary(max_size=300), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
    def test_any_bytes_after_a_header_are_read_or_refused(self, rest: bytes, flags: int, number: int) -> None:
        _read(struct.pack("!6H", number, flags & 0x7FFF, 1, 0, 0, 0) + rest)

    @given(
        st.lists(st.text("aB-_.\\é", min_size=1, max_size=63), max_size=4),
        st.lists(st.sampled_from([(1, b"1234"), (28, b"1234567890123456")]), max_size=60),
        st.sampled_from([512, 65535]),
    )
    def test_answers_hold_what_fits(self, labels: list[str], records: list[wire.Record], limit: int) -> None:
        encoded = [label.encode("latin-1") for label in labels]
        packed = b"".join(bytes((len(label),)) + label for label in encoded) + b"\0"
        message = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + packed + struct.pack("!HH", 1, 1)
        if len(packed) > 255:
            with pytest.raises(wire.Malformed):
                wire.Question(message)
            return
        made = wire.Question(message)
        assert made.name == b".".join(encoded).lower().decode("latin-1")
        answer = made.answer(OK, records, limit)
        read = read_answer(answer)
        assert len(answer) <= limit
        assert read.more == (len(read.found) < len(records))

    @given(st.text(st.characters(max_codepoint=255), max_size=300), st.text("ab.-", max_size=300))
    def test_names_are_packed_or_not_at_all(self, first: str, second: str) -> None:
        packed = wire.pack_name(first, second)
        assert not packed or (len(packed) <= 255 and packed.endswith(b"\0") and b"\0" not in packed[:1])

    @given(st.text("0123456789abcdef.x ", max_size=80), st.sampled_from([".in-addr.arpa", ".ip6.arpa", ""]))
    def test_any_name_is_an_address_or_none(self, text: str, suffix: str) -> None:
        assert len(address_in(text + suffix) or b"1234") in {4, 15, 16} or "ip6" in suffix

    @given(st.ip_addresses())
    def test_addresses_are_found_in_their_reverse(self, address) -> None:
        assert address_in(address.reverse_pointer) == address.packed


class TestBook:
    @given(
        st.lists(
            st.tuples(
                st.sampled_from("ijk"),
                st.lists(st.tuples(st.sampled_from("nm"), st.sampled_from("abc"), st.integers(1, 3)), max_size=3),
            ),
            max_size=12,
        )
    )
    def test_it_says_what_was_put_last(self, puts: list[tuple[str, list[tuple[str, str, int]]]]) -> None:
        book, truth = Book(), dict(puts)
        book.networks["n"] = Network("left", "b", 1, ())
        for incarnation, places in puts:
            book.put(incarnation, tuple(Place(net, (f"10.0.0.{last}",), (name,)) for net, name, last in places))
        for net in "nm":
            for name in "abc":
                found = sorted(one for one, _ in book.named([net], name))
                assert found == sorted(
                    one for one, places in truth.items() for n, a, _ in places if (n, a) == (net, name)
                )
            for last in range(1, 4):
                found = sorted(book.who(net, bytes((10, 0, 0, last))))
                assert found == sorted(
                    one for one, places in truth.items() for n, _, x in places if (n, x) == (net, last)
                )
        for incarnation in truth:
            book.drop(incarnation)
        assert book.named(["n", "m"], "a") == []


def _read(message: bytes) -> None:
    try:
        made = wire.Question(message)
    except wire.Malformed as error:
        if error.answer:
            assert read_answer(error.answer).number == int.from_bytes(message[:2], "big")
    else:
        assert read_answer(made.answer(OK, [(1, b"1234")], 512)).found == ["49.50.51.52"]
