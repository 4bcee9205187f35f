"""The whole port layer on this host, whose tools take things away behind its back, and whose runtime misbehaves.

As root.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from driver import ME, Driver

from portlayer.client.streams import closing
from portlayer.components.commit import steps
from portlayer.compose import Settings, make_paths, open_host, open_local
from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model.errors import SubstrateFailed, Unavailable
from portlayer.model.events import Event
from portlayer.model.service import Subscribe
from portlayer.model.storage import CreateVolume, JoinVolume, Nothing
from portlayer.substrates.linux import mounts, process
from portlayer.substrates.linux.incarnation import Incarnation, Record

FREEZER = Path("/sys/fs/cgroup/freezer")
SERVE = "mkdir /www; echo reached >/www/index.html; exec httpd -f -p 80 -h /www"


class Lab(Driver):
    """A port layer of its own on this host; it sweeps when it is told to."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.settings = Settings(
            state=str(home / "state"), run=str(home / "run"), **{"reconcile_seconds": 3600, **settings}
        )
        self.paths = make_paths(self.settings)
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        self.pl = (await self._stack.enter_async_context(open_local(self.settings))).components
        await self.sweep()

    async def stop(self) -> None:
        await self._stack.aclose()

    async def tear_down(self) -> None:
        await self.stop()
        async with open_host(self.settings) as host:
            await host.purge()
            assert await host.leftovers() == []

    async def sweep(self) -> dict[str, int]:
        """What one sweep has mended."""
        reconciler = self.pl.execution._reconciler  # type: ignore[attr-defined]
        before = reconciler.repairs.copy()
        await reconciler.sweep()
        return dict(reconciler.repairs - before)

    def place(self) -> Incarnation:
        """Of the only incarnation."""
        (path,) = self.paths.incarnations.iterdir()
        return Incarnation(self.paths, path.name)

    def record(self) -> Record:
        record = self.place().record()
        assert record is not None
        return record

    def inside(self) -> Path:
        """The root filesystem as the only container sees it."""
        return Path(f"/proc/{self.record().init.pid}/root")

    def pid(self, container: str) -> int:
        """Of its first process."""
        records = [Incarnation(self.paths, path.name).record() for path in self.paths.incarnations.iterdir()]
        (pid,) = (record.init.pid for record in records if record is not None and record.container == container)
        return pid

    async def links(self, kind: str) -> list[str]:
        prefix = f"pl{self.paths.instance[:4]}{kind}"
        names = [line.split()[1].partition("@")[0].rstrip(":") for line in (await run("ip", "-o", "link")).splitlines()]
        return [name for name in names if name.startswith(prefix)]

    async def force_delete(self) -> None:
        """With the runtime's own tool, which may find that we are quicker in clearing up after it."""
        place = self.place()
        command = (self.record().runtime, "--root", place.runtime_root, "delete", "--force", place.id)
        deleting = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        await deleting.wait()

    async def web(self, **fields: Any) -> e.Container:
        """A web server that has been reached, on the network `lan`, published on port 18080."""
        await self.network("lan")
        handle = await self.draft("sh", "-c", SERVE, name="web", **fields)
        ports = (n.Port(container_port=80, host_port=18080),)
        handle = (await self.pl.network.join(ME, n.JoinNetwork(handle=handle, network="lan", ports=ports))).handle
        handle = (await self.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle
        await self.commit(await self.set_state(handle, "running"))
        web = await self.inspect("web")
        await reached(web)
        return web

    async def told(self) -> list[Event]:
        """All events until now."""
        end = await self.network("end")
        found = []
        async with asyncio.timeout(20), closing(await self.pl.service.events(ME, Subscribe(since="0"))) as events:
            async for numbered in events:
                if numbered.event.id == end.id:
                    break
                found.append(numbered.event)
        return found

    async def state(self, ref: str, wanted: str) -> e.Container:
        async with asyncio.timeout(20):
            while (found := await self.inspect(ref)).state != wanted:
                await asyncio.sleep(0.01)
        return found


async def run(*command: str) -> str:
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, err = await running.communicate()
    assert running.returncode == 0, err
    return out.decode()


async def reached(web: e.Container, port: int = 80) -> None:
    """Its pages come, asked from the host; it may have to start listening."""
    async with asyncio.timeout(20):
        while True:
            try:
                reader, writer = await asyncio.open_connection(web.endpoints[0].address, port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if answer.endswith(b"reached\n"):
                return


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    await lab.start()
    await lab.image()
    yield lab
    await lab.tear_down()


async def test_nothing_to_mend(lab: Lab) -> None:
    await lab.web()
    await lab.commit(await lab.draft(network="lan", name="waits"))
    assert await lab.sweep() == {}


async def test_a_deleted_link(lab: Lab) -> None:
    web = await lab.web()
    await run("ip", "link", "delete", *await lab.links("v"))
    assert await lab.sweep() == {"link": 1}
    await reached(web)
    assert (await lab.inspect("web")) == web


async def test_a_deleted_bridge(lab: Lab) -> None:
    web = await lab.web()
    await run("ip", "link", "delete", *await lab.links("b"))
    assert await lab.sweep() == {"network": 1, "link": 1}
    await reached(web)
    assert await lab.sweep() == {}


@pytest.mark.parametrize("command", ["delete table", "flush table"])
async def test_a_lost_firewall(lab: Lab, command: str) -> None:
    web = await lab.web()
    table = ("inet", f"portlayer_{lab.paths.instance}")
    before = (await run("nft", "list", "table", *table)).splitlines()
    await run("nft", *command.split(), *table)
    assert (await lab.sweep())["network"] == 1
    assert sorted((await run("nft", "list", "table", *table)).splitlines()) == sorted(before)
    await reached(web)
    assert await lab.sweep() == {}


async def test_deleted_with_the_tools_of_the_runtime(lab: Lab) -> None:
    web = await lab.web()
    await lab.force_delete()
    gone = await lab.state("web", "stopped")
    assert gone.exit_code == 128 + signal.SIGKILL
    async with asyncio.timeout(20):
        while list(lab.paths.incarnations.glob("*/config.json")):  # the tool may make its own empty directory again
            await lab.sweep()
    assert gone.endpoints == web.endpoints
    await lab.commit(await lab.set_state(await lab.handle("web"), "running"))
    await reached(web)


async def test_container_and_shim_killed(lab: Lab) -> None:
    await lab.web(restart_policy=e.RestartPolicy(name="always"))
    record = lab.record()
    process.send_signal(record.shim, signal.SIGKILL)
    process.send_signal(record.init, signal.SIGKILL)
    async with asyncio.timeout(20):
        while (await lab.inspect("web")).restarts != 1:
            await asyncio.sleep(0.01)
    await reached(await lab.state("web", "running"))


@pytest.mark.skipif(not FREEZER.exists(), reason="a frozen process of control groups v2 can be killed")
async def test_one_that_the_kernel_cannot_kill_is_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of its commit are dead by then; all are stopped once it is."""
    monkeypatch.setattr(steps, "KILL_PATIENCE_SECONDS", 1.0)
    for name in ("one", "two"):
        await lab.run(name=name, restart_policy=e.RestartPolicy(name="always"))
    async with frozen(lab.pid((await lab.inspect("two")).id)):
        handles = [await lab.set_state_at_once(await lab.handle(name), "stopped") for name in ("one", "two")]
        stop = e.Commit(handles=tuple(handles))
        with pytest.raises(Unavailable, match="has not ended by SIGKILL"):
            await lab.pl.execution.commit(ME, stop)
        assert {(await lab.inspect(name)).state for name in ("one", "two")} == {"running"}
        await lab.stop()
        await lab.start()
        assert {(await lab.inspect(name)).state for name in ("one", "two")} == {"running"}
    for name in ("one", "two"):
        assert (await lab.state(name, "stopped")).exit_code == 128 + signal.SIGKILL
    done = await lab.pl.execution.commit(ME, stop)
    assert isinstance(done, e.CommittedMany)
    assert [one.state for one in done.containers] == ["stopped"] * 2
    assert (await lab.inspect("one")).restarts == 0


@contextlib.asynccontextmanager
async def frozen(pid: int) -> AsyncIterator[None]:
    """It does nothing, not even die; none of its container's control groups says so."""
    mine = FREEZER / f"portlayer-test-{pid}"
    mine.mkdir()
    try:
        (mine / "cgroup.procs").write_text(str(pid))
        (mine / "freezer.state").write_text("FROZEN")
        yield
    finally:
        (mine / "freezer.state").write_text("THAWED")
        async with asyncio.timeout(20):
            while (mine / "cgroup.procs").read_text():
                await asyncio.sleep(0.01)
        mine.rmdir()


async def test_shim_killed(lab: Lab) -> None:
    """The container runs on; its end is seen, its exit code is not known."""
    web = await lab.web()
    process.send_signal(lab.record().shim, signal.SIGKILL)
    assert await lab.sweep() == {}
    await reached(web)
    process.send_signal(lab.record().init, signal.SIGKILL)
    assert (await lab.state("web", "stopped")).exit_code == 255


async def unmount(lab: Lab, ref: str) -> Path:
    """Somebody takes the root filesystem of *ref* from the host; where it was."""
    target = lab.paths.rootfs((await lab.inspect(ref)).id)
    assert mounts.is_mounted(target)
    await run("umount", "--lazy", str(target))
    assert not mounts.is_mounted(target)
    return target


async def test_an_unmounted_root_filesystem(lab: Lab) -> None:
    web = await lab.web()
    target = await unmount(lab, "web")
    assert await lab.sweep() == {"mount": 1}
    assert mounts.is_mounted(target)
    assert [event.attributes for event in await lab.told() if event.type == "container.repaired"] == [
        {"mended": "mount"}
    ]
    assert await lab.sweep() == {}
    await reached(web)
    assert (await lab.inspect("web")) == web


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("state", ["created", "running", "paused"])
async def test_it_is_the_very_same_that_is_mounted_again(lab: Lab, state: str, read_only: bool) -> None:
    """Both sides see what either writes, as before, and so does the next start."""
    handle = await lab.draft("sleep", "1000", name="one", read_only_rootfs=read_only)
    for wanted in {"created": (), "running": ("running",), "paused": ("running", "paused")}[state]:
        await lab.commit(await lab.set_state(handle, wanted))
        handle = await lab.handle("one")
    if state == "created":
        await lab.commit(handle)
    inside = lab.inside()
    target = await unmount(lab, "one")
    assert await lab.sweep() == {"mount": 1}
    assert target.stat().st_dev == inside.stat().st_dev
    (target / "note").write_text("written on the host")
    assert (inside / "note").read_text() == "written on the host"
    assert (os.statvfs(inside).f_flag & os.ST_RDONLY != 0) == read_only
    if state != "created":
        await lab.commit(await lab.set_state(await lab.handle("one"), "stopped", timeout_seconds=0))
    await lab.commit(await lab.set_state(await lab.handle("one"), "running"))
    assert (target / "note").read_text() == "written on the host"


async def test_a_commit_that_comes_before_the_sweep_mounts_it_again(lab: Lab) -> None:
    """Another process is prepared, since this one cannot follow: there are never two mounts of one tree."""
    await lab.pl.storage.create_volume(ME, CreateVolume(name="jar"))
    await lab.commit(await lab.draft("sleep", "1000", name="one"))
    target = await unmount(lab, "one")
    device = lab.inside().stat().st_dev
    join = JoinVolume(handle=await lab.handle("one"), volume="jar", destination="/data")
    await lab.commit((await lab.pl.storage.join(ME, join)).handle)
    assert target.stat().st_dev == device
    assert await lab.sweep() == {}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("mount --make-unbindable /", "Invalid argument", id="refused"),
        pytest.param("mount -t tmpfs none /", "another root", id="another"),
    ],
)
async def test_a_root_that_cannot_be_had_back_is_told_of_once(lab: Lab, script: str, reason: str) -> None:
    """It runs on, and its next start mounts it anew, with what it wrote."""
    process = e.ProcessRequest(
        args=("sh", "-c", f"busybox {script} && echo >/done; exec sleep 1000"),
        capabilities=e.Capabilities(add=("SYS_ADMIN",)),
    )
    handle = (await lab.pl.execution.create(ME, e.Create(image="busybox", name="one", process=process))).handle
    await lab.commit(await lab.set_state(handle, "running"))
    async with asyncio.timeout(20):
        while not (lab.inside() / "done").exists():
            await asyncio.sleep(0.01)
    target = await unmount(lab, "one")
    for _ in range(2):
        assert await lab.sweep() == {}
    (told,) = [event.attributes for event in await lab.told() if event.type == "container.unrepaired"]
    assert told["lost"] == "mount"
    assert reason in told["reason"]
    assert "next start" in told["remedy"]
    await lab.commit(await lab.set_state(await lab.handle("one"), "stopped", timeout_seconds=0))
    await lab.commit(await lab.set_state(await lab.handle("one"), "running"))
    assert mounts.is_mounted(target)


