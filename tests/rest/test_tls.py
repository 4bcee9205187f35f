"""The transport: what is not TLS, what takes too long, and certificates that change under way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
import warnings
from pathlib import Path

import aiohttp
import pytest
import tlslab
from apart.cluster import TOGETHER, TOPOLOGIES
from rest.standins import World
from rest.tlsrig import Rig, running

from portlayer.client import connect
from portlayer.components.handles import host_key
from portlayer.compose import read_settings
from portlayer.compose.tls import TlsChoice
from portlayer.model import errors as e
from portlayer.model.access import Identity
from portlayer.model.caller import Caller
from portlayer.model.topology import place, read_topology
from portlayer.rest import tls
from portlayer.rest.passport import HEADER as PASSPORT
from portlayer.rest.server import Server, listening
from portlayer.rest.server.listening import bound
from portlayer.rest.tls import Chain

EVENTS = "/v1/vchs/default/events"
HERE = pytest.mark.parametrize("rig", [TOGETHER], indirect=True)
"""What ends at the listener never comes to a component, wherever that is."""


async def sent(port: int, data: bytes) -> bytes:
    """What comes back for *data*, until the server ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 1000,
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        bytes(range(256)) * 300,
    ],
)
@HERE
async def test_what_is_not_tls_gets_nothing_and_harms_nobody(data: bytes, rig: Rig) -> None:
    async with await rig.session() as session:
        async with session.get("/healthz") as response:
            assert response.status == 200
        for _ in range(20):
            assert b"HTTP" not in await sent(rig.port, data)
        async with session.get("/healthz") as response:
            assert response.status == 200


async def test_a_connection_that_says_nothing_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(world.components)
    monkeypatch.setattr(listening, "HANDSHAKE_SECONDS", 0.2)
    port = await server.listen_tls("127.0.0.1", 0, tlslab.serving())
    before = time.monotonic()
    assert await sent(port, b"\x16\x03\x01") == b""
    assert time.monotonic() - before >= 0.2
    await server.drain(5)


async def test_those_that_say_nothing_keep_nobody_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(world.components)
    monkeypatch.setattr(listening, "MOST_HANDSHAKES", 8)
    port = await server.listen_tls("127.0.0.1", 0, tlslab.serving())
    with contextlib.ExitStack() as held:
        silent = [held.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(50)]
        connector = aiohttp.TCPConnector(ssl=tlslab.calling()())
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"https://127.0.0.1:{port}/healthz") as response,
        ):
            assert response.status == 200
        loop = asyncio.get_running_loop()
        silent[0].setblocking(False)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await loop.sock_recv(silent[0], 1) == b"", "the oldest goes"
    await server.drain(5)


async def test_what_comes_is_met_while_a_listener_stops(world: World) -> None:
    server = Server(world.components)
    await server.listen_tls("127.0.0.1", 0, tlslab.serving())
    port = server._listeners[0].port
    with contextlib.ExitStack() as held:
        for _ in range(20):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        await asyncio.sleep(0)
        await server.drain(5)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port)).close()


async def test_tcp_without_tls_cannot_be(world: World) -> None:
    server = Server(world.components)
    with bound("127.0.0.1", 0) as plain:
        with pytest.raises(e.InvalidArgument, match="TLS alone"):
            await server.listen_socket(plain)
        await server.listen_socket(plain.dup(), tlslab.serving())
        port = plain.getsockname()[1]
        assert b"HTTP" not in await sent(port, b"GET /healthz HTTP/1.1\r\n\r\n")
        with pytest.raises(e.InvalidArgument, match="Nothing can listen"):
            await server.listen_tls("127.0.0.1", port, tlslab.serving())
    await server.drain(5)


