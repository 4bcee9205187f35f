"""Commits on this host when a part of it says no: the kernel's links, the firewall, the runtime, the store, the disk.

Each commit names the step that failed and leaves nothing, or all as it was; once the part works again, the same handle
commits. As root.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from driver import ME
from linux.test_reconciler import SERVE, Lab, reached, run

from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.model.errors import SubstrateFailed, Unavailable
from portlayer.substrates.linux import mounts

Mend = Callable[[], Awaitable[object]]
Break = Callable[[Lab, str], Awaitable[Mend]]
PORTS = (n.Port(container_port=80, host_port=18081),)


class Moody(Lab):
    """Its runtime is crun, until told to hold: then it waits, and goes on when it may."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.script = home / "crun-moody"
        hold = f"if [ -e {home}/hold ]; then touch {home}/held; while [ ! -e {home}/go ]; do sleep 0.02; done; fi"
        self.script.write_text(f'#!/bin/sh\n{hold}\nexec {shutil.which("crun")} "$@"\n')
        self.script.chmod(0o755)
        super().__init__(home, runtime=str(self.script))

    async def until_held(self) -> None:
        async with asyncio.timeout(20):
            while not (self.home / "held").exists():
                await asyncio.sleep(0.01)

    async def nothing(self) -> None:
        """There is no container, and nothing of one on the host."""
        assert (await self.pl.execution.list_containers(ME, e.ListContainers())).containers == ()
        assert not list(self.paths.incarnations.iterdir())
        assert not await self.links("v")
        assert not mounts.mounts_under(self.paths.mounted)
        assert await self.sweep() == {}


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Moody]:
    lab = Moody(tmp_path)
    await lab.start()
    await lab.image()
    yield lab
    await lab.tear_down()


async def a_link_of_that_name(lab: Lab, network: str) -> Mend:
    """netlink refuses to make the bridge, for a link of somebody else has its name."""
    name = f"pl{lab.paths.instance[:4]}b{network[:7]}"
    await run("ip", "link", "add", name, "type", "veth", "peer", "name", f"peer{network[:7]}")
    return lambda: run("ip", "link", "delete", name)


async def a_chain_of_that_name(lab: Lab, network: str) -> Mend:
    """nft refuses the rules, for the table has a chain of another kind."""
    table = f"inet portlayer_{lab.paths.instance}"
    await run("nft", f"add table {table}; add chain {table} guard {{ type route hook output priority 0; }}")
    return lambda: run("nft", f"delete table {table}")