async def test_a_prepared_process_removed(lab: Lab) -> None:
    await lab.network("lan")
    await lab.commit(await lab.draft("sh", "-c", SERVE, network="lan", name="web"))
    before = lab.place()
    await lab.force_delete()
    async with asyncio.timeout(20):
        while await lab.sweep() != {"process": 1}:
            await asyncio.sleep(0.01)
    assert lab.place().id != before.id
    assert await lab.sweep() == {}
    await lab.commit(await lab.set_state(await lab.handle("web"), "running"))
    await reached(await lab.inspect("web"))


async def test_an_unmounted_tmpfs_of_ours(lab: Lab) -> None:
    """All that is known of processes is gone with it: the next server ends them, as a reboot would have."""
    handle = await lab.draft("sleep", "1000", name="one", restart_policy=e.RestartPolicy(name="always"))
    await lab.commit(await lab.set_state(handle, "running"))
    first = lab.record().init
    assert (await lab.pl.service.ready(ME, Nothing())).ready
    await run("umount", "--lazy", str(lab.paths.live))
    said = await lab.pl.service.ready(ME, Nothing())
    assert not said.ready
    assert "start the server again" in said.checks["substrate"]
    with pytest.raises(SubstrateFailed, match="start the server again"):
        await lab.sweep()
    assert (await lab.inspect("one")).state == "running"
    assert process.is_alive(first)
    await lab.stop()
    await lab.start()
    async with asyncio.timeout(20):
        while (again := await lab.inspect("one")).restarts != 1 or again.state != "running":
            await asyncio.sleep(0.01)
    assert not process.is_alive(first)
    assert await lab.sweep() == {}


