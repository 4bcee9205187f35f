"""The chapter of the demo that only two hosts can tell."""

from __future__ import annotations

import asyncio
import re

import image
from server import Server
from story import Story

from portlayer.client import ContainerHandle, PortLayer, Steps, connect
from portlayer.model.errors import Unavailable
from portlayer.model.interaction import STDOUT

NEAR, FAR = "west", "east"


async def two_hosts(story: Story, pl: PortLayer, portlayer: Server, far: str) -> None:
    """pl: speaks to west. far: a container that runs on east."""
    story.chapter("Two hosts are one port layer, whichever is asked")
    with story.step("portlayer topology"):
        drawn = await portlayer.command("topology")
    story.show(drawn)
    where = {one.name: one.host for one in await pl.execution.list()}
    story.show("; ".join(f"{name} is on {host}" for name, host in sorted(where.items())))
    assert set(where.values()) == {NEAR, FAR}
    assert where[far] == FAR
    await layers(story, pl, portlayer)
    async with connect(host=portlayer.hosts[FAR].address) as there:
        await forward(story, there)
    await go_away(story, pl, portlayer, far)


async def layers(story: Story, pl: PortLayer, portlayer: Server) -> None:
    with story.step("three more containers on east, whose layer it has by now"):
        many = (pl.execution.create(image.NAME, "true", host=FAR) for _ in range(3))
        await asyncio.gather(*(pl.execution.commit(handle) for handle in await asyncio.gather(*many)))
    asked = re.findall(r'call="storage/get-layer",status="200"\} (\S+)', await pl.service.metrics())
    (layer,) = (portlayer.hosts[FAR].directory / "state" / "layers").iterdir()
    story.show(f"east has fetched layer {layer.name[:12]} from west by its digest, {asked[0]} time in all")
    assert asked == ["1"]


async def forward(story: Story, there: PortLayer) -> None:
    steps = Steps().create(image.NAME, "cat", name="echo", host=NEAR).join_interaction(stdin=True).bind_interaction()
    with story.step("asked at east: a container on west, and a stream to it and back"):
        await there.execution.commit(steps.set_state("running"))
        async with there.interaction.attach("echo", stdin=True) as attachment:
            await attachment.write(b"there and back again\n")
            output = aiter(attachment)
            answer = await anext(output)
            await attachment.close_stdin()
            assert [piece async for piece in output] == []
    story.show(answer.data.decode())
    assert (answer.stream, answer.data) == (STDOUT, b"there and back again\n")
    assert (await there.execution.inspect_container("echo")).host == NEAR


async def go_away(story: Story, pl: PortLayer, portlayer: Server, far: str) -> None:
    began = (await pl.execution.inspect_container(far)).started_at
    touched = await pl.execution.set_labels(await pl.execution.get_container(far), {"touched": "yes"})
    with story.step("east's process stops: what runs there runs on, and is unknown here"):
        await portlayer.stop(FAR)
        await _told(pl, "host.away")
    assert (await pl.execution.inspect_container(far)).state == "unknown"
    with story.step("a commit for it is refused, and told when to come again"):
        async with connect(host=portlayer.hosts[NEAR].address, retries=0) as once:
            refused = await _refused(once, touched)
    story.show(f"{refused.detail} Retry-After: {refused.facts['retry_after_seconds']}")
    with story.step("east is back, and so is its container; the same handle commits"):
        await portlayer.start_process(FAR)
        await _told(pl, "host.returned")
        committed = await pl.execution.commit(touched)
    assert committed.state == "running"
    assert (await pl.execution.inspect_container(far)).started_at == began


async def _told(pl: PortLayer, what: str) -> None:
    """Return when an event has told of that."""
    async for numbered in pl.service.events("0"):
        if numbered.event.type == what:
            return


async def _refused(pl: PortLayer, handle: ContainerHandle) -> Unavailable:
    try:
        await pl.execution.commit(handle)
    except Unavailable as error:
        return error
    raise AssertionError("it was committed where nobody is")