def old(context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_1


def without_secrecy(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-GCM-SHA384:ECDHE-ECDSA-AES256-SHA")


@pytest.mark.parametrize(
    ("change", "fine"),
    [
        (lambda context: None, True),
        (lambda context: setattr(context, "maximum_version", ssl.TLSVersion.TLSv1_2), True),
        (lambda context: setattr(context, "minimum_version", ssl.TLSVersion.TLSv1_3), True),
        (old, False),
        (without_secrecy, False),
    ],
)
@HERE
async def test_old_tls_is_refused(change: object, fine: bool, rig: Rig) -> None:
    context = ssl.create_default_context(cadata=await rig.pl.service.authorities())
    context.set_alpn_protocols(["h2", "http/1.1"])
    change(context)  # type: ignore[operator]
    connecting = asyncio.open_connection("127.0.0.1", rig.port, ssl=context, server_hostname="127.0.0.1")
    if not fine:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connecting
        return
    _, writer = await connecting
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.transport.abort()


def shown(port: int, name: str | None = None) -> bytes:
    """The certificate that a server shows who asks for *name*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


async def test_a_certificate_is_renewed_well_before_its_end_while_streams_go_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await rig.issue("vera", "viewer", "default")
    async with await rig.session(held.chain) as session, session.get(EVENTS) as stream:
        assert await stream.content.readline() == b": events follow\n"
        first, calling = await asyncio.to_thread(shown, rig.port), rig.certificates.calling()
        await rig.certificates.refresh()
        assert await asyncio.to_thread(shown, rig.port) == first
        assert rig.certificates.calling() is calling
        now = time.time()
        monkeypatch.setattr("portlayer.compose.tls.time.time", lambda: now + 9 * 3600)
        await rig.certificates.refresh()
        assert await asyncio.to_thread(shown, rig.port) != first
        assert rig.certificates.calling() is not calling
        monkeypatch.undo()
        async with session.get("/v1/info") as response:
            assert response.status == 200
        await rig.pl.network.create_network("seen")
        async with asyncio.timeout(10):
            while b"network.created" not in await stream.content.readline():
                pass


async def test_given_certificates_are_read_again_when_they_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "theirs").mkdir()
    authority = tlslab.Authority(tmp_path / "theirs")
    authority.issue("server")
    cert, key = tmp_path / "theirs" / "server.pem", tmp_path / "theirs" / "server.key"
    async with running(tmp_path, TlsChoice(cert=str(cert), key=str(key))) as rig:
        first = await asyncio.to_thread(shown, rig.port)
        inner = await asyncio.to_thread(shown, rig.port, "process.portlayer.internal")
        assert first == ssl.PEM_cert_to_DER_cert(cert.read_text())
        assert inner != first, "processes know each other by the private CA"
        async with their_session(rig, tmp_path / "theirs" / "ca.pem") as session:
            assert await healthy(session)
            key.rename(tmp_path / "key")
            await rig.certificates.refresh()
            assert "those of before stay" in caplog.text
            assert await asyncio.to_thread(shown, rig.port) == first
            assert await asyncio.to_thread(shown, rig.port, "process.portlayer.internal") != inner, "ours is renewed"
            authority.issue("server")
            await rig.certificates.refresh()
            assert await asyncio.to_thread(shown, rig.port) == ssl.PEM_cert_to_DER_cert(cert.read_text()) != first
            assert await healthy(session)


def their_session(rig: Rig, ca: Path) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=tls.client_side(ca.read_text()))
    return aiohttp.ClientSession(rig.address, connector=connector)


async def healthy(session: aiohttp.ClientSession) -> bool:
    async with session.get("/healthz") as response:
        return response.status == 200


@pytest.mark.parametrize("topology", TOPOLOGIES)
async def test_clients_of_a_given_ca_are_who_the_configuration_says(topology: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    authority = tlslab.Authority(tmp_path / "theirs")
    for name, days in (("vera", 1), ("mallory", 1), ("over", -1)):
        authority.issue(name, days=days)
    clients = {f"CN={name}": Identity(subject=name, role="viewer", vch="default") for name in ("vera", "over")}
    clients["CN=olga,OU=operator"] = Identity(subject="olga", role="operator")
    choice = TlsChoice(client_ca=str(tmp_path / "theirs" / "ca.pem"), clients=clients, names=("127.0.0.1",))
    async with running(tmp_path, choice, topology) as rig:
        assert await rig.status(EVENTS[:-6] + "network/networks", theirs(tmp_path, "vera")) == 200
        assert await rig.status("/v1/tokens", theirs(tmp_path, "vera")) == 403
        assert await rig.status("/v1/info", theirs(tmp_path, "mallory")) == 401
        with pytest.raises(aiohttp.ClientError):
            await rig.status("/v1/info", theirs(tmp_path, "over"))
        ours = await rig.issue("olga", "operator")
        assert await rig.status("/v1/tokens", ours.chain) == 200
        authority.issue("mallory", serial=int(ours.grant.id, 16))
        assert await rig.status("/v1/tokens", theirs(tmp_path, "mallory")) == 401, "a serial number is no proof"
        await rig.pl.service.revoke_certificate(ours.grant.id)
        assert await rig.status("/v1/tokens", ours.chain) == 401, "whatever else its subject is"
        assert '"how":"certificate:' in rig.audit


def theirs(directory: Path, name: str) -> Chain:
    files = directory / "theirs" / f"{name}.pem", directory / "theirs" / f"{name}.key"
    return Chain(certificates=files[0].read_bytes(), key=files[1].read_bytes())


@pytest.mark.parametrize("topology", TOPOLOGIES)
async def test_a_given_ca_makes_no_processes(topology: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    tlslab.Authority(tmp_path / "theirs").issue("vera", process="door")
    clients = {"CN=vera": Identity(subject="vera", role="viewer", vch="default")}
    choice = TlsChoice(client_ca=str(tmp_path / "theirs" / "ca.pem"), clients=clients, names=("127.0.0.1",))
    async with running(tmp_path, choice, topology) as rig:
        caller = Caller(subject="root", role="operator")
        signed = {PASSPORT: rig.cluster.entry.passport.sign(caller, "GET", "/v1/tokens")}
        async with (
            await rig.session(theirs(tmp_path, "vera")) as session,
            session.get("/v1/tokens", headers=signed) as response,
        ):
            assert response.status == 401


async def test_a_stream_ends_with_a_given_certificate(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    tlslab.Authority(tmp_path / "theirs").issue("vera", days=1.5 / 86400)
    clients = {"CN=vera": Identity(subject="vera", role="viewer", vch="default")}
    choice = TlsChoice(client_ca=str(tmp_path / "theirs" / "ca.pem"), clients=clients, names=("127.0.0.1",))
    async with (
        running(tmp_path, choice) as rig,
        await rig.session(theirs(tmp_path, "vera")) as session,
        session.get(EVENTS) as stream,
    ):
        assert stream.status == 200
        async with asyncio.timeout(10):
            with pytest.raises(aiohttp.ClientError):
                while await stream.content.readline():
                    pass


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({}, "of a CA that is not trusted"),
        ({"days": -1}, "has expired"),
        ({"address": "127.0.0.2"}, "for another name"),
    ],
)
async def test_a_client_says_why_it_does_not_trust_a_server(
    own: dict[str, object], words: str, world: World, tmp_path: Path
) -> None:
    authority = tlslab.Authority(tmp_path)
    authority.issue("server", **own)  # type: ignore[arg-type]
    chain = Chain(certificates=(tmp_path / "server.pem").read_bytes(), key=(tmp_path / "server.key").read_bytes())
    context = tls.server_side(chain, None, [])
    server = Server(world.components)
    port = await server.listen_tls("127.0.0.1", 0, lambda: context)
    ca = tmp_path / "ca.pem"
    if not own:
        ca.write_text(tlslab.pem())
    with pytest.raises(e.Unavailable, match=words) as refused:
        async with connect(host=f"https://127.0.0.1:{port}", ca=ca) as pl:
            await pl.service.info()
    assert "PORTLAYER_CA" in refused.value.detail
    assert "retry_after_seconds" not in refused.value.facts
    await server.drain(5)


async def test_the_environment_names_the_files(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = await rig.issue("vera", "user", "default")
    for name, data in (
        ("ca", (await rig.pl.service.authorities()).encode()),
        ("cert", held.chain.certificates),
        ("key", held.chain.key),
        ("both", held.chain.certificates + held.chain.key),
    ):
        (tmp_path / f"{name}.pem").write_bytes(data)
        monkeypatch.setenv(f"PORTLAYER_{name.upper()}", str(tmp_path / f"{name}.pem"))
    async with connect(host=rig.address) as pl:
        await pl.network.create_network("made")
    monkeypatch.delenv("PORTLAYER_KEY")
    async with connect(host=rig.address, cert=tmp_path / "both.pem") as pl:
        assert [network.name for network in await pl.network.list()] == ["made"]
    for cert, words in ((tmp_path / "none", "cannot be read"), (tmp_path / "cert.pem", "no PEM|go together")):
        with pytest.raises(e.InvalidArgument, match=words):
            async with connect(host=rig.address, cert=cert):
                pass
    monkeypatch.delenv("PORTLAYER_CERT")
    with pytest.raises(e.InvalidArgument, match="PORTLAYER_CERT"):
        async with connect(host=rig.address, key=tmp_path / "key.pem"):
            pass


async def test_a_server_that_does_not_take_a_certificate_is_told_of(rig: Rig, tmp_path: Path) -> None:
    tlslab.Authority(tmp_path).issue("client")
    (tmp_path / "pinned.pem").write_text(await rig.pl.service.authorities())
    with pytest.raises(e.Unavailable, match="may be that it does not take the certificate"):
        async with connect(
            host=rig.address, ca=tmp_path / "pinned.pem", cert=tmp_path / "client.pem", key=tmp_path / "client.key"
        ) as pl:
            await pl.service.info()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://10.0.0.2:7443", ("10.0.0.2", 7443)),
        ("https://[::1]:7443", ("::1", 7443)),
        ("https://box.example.org:7443/", ("box.example.org", 7443)),
        ("https://10.0.0.2", None),
        ("https://10.0.0.2:x", None),
        ("https://10.0.0.2:7443/path", None),
        ("https://me@10.0.0.2:7443", None),
        ("http://10.0.0.2:7443", None),
        ("10.0.0.2:7443", None),
        ("https://b\u00fcchse.example:7443", None),
    ],
)
def test_addresses(address: str, expected: tuple[str, int] | None) -> None:
    assert place(address) == expected
    process = {"components": ["storage", "execution", "network", "interaction"], "address": address}
    if expected is None:
        with pytest.raises(e.InvalidArgument, match="address"):
            read_topology({"main": process})
    else:
        assert read_topology({"main": process}).parts[0].is_remote


@pytest.mark.parametrize(
    "text",
    [
        'cert = "x"',
        'key = "x"',
        'clientCa = "x"',
        '[tls.clients."CN=x"]\nrole = "viewer"\nvch = "a"',
        'clientCa = "x"\n[tls.clients."CN=x"]\nrole = "viewer"',
        'names = ["a b"]',
        'names = "a"',
        "more = 1",
    ],
)
def test_tls_settings_that_make_no_sense_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"[tls]\n{text}\n")
    with pytest.raises(e.InvalidArgument, match="tls"):
        read_settings({}, tmp_path / "c.toml")


def test_tls_settings_are_refused_where_nothing_is_reached_so(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[tls]\nnames = ["box"]\n')
    with pytest.raises(e.InvalidArgument, match="no process has one"):
        read_settings({}, tmp_path / "c.toml")


def test_tls_settings(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        '[processes.main]\naddress = "https://box.example:7443"\n'
        '[tls]\ncert = "a"\nkey = "b"\nclientCa = "c"\nnames = ["d.example", "::1"]\n'
        '[tls.clients."CN=vera,O=Example"]\nrole = "viewer"\nvch = "a"\n'
    )
    assert read_settings({}, tmp_path / "c.toml").tls == TlsChoice(
        cert="a",
        key="b",
        client_ca="c",
        names=("d.example", "::1"),
        clients={"CN=vera,O=Example": Identity(subject="CN=vera,O=Example", role="viewer", vch="a")},
    )


def test_a_key_with_a_password_is_refused_without_a_question() -> None:
    with pytest.raises(e.InvalidArgument, match="has a password"):
        tls.client_side(None, Chain(certificates=tlslab.process().certificates, key=tlslab.encrypted_key()))


def test_a_host_key_is_one_and_root_s_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "state" / "host.key"
    secret = host_key(file)
    assert (file.stat().st_mode & 0o777, host_key(file)) == (0o600, secret)
    assert not caplog.text
    file.chmod(0o644)
    assert host_key(file) == secret
    assert "set its mode to 0600" in caplog.text
    file.write_bytes(b"short")
    with pytest.raises(e.Unavailable, match="is no host key"):
        host_key(file)