def fill(disk: Path) -> Path:
    """A file that takes all the room that is left on *disk*."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    return filler


async def a_full_tmpfs(lab: Lab, _: str) -> Mend:
    """What a start of a container needs has no room."""
    await run("mount", "-o", "remount,size=1m", str(lab.paths.live))
    filler = fill(lab.paths.live)

    async def mend() -> None:
        filler.unlink()
        await run("mount", "-o", "remount,size=50%", str(lab.paths.live))

    return mend


REFUSALS: dict[str, tuple[Break, str]] = {
    "netlink": (a_link_of_that_name, "MakeNetwork"),
    "nft": (a_chain_of_that_name, "MakeNetwork"),
    "tmpfs": (a_full_tmpfs, "MakeNetwork"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_creation_that_is_refused_leaves_nothing(lab: Moody, name: str) -> None:
    breaking, step = REFUSALS[name]
    await lab.pl.storage.create_volume(ME, s.CreateVolume(name="jar"))
    network = await lab.network("lan")
    handle = await lab.draft("sh", "-c", SERVE, network="lan", ports=PORTS, volume="jar", name="web")
    handle = await lab.set_state(handle, "running")
    mend = await breaking(lab, network.id)
    with pytest.raises(SubstrateFailed) as caught:
        await lab.commit(handle)
    assert caught.value.facts["step"] == step
    assert caught.value.detail.startswith(f"{step}: ")
    await mend()
    await lab.nothing()
    assert (await lab.commit(handle)).state == "running"
    await reached(await lab.inspect("web"))


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Moody]:
    """One whose disk has room for little."""
    state = tmp_path / "state"
    state.mkdir()
    await run("mount", "-t", "tmpfs", "-o", "size=32m", "small", str(state))
    try:
        lab = Moody(tmp_path)
        await lab.start()
        await lab.image()
        yield lab
        await lab.tear_down()
    finally:
        await run("umount", str(state))


async def test_a_full_disk_lets_nothing_begin(small: Moody) -> None:
    await small.network("lan")
    handle = await small.set_state(await small.draft("sh", "-c", SERVE, network="lan", name="web"), "running")
    filler = fill(small.paths.state)
    with pytest.raises(Unavailable, match="disk"):
        await small.commit(handle)
    filler.unlink()
    await small.nothing()
    assert (await small.commit(handle)).state == "running"
    await reached(await small.inspect("web"))


async def test_a_disk_that_fills_in_the_middle(small: Moody) -> None:
    """Nothing more can be written of a commit whose process is made; once there is room the same handle tells."""
    await small.network("lan")
    handle = await small.set_state(await small.draft("sh", "-c", SERVE, network="lan", name="web"), "running")
    (small.home / "hold").touch()
    committing = asyncio.ensure_future(small.commit(handle))
    await small.until_held()
    filler = fill(small.paths.state)
    (small.home / "go").touch()
    with pytest.raises((Unavailable, SubstrateFailed)) as caught:
        await committing
    assert "disk" in caught.value.detail or "space" in caught.value.detail
    filler.unlink()
    done = await small.commit(handle)
    assert done.state == "running"
    await reached(await small.inspect("web"))
    assert await small.commit(handle) == done
    assert len(list(small.paths.incarnations.iterdir())) == 1
    assert await small.sweep() == {}


async def test_a_runtime_that_somebody_removes_is_missed_by_nobody(lab: Moody) -> None:
    """It is run from a copy; at the next start of the server it has to be there."""
    await lab.network("lan")
    lab.script.unlink()
    await lab.run("sh", "-c", SERVE, network="lan", name="web")
    await reached(await lab.inspect("web"))


async def test_a_join_that_is_refused_leaves_what_runs_as_it_was(lab: Moody) -> None:
    web = await lab.web()
    second = await lab.network("second")
    mend = await a_link_of_that_name(lab, second.id)
    joined = await lab.pl.network.join(ME, n.JoinNetwork(handle=await lab.handle("web"), network="second"))
    handle = (await lab.pl.network.bind(ME, n.BindNetwork(handle=joined.handle))).handle
    with pytest.raises(SubstrateFailed) as caught:
        await lab.commit(handle)
    assert caught.value.facts["step"] == "MakeNetwork"
    await mend()
    assert await lab.inspect("web") == web
    await reached(web)
    assert await lab.sweep() == {}
    assert len((await lab.commit(handle)).endpoints) == 2
    await reached(await lab.inspect("web"))


async def test_a_store_that_is_busy_too_long_in_the_middle(lab: Moody) -> None:
    """Its process is made by then. Nothing is known to have happened; the same handle tells."""
    await lab.network("lan")
    handle = await lab.draft("sh", "-c", SERVE, network="lan", name="web")
    handle = await lab.set_state(handle, "running")
    (lab.home / "hold").touch()
    committing = asyncio.ensure_future(lab.commit(handle))
    await lab.until_held()
    with closing(sqlite3.connect(lab.paths.state / "portlayer.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        (lab.home / "go").touch()
        with pytest.raises(Unavailable, match="locked"):
            await committing
        other.execute("ROLLBACK")
    done = await lab.commit(handle)
    assert done.state == "running"
    await reached(await lab.inspect("web"))
    assert await lab.commit(handle) == done
    assert len(list(lab.paths.incarnations.iterdir())) == 1
    assert await lab.sweep() == {}
