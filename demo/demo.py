"""The seed's workflow on real containers, over REST: `make demo`.

Every step asserts what it claims; the demo fails where one does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import far
import image
import server
from story import Story

from portlayer.client import ContainerHandle, PortLayer, Steps, connect
from portlayer.model.errors import Conflict, NotFound
from portlayer.model.interaction import STDOUT

E = TypeVar("E", bound=Exception)
CONTAINER, NETWORK, VISITOR = "cookie_monster", "gibson_network", "hacker"
SERVE = "mkdir /www; echo me want cookie > /www/index.html; httpd -p 80 -h /www; echo ready; exec sleep 1000"
EAT = 'while read cookie; do echo "om nom nom: $cookie"; done; echo no more cookies >&2; exit 3'


async def main(topology: str) -> None:
    story = Story()
    async with server.temporary(topology) as portlayer:
        kind = "two hosts with an etcd" if topology == server.TWO_HOSTS else "its embedded defaults: SQLite"
        story.chapter(f"A port layer on {kind}, Linux, unix sockets")
        with story.step("portlayer serve"):
            line = await portlayer.start()
        story.show(line)
        async with connect(host=portlayer.first.address) as pl:
            here = partial(prepare, host=portlayer.last_host)
            meet = partial(talk_over_the_network, host=portlayer.last_host)  # networks do not span hosts yet
            for chapter in (here, add_container_to_network, meet, stream, handles):
                await chapter(story, pl)
                if topology == "moving":
                    await move(story, pl, portlayer)
            if topology == server.TWO_HOSTS:
                await far.two_hosts(story, pl, portlayer, CONTAINER)
            await remove_all(story, pl)
        await leave_nothing(story, portlayer)
    story.end("Done, and nothing is left behind")


async def prepare(story: Story, pl: PortLayer, host: str) -> None:
    info = await pl.service.info()
    (substrate,) = info.substrates
    story.show(f"version {info.version}, store {info.store}, " + ", ".join(map(" ".join, substrate.features.items())))
    story.chapter("An image, a network, a container")
    with story.step("make an image of Debian's busybox-static, and import it"):
        (imported,) = await pl.storage.import_image(image.build())
    story.show(f"{imported.names[0]}, {imported.size_bytes / 1e6:.1f} MB, id {imported.id[:12]}")
    with story.step(f"create network {NETWORK}"):
        network = await pl.network.create_network(NETWORK)
    story.show(f"{network.subnets[0].subnet}, {network.free_addresses} free addresses")
    with story.step(f"create container {CONTAINER}, and commit it"):
        container = await pl.execution.create(
            image.NAME, "sh", "-c", SERVE, name=CONTAINER, host=host, memory_bytes=64 << 20, init=True
        )
        await pl.execution.commit(container)
    container = await pl.execution.inspect_container(CONTAINER)
    assert (container.state, container.host) == ("created", host)


async def add_container_to_network(story: Story, pl: PortLayer) -> None:
    """The seed's pseudocode, call by call."""
    story.chapter("The seed's workflow: AddContainerToNetwork, call by call")
    execution, network = pl.execution, pl.network
    with story.step('c = await execution.get_container("cookie_monster")'):
        c: ContainerHandle = await execution.get_container("cookie_monster")
    with story.step('n = await network.get_network("gibson_network")'):
        n = await network.get_network("gibson_network")
    with story.step("c = await network.join(c, n)"):
        c = await network.join(c, n)
    with story.step("c = await network.bind(c)"):
        c = bound = await network.bind(c)
    story.show(f"leased {bound.endpoints[0].address}; the container itself is as it was until commit")
    assert (await execution.inspect_container("cookie_monster")).endpoints == ()
    with story.step("await execution.commit(c)"):
        await execution.commit(c)
    (endpoint,) = (await execution.inspect_container("cookie_monster")).endpoints
    assert endpoint.address == bound.endpoints[0].address
    with story.step("committing the same handle again gives the first result and does nothing"):
        await execution.commit(c)
    with story.step("unknown names are told as such"):
        await refused(NotFound, lambda: network.get_network("the_plague"))


async def talk_over_the_network(story: Story, pl: PortLayer, host: str) -> None:
    story.chapter("It runs, and a second container reaches it by address")
    with story.step(f"start {CONTAINER}: a web server"):
        handle = await pl.execution.get_container(CONTAINER)
        started = await pl.execution.commit(Steps(handle).set_state("running"))
    assert started.state == "running"
    with story.step("wait for its first words, as they come"):
        async for chunk in pl.interaction.logs(CONTAINER, follow=True):
            if chunk.data.endswith(b"ready\n"):
                break
    address = started.endpoints[0].address
    steps = Steps().create(image.NAME, "wget", "-qO-", f"http://{address}/", name=VISITOR, host=host)
    steps = steps.join_network(NETWORK).bind_network().set_state("running")
    with story.step(f"create, join, bind, start and commit {VISITOR}, in one round trip"):
        visitor = await pl.execution.commit(steps)
    with story.step(f"{VISITOR} fetches http://{address}/ and exits"):
        ended = await pl.execution.wait(VISITOR)
    said = await log(pl, VISITOR)
    story.show(f"{visitor.endpoints[0].address} read: {said.strip()}")
    assert (ended.exit_code, said) == (0, "me want cookie\n")


