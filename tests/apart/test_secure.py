"""Processes that reach each other over TLS: who calls stays known, and what proves it ends all that it began."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import tlslab
from apart.cluster import REMOTE, Cluster, opened
from apart.test_topologies import furnish

from portlayer.cli.signing import Key
from portlayer.client import PortLayer, Steps, connect
from portlayer.components import keys
from portlayer.components.membership import Process
from portlayer.components.records import put
from portlayer.compose.tls import TlsChoice
from portlayer.interfaces.store import Transaction
from portlayer.model import errors as e
from portlayer.model.access import Role
from portlayer.model.execution import replace
from portlayer.model.grants import Grant
from portlayer.model.names import new_id

DOOR, AT = "door", "interaction"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with opened(REMOTE, tmp_path) as cluster, cluster.at() as pl:
        await furnish(pl)
        steps = Steps().create("busybox", "cat", name="echo").join_interaction(stdin=True).bind_interaction()
        await pl.execution.commit(steps.set_state("running"))
        yield cluster


async def issue(pl: PortLayer, directory: Path, subject: str, role: Role, vch: str = "default") -> Grant:
    """A certificate for *subject*, in files."""
    key = Key()
    made = await pl.service.create_certificate(subject, role, key.request, vch=vch)
    (directory / f"{subject}.pem").write_bytes(made.pem.encode() + key.pem)
    (directory / "ca.pem").write_text(await pl.service.authorities())
    return made.certificate


def lines(cluster: Cluster, name: str) -> list[dict[str, object]]:
    file = cluster.directory / f"audit-{name}.log"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def test_a_caller_is_noted_once_where_they_came_in(cluster: Cluster, tmp_path: Path) -> None:
    async with cluster.at() as pl:
        grant = await issue(pl, tmp_path, "ursula", "user")
        stranger = await pl.service.create_vch("other") and await issue(pl, tmp_path, "sue", "user", "other")
    before = {name: len(lines(cluster, name)) for name in cluster.addresses}
    ca = tmp_path / "ca.pem"
    async with connect(host=cluster.addresses[DOOR], ca=ca, cert=tmp_path / "ursula.pem") as pl:
        await pl.network.create_network("hers")
        handle = await pl.execution.get_container("echo")
    async with connect(host=cluster.addresses[DOOR], vch="other", ca=ca, cert=tmp_path / "sue.pem") as pl:
        with pytest.raises(e.HandleInvalid):
            await pl.execution.commit(handle)
    new = {name: lines(cluster, name)[before[name] :] for name in cluster.addresses}
    assert [(line["subject"], line["how"], line["vch"], line["call"]) for line in new.pop(DOOR)] == [
        ("ursula", f"certificate:{grant.id}", "default", "network/create-network"),
        ("ursula", f"certificate:{grant.id}", "default", "execution/handle"),
        ("sue", f"certificate:{stranger.id}", "other", "execution/commit"),
    ]
    assert not any(new.values())


@pytest.mark.parametrize("how", ["certificate", "token"])
async def test_a_stream_through_another_process_is_cut_with_what_opened_it(
    how: str, cluster: Cluster, tmp_path: Path
) -> None:
    async with cluster.at() as inside:
        grant = await issue(inside, tmp_path, "ursula", "user")
        token = await inside.service.create_token("ursula", "user", vch="default")
        ca, cert = tmp_path / "ca.pem", tmp_path / "ursula.pem"
        proof = {"cert": cert} if how == "certificate" else {"token": token.secret}
        async with (
            connect(host=cluster.addresses[DOOR], ca=ca, **proof) as pl,  # type: ignore[arg-type]
            pl.interaction.attach("echo", stdin=True) as attached,
        ):
            await attached.write(b"hello\n")
            read = aiter(attached)
            assert (await anext(read)).data == b"hello\n"
            if how == "certificate":
                await inside.service.revoke_certificate(grant.id)
            else:
                await inside.service.delete_token(token.token.id)
            async with asyncio.timeout(10):
                with pytest.raises(e.Unavailable):
                    async for _ in read:
                        pass
        assert (await inside.execution.inspect_container("echo")).state == "running"


async def test_streams_and_calls_go_on_while_processes_renew_their_certificates(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    async with cluster.at() as pl, pl.interaction.attach("echo", stdin=True) as attached:
        read = aiter(attached)
        for hours in (0, 9, 18, 27):
            monkeypatch.setattr("portlayer.compose.tls.time.time", lambda hours=hours: now + hours * 3600)
            for name in cluster.addresses:
                certificates = cluster.process(name).certificates
                assert certificates is not None
                before = certificates.calling()
                await certificates.refresh()
                assert (certificates.calling() is before) == (hours == 0)
                await attached.write(f"{name} {hours}\n".encode())
                assert (await anext(read)).data == f"{name} {hours}\n".encode()
                await pl.network.create_network(f"{name}-{hours}")


@pytest.mark.parametrize("forget", [False, True])
async def test_the_ca_may_be_rotated_while_processes_work(forget: bool, cluster: Cluster) -> None:
    async with cluster.at() as pl, pl.interaction.attach("echo", stdin=True) as attached:
        assert [chunk async for chunk in pl.interaction.logs("echo")] == [], "its connection is kept"
        await pl.service.rotate_ca(forget=forget)
        await cluster.process(AT).certificates.refresh()  # type: ignore[union-attr]
        if forget:  # the others have not seen it yet: they are told to come again, and never that they are nobody
            with pytest.raises(e.Unavailable, match="does not take this process's word") as refused:
                await pl.interaction.resize("echo", 80, 24)
            assert refused.value.facts["retry_after_seconds"] == 1
        for name in cluster.addresses:
            await cluster.process(name).certificates.refresh()  # type: ignore[union-attr]
        await attached.write(b"still\n")
        async for output in attached:
            assert output.data == b"still\n"
            break
        assert b"".join([chunk.data async for chunk in pl.interaction.logs("echo")]) == b"still\n"
        await pl.network.create_network("after")


async def test_processes_know_each_other_whatever_callers_are_shown(tmp_path: Path) -> None:
    """Each shows callers a certificate that is given: of a CA that the others do not trust, for another address."""
    (tmp_path / "theirs").mkdir()
    tlslab.Authority(tmp_path / "theirs").issue("server", address="203.0.113.7")
    cert, key = (str(tmp_path / "theirs" / f"server.{kind}") for kind in ("pem", "key"))
    given = TlsChoice(cert=cert, key=key)
    async with opened(REMOTE, tmp_path, tls=given) as cluster:
        async with cluster.at() as pl:
            await pl.network.create_network("net")
        with pytest.raises(e.Unavailable, match="for another name"):
            async with connect(host=cluster.addresses[DOOR], ca=tmp_path / "theirs" / "ca.pem") as pl:
                await pl.network.list()


async def test_who_is_not_of_this_port_layer_is_no_process_of_it(cluster: Cluster, tmp_path: Path) -> None:
    """Not even where the store says so: another port layer is not spoken to."""
    (tmp_path / "other").mkdir()
    async with cluster.at() as pl, opened(REMOTE, tmp_path / "other") as other:
        await cluster.stop("network")
        part = replace(cluster.topology.part("network"), address=other.addresses["network"])
        await cluster.store.apply(Transaction(ops=(put(keys.process(new_id()), Process(part=part, started_at="")),)))
        async with asyncio.timeout(10):
            with pytest.raises(e.Unavailable, match=r"network .* cannot be trusted"):
                while True:
                    await ask_who_is_there(pl)


async def ask_who_is_there(pl: PortLayer) -> None:
    """Raises Unavailable unless nobody is there yet."""
    try:
        await pl.network.create_network("theirs")
    except e.Unavailable as error:
        if "No process" not in error.detail:
            raise
