"""The server goes, with an orderly end or without one, and comes again: containers have not noticed."""

from __future__ import annotations

import asyncio
import signal

import pytest
from e2e.conftest import Served

from portlayer.client import Attachment, PortLayer, Steps, connect
from portlayer.model.errors import InUse

GO = "until [ -e /jar/go ]; do sleep 0.02; done"
ECHO = 'while read line; do echo "got $line"; done; echo no more; exit 7'


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_containers_run_on(served: Served, archive: bytes, end: signal.Signals) -> None:
    async with connect(host=served.host) as pl:
        jar = await _set_up(pl, archive)
        handle = await pl.execution.set_labels(await pl.execution.get_container("web"), {"made": "before"})
        address = (await pl.execution.inspect_container("web")).endpoints[0].address
        before = {(process.container, process.pid) for process in served.view.processes()}
        async with pl.interaction.attach("echo", stdin=True) as attachment:
            await attachment.write(b"one\n")
            assert await _read(attachment, b"got one\n")
    assert served.end(end) == (0 if end is signal.SIGTERM else -end)

    (served.directory / "state" / "volumes" / jar / "data" / "go").touch()
    await _until_ended(served, 1)
    served.serve()

    async with connect(host=served.host) as pl:
        ended = await pl.execution.inspect_container("ends")
        assert (ended.state, ended.exit_code) == ("stopped", 9)
        assert await _log(pl, "ends") == b"before\nin the meantime\n"
        after = {(process.container, process.pid) for process in served.view.processes()}
        assert before - after == {one for one in before if one[0] == ended.id}
        assert after <= before
        assert {one.name: one.state for one in await pl.execution.list()} == {
            "web": "running",
            "echo": "running",
            "ends": "stopped",
            "later": "created",
        }
        async with pl.interaction.attach("echo", stdin=True, logs=True) as attachment:
            await attachment.write(b"two\n")
            assert await _read(attachment, b"got one\ngot two\n")
            await attachment.close_stdin()
            assert await _read(attachment, b"no more\n")
        assert (await pl.execution.wait("echo", timeout_seconds=20)).exit_code == 7
        assert await _get(address) == b"reached\n"
        assert (await pl.execution.commit(handle)).id == handle.id
        assert (await pl.execution.inspect_container("web")).labels == {"made": "before"}
        await pl.execution.commit(Steps(await pl.execution.get_container("later")).set_state("running"))
        assert (await pl.execution.wait("later", timeout_seconds=20)).exit_code == 3
        assert await _log(pl, "later") == b"reached\n"


async def test_what_was_committed_is_there_after_every_kind_of_end(served: Served, archive: bytes) -> None:
    async with connect(host=served.host) as pl:
        await pl.storage.import_image(archive)
        committed = await pl.execution.commit(Steps().create("busybox", "sleep", "1000").set_state("running"))
        before = served.view.processes()
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        served.end(end)
        served.serve()
        async with connect(host=served.host) as pl:
            (one,) = await pl.execution.list()
            assert (one.id, one.state, one.revision, one.restarts) == (committed.id, "running", committed.revision, 0)
            assert served.view.processes() == before