async def stream(story: Story, pl: PortLayer) -> None:
    story.chapter("Streams: stdin in, output live, logs and exit codes after")
    execution, interaction = pl.execution, pl.interaction
    eater = Steps().create(image.NAME, "sh", "-c", EAT, name="eater").join_interaction(stdin=True).bind_interaction()
    await execution.commit(eater)
    async with interaction.attach("eater", stdin=True) as attachment:
        await execution.commit(Steps(await execution.get_container("eater")).set_state("running"))
        output = aiter(attachment)
        for cookie in ("chocolate chip", "oatmeal"):
            with story.step(f"write {cookie!r} to stdin, read what comes back"):
                await attachment.write(f"{cookie}\n".encode())
                answer = await anext(output)
            story.show(answer.data.decode())
            assert (answer.stream, answer.data) == (STDOUT, f"om nom nom: {cookie}\n".encode())
        with story.step("close stdin: it reads end of file and exits"):
            await attachment.close_stdin()
            rest = [piece async for piece in output]
    story.show(f"stderr: {rest[0].data.decode().strip()}; exit code {attachment.exit_code}")
    assert attachment.exit_code == 3
    with story.step("its log has kept all of it"):
        kept = await log(pl, "eater")
    assert kept == "om nom nom: chocolate chip\nom nom nom: oatmeal\nno more cookies\n"
    with story.step("a program that is not there is a result: 127, and why"):
        missing = await execution.commit(Steps().create(image.NAME, "elmo", name="missing").set_state("running"))
    story.show(missing.start_error or "")
    assert missing.exit_code == 127


async def handles(story: Story, pl: PortLayer) -> None:
    story.chapter("Handles: nothing is overwritten unseen, and old ones stay good")
    execution = pl.execution
    with story.step("two callers take a handle to the same container"):
        mine, yours = await execution.get_container(CONTAINER), await execution.get_container(CONTAINER)
    with story.step("you commit the label colour=blue"):
        await execution.commit(await execution.set_labels(yours, {"colour": "blue"}))
    with story.step("my stale commit of colour=red is refused, and told what collided"):
        red = await execution.set_labels(mine, {"colour": "red"})
        conflict = await refused(Conflict, lambda: execution.commit(red))
    story.show(f"{conflict.detail}\ncollisions: {', '.join(conflict.facts['collisions'])}")
    assert any("colour" in collision for collision in conflict.facts["collisions"])
    with story.step("I branch from the same old handle: flavour=mint meets nothing of yours, and lands"):
        await execution.commit(await execution.set_labels(mine, {"flavour": "mint"}))
    labels = (await execution.inspect_container(CONTAINER)).labels
    story.show(f"labels: {labels}")
    assert labels == {"colour": "blue", "flavour": "mint"}


async def remove_all(story: Story, pl: PortLayer) -> None:
    story.chapter("Leaving nothing behind")
    with story.step(f"stop {CONTAINER}"):
        handle = await pl.execution.get_container(CONTAINER)
        await pl.execution.commit(await pl.execution.set_state(handle, "stopped", timeout_seconds=5))
    with story.step("remove the containers, the network, the image"):
        for container in await pl.execution.list():
            await pl.execution.remove(container.id)
        await pl.network.remove(NETWORK)
        await pl.storage.remove_image(image.NAME)
    assert not await pl.execution.list()
    assert not await pl.network.list()


async def move(story: Story, pl: PortLayer, portlayer: server.Server) -> None:
    """The components go to other processes; a handle from before is committed after it."""
    handle = await pl.execution.set_labels(await pl.execution.get_container(CONTAINER), {"moved": "yes"})
    before = await pl.execution.inspect_container(CONTAINER)
    with story.step("all components move to other processes; containers run on"):
        line = await portlayer.move()
    story.show(line)
    assert (await pl.execution.inspect_container(CONTAINER)).state == before.state
    with story.step("a handle from before the move is committed after it"):
        await pl.execution.commit(handle)
    assert (await pl.execution.inspect_container(CONTAINER)).labels == {**before.labels, "moved": "yes"}
    await pl.execution.commit(Steps(await pl.execution.get_container(CONTAINER)).set_labels({"moved": None}))


async def leave_nothing(story: Story, portlayer: server.Server) -> None:
    with story.step("stop the server (SIGTERM)"):
        assert await portlayer.stop() == 0, portlayer.log.read_text()
    with story.step("portlayer cleanup --apply"):
        removed = await portlayer.cleanup("--apply")
    story.show(removed)
    with story.step("portlayer cleanup"):
        said = await portlayer.cleanup()
    story.show(said)
    assert all(line.startswith("Nothing") for line in said.splitlines()), said


async def log(pl: PortLayer, container: str) -> str:
    return b"".join([chunk.data async for chunk in pl.interaction.logs(container)]).decode()


async def refused(error: type[E], work: Callable[[], Awaitable[object]]) -> E:
    """The error that *work* raises, as it has to."""
    try:
        await work()
    except error as expected:
        return expected
    raise AssertionError(f"{error.__name__} was expected")


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("The demo runs real containers and so needs root: sudo make demo")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", choices=server.TOPOLOGIES, default="together", help="who runs where")
    asyncio.run(main(parser.parse_args().topology))
