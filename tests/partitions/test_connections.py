"""Streams whose connection is cut while something is under way on it: both ends are told, and whoever merely does not
read is not cut off. One process passes them on to another over TLS, on a host whose firewall drops what we say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from apart.cluster import REMOTE, Cluster, opened
from apart.test_topologies import furnish
from linux.netlab import fresh_host, nft

from portlayer.client import PortLayer, Steps, connect
from portlayer.model.errors import Unavailable
from portlayer.rest import liveness

DOOR, AT = "door", "interaction"
SILENT_SECONDS = 1.0
"""Not less: who has no room acknowledges twice a second at the most, if asked for it more often."""
MUCH = 24 << 20
"""More than all buffers on the way take."""


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A network of the test's own, and silence that is noticed sooner than in life."""
    monkeypatch.setattr(liveness, "LOOK_SECONDS", SILENT_SECONDS / 2)
    monkeypatch.setattr(liveness, "SILENT_SECONDS", SILENT_SECONDS)
    with fresh_host():
        yield


@pytest.fixture
async def cluster(host: None, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with opened(REMOTE, tmp_path) as cluster, cluster.at() as pl:
        await furnish(pl)
        for name, command in (("echo", ["cat"]), ("deaf", ["sleep", "1000"])):
            steps = Steps().create("busybox", *command, name=name).join_interaction(stdin=True).bind_interaction()
            await pl.execution.commit(steps.set_state("running"))
        yield cluster


@pytest.fixture
async def caller(cluster: Cluster, tmp_path: Path) -> AsyncIterator[PortLayer]:
    """Somebody who comes in at the door over TLS."""
    async with cluster.at() as inside:
        token = await inside.service.create_token("ursula", "user", vch="default")
        (tmp_path / "ca.pem").write_text(await inside.service.authorities())
    async with connect(host=cluster.addresses[DOOR], ca=tmp_path / "ca.pem", token=token.secret, retries=0) as pl:
        yield pl


def cut(cluster: Cluster, name: str) -> None:
    """What goes to and comes from the process called *name* vanishes."""
    port = urlsplit(cluster.addresses[name]).port
    nft("add table inet cut; add chain inet cut in { type filter hook input priority 0; }")
    for way in ("sport", "dport"):
        nft(f"add rule inet cut in tcp {way} {port} drop")


def streams(cluster: Cluster) -> int:
    """How many are open where the container is."""
    interaction = cluster.process(AT).here.interaction
    return int(interaction._streams._running)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [DOOR, AT])
async def test_what_is_typed_into_a_cut_is_answered_by_its_end(cluster: Cluster, caller: PortLayer, name: str) -> None:
    async with caller.interaction.attach("echo", stdin=True) as attached:
        read = aiter(attached)
        await attached.write(b"hello\n")
        assert (await anext(read)).data == b"hello\n"
        cut(cluster, name)
        await attached.write(b"is anybody there?\n")
        async with asyncio.timeout(60 * SILENT_SECONDS):
            with pytest.raises(Unavailable):
                await anext(read)
    nft("delete table inet cut")
    async with caller.interaction.attach("echo", stdin=True) as attached:
        await attached.write(b"again\n")
        async for output in attached:
            assert output.data == b"again\n", "what was given up does not come later"
            break


async def test_a_stream_that_nobody_acknowledges_gives_its_place_back(cluster: Cluster, caller: PortLayer) -> None:
    script = "while true; do echo crumbs; sleep 0.05; done"
    async with cluster.at() as inside:
        await inside.execution.commit(
            Steps().create("busybox", "sh", "-c", script, name="crumbles").set_state("running")
        )
    async with caller.interaction.attach("crumbles") as attached:
        async for output in attached:
            assert b"crumbs" in output.data
            break
        assert streams(cluster) == 1
        cut(cluster, AT)
        async with asyncio.timeout(60 * SILENT_SECONDS):
            while streams(cluster):
                await asyncio.sleep(0.05)
        nft("delete table inet cut")


async def test_who_does_not_read_is_not_cut_off(cluster: Cluster, caller: PortLayer) -> None:
    async with (
        cluster.at() as inside,
        inside.interaction.attach("echo", stdin=True) as typing,
        caller.interaction.attach("echo") as attached,
    ):
        for _ in range(MUCH >> 20):
            await typing.write(b"m" * (1 << 20))
        await asyncio.sleep(3 * SILENT_SECONDS)  # it is left alone for so long
        size = 0
        async with asyncio.timeout(60):
            async for output in attached:
                size += len(output.data)
                if size >= MUCH:
                    break
        assert size == MUCH


async def test_who_types_more_than_is_read_waits(cluster: Cluster, caller: PortLayer) -> None:
    async with caller.interaction.attach("deaf", stdin=True) as attached:
        typing = asyncio.ensure_future(attached.write(b"m" * MUCH))
        await asyncio.sleep(3 * SILENT_SECONDS)  # it is left alone for so long
        assert not typing.done()
        await caller.execution.signal("deaf", "KILL")
        async with asyncio.timeout(60):
            async for _ in attached:
                pass
        assert attached.exit_code == 137
        typing.cancel()
        await asyncio.gather(typing, return_exceptions=True)