async def test_all_gone_at_once(lab: Lab) -> None:
    """As after a reboot: no process, mount, link, table or control group is left; the directories of `state` are."""
    web = await lab.web(restart_policy=e.RestartPolicy(name="always"))
    await lab.run("sleep", "1000", network="lan", name="stays")
    await lab.commit(await lab.draft("true", network="lan", name="waits"))
    await lab.stop()
    async with open_host(lab.settings) as host:
        await host.purge()
    shutil.rmtree(lab.settings.run)
    await lab.start()
    assert (await lab.state("stays", "stopped")).exit_code == 255
    again = await lab.state("web", "running")
    await reached(again)
    assert again.endpoints == web.endpoints
    await lab.sweep()
    assert len(list(lab.paths.incarnations.iterdir())) == 2  # `waits` is prepared again
    assert await lab.sweep() == {}


@pytest.mark.parametrize("mood", ["hang", "die", "lie"])
async def test_a_runtime_that_misbehaves(tmp_path: Path, mood: str) -> None:
    """The commit fails in bounded time, names the step, and is undone; the next works."""
    mind, runtime = tmp_path / "mood", tmp_path / "crun-moody"
    moods = "hang) exec sleep 1000;; die) kill -9 $$;; lie) exit 0;;"
    runtime.write_text(
        f'#!/bin/sh\ncase "$(cat {mind} 2>/dev/null)" in {moods} esac\nexec {shutil.which("crun")} "$@"\n'
    )
    runtime.chmod(0o755)
    lab = Lab(tmp_path, runtime=str(runtime), runtime_seconds=3 if mood == "hang" else 60)
    await lab.start()
    try:
        await lab.image()
        await lab.network("lan")
        handle = await lab.set_state(await lab.draft("sh", "-c", SERVE, network="lan", name="web"), "running")
        mind.write_text(mood)
        async with asyncio.timeout(20):
            with pytest.raises(SubstrateFailed) as caught:
                await lab.commit(handle)
        assert caught.value.facts["step"] == "Prepare"
        assert caught.value.detail.startswith("Prepare: ")
        assert (await lab.pl.execution.list_containers(ME, e.ListContainers())).containers == ()
        assert not list(lab.paths.incarnations.iterdir())
        assert not await lab.links("v")
        assert not mounts.mounts_under(lab.paths.mounted)
        mind.unlink()
        assert (await lab.commit(handle)).state == "running"
        await reached(await lab.inspect("web"))
    finally:
        await lab.tear_down()