@pytest.mark.parametrize("reboot", [False, True])
async def test_a_volume_with_a_capacity_keeps_what_is_in_it(served: Served, archive: bytes, reboot: bool) -> None:
    """Killed, or with all that a reboot clears; what was written since is there, too, where the container ran on."""
    script = "cat /cask/*; echo one >/cask/a; echo written; sleep 1000"
    async with connect(host=served.host) as pl:
        await pl.storage.import_image(archive)
        cask = (await pl.storage.create_volume("cask", capacity_bytes=16 << 20)).id
        steps = Steps().create("busybox", "sh", "-c", script, name="cooper").join_volume("cask", "/cask")
        await pl.execution.commit(steps.set_state("running"))
        async with asyncio.timeout(20):
            while b"written" not in await _log(pl, "cooper"):
                await asyncio.sleep(0.01)
        assert served.view.disks() == {cask}
    assert served.end(signal.SIGKILL) == -signal.SIGKILL
    if reboot:
        served.cli.ok("cleanup", "--apply")
        async with asyncio.timeout(20):
            while served.view.disks():
                await asyncio.sleep(0.01)
    served.serve()
    async with connect(host=served.host) as pl:
        steps = Steps().create("busybox", "sh", "-c", "cat /cask/a; ls /cask; echo two >/cask/b", name="second")
        await pl.execution.commit(steps.join_volume("cask", "/cask").set_state("running"))
        assert (await pl.execution.wait("second", timeout_seconds=20)).exit_code == 0
        assert await _log(pl, "second") == b"one\na\n"
        assert (await pl.execution.inspect_container("cooper")).state == ("stopped" if reboot else "running")
        for state in ("stopped", "running"):
            handle = await pl.execution.get_container("cooper")
            await pl.execution.commit(
                await pl.execution.set_state(handle, state, timeout_seconds=0 if state == "stopped" else None)
            )
        async with asyncio.timeout(20):
            while not (await _log(pl, "cooper")).endswith(b"one\ntwo\nwritten\n"):
                await asyncio.sleep(0.01)
        with pytest.raises(InUse):
            await pl.storage.remove_volume("cask")
        await pl.execution.remove("cooper", force=True)
        await pl.execution.remove("second")
        await pl.storage.remove_volume("cask")
        async with asyncio.timeout(20):
            while served.view.disks() or served.view.trees("volumes"):
                await asyncio.sleep(0.01)


async def _set_up(pl: PortLayer, archive: bytes) -> str:
    """web: on the network, running. echo: with stdin. ends: as soon as told. later: created. The id of a volume."""
    await pl.storage.import_image(archive)
    await pl.network.create_network("lan")
    jar = (await pl.storage.create_volume("jar")).id
    serve = "mkdir /www; echo reached >/www/index.html; httpd -p 80 -h /www; echo up; exec sleep 1000"
    web = Steps().create("busybox", "sh", "-c", serve, name="web").join_network("lan").bind_network()
    committed = await pl.execution.commit(web.set_state("running"))
    address = committed.endpoints[0].address
    echo = Steps().create("busybox", "sh", "-c", ECHO, name="echo").join_interaction(stdin=True).bind_interaction()
    await pl.execution.commit(echo.set_state("running"))
    script = f"echo before; {GO}; echo in the meantime; exit 9"
    ends = Steps().create("busybox", "sh", "-c", script, name="ends").join_volume(jar, "/jar")
    await pl.execution.commit(ends.set_state("running"))
    script = f"wget -qO- http://{address}/; exit 3"
    await pl.execution.commit(
        Steps().create("busybox", "sh", "-c", script, name="later").join_network("lan").bind_network()
    )
    async with asyncio.timeout(20):
        while not await _log(pl, "web"):
            await asyncio.sleep(0.01)
    return jar


async def _log(pl: PortLayer, ref: str) -> bytes:
    return b"".join([chunk.data async for chunk in pl.interaction.logs(ref)])


async def _read(attachment: Attachment, wanted: bytes) -> bool:
    """Whether what comes begins with *wanted*, read as far as that."""
    read = b""
    async with asyncio.timeout(20):
        async for output in attachment:
            read += output.data
            if len(read) >= len(wanted):
                return read == wanted
    return False


async def _until_ended(served: Served, many: int) -> None:
    """Until so many containers have ended while no server was there to see."""
    async with asyncio.timeout(20):
        while len(list((served.directory / "run" / "live" / "exits").iterdir())) < many:
            await asyncio.sleep(0.01)


async def _get(address: str) -> bytes:
    """What a web server says, asked from the host."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(address, 80)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer.partition(b"\r\n\r\n")[2]
