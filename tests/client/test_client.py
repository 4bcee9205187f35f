"""The seed's verbs, and everything beside them, in the client's words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import images
import pytest
from harness import Harness

from portlayer.client import BoundHandle, ContainerHandle, PortLayer, Steps, connect
from portlayer.client.connect import default_host
from portlayer.client.options import create_request
from portlayer.model.caller import Caller
from portlayer.model.errors import AlreadyExists, Conflict, InvalidArgument, NotFound
from portlayer.model.execution import RestartPolicy, replace
from portlayer.model.interaction import STDERR, STDOUT
from portlayer.model.network import Endpoints, ListEndpoints
from portlayer.model.storage import Progress

Ask = Callable[[Caller, ListEndpoints], Awaitable[Endpoints]]


async def made(pl: PortLayer, *command: str, name: str = "cookie_monster") -> str:
    return (await pl.execution.commit(Steps().create("busybox", *(command or ("true",)), name=name))).id


async def start(pl: PortLayer, ref: str) -> None:
    await pl.execution.commit(Steps(await pl.execution.get_container(ref)).set_state("running"))


async def test_the_seeds_workflow(pl: PortLayer) -> None:
    execution, network = pl.execution, pl.network
    id_ = await made(pl, "sleep", "1000")
    c: ContainerHandle = await execution.get_container("cookie_monster")
    n = await network.get_network("gibson_network")
    c = await network.join(c, n)
    c = bound = await network.bind(c)
    committed = await execution.commit(c)
    assert committed.id == c.id == id_
    assert isinstance(bound, BoundHandle)
    assert committed.endpoints[0].address == bound.endpoints[0].address != ""


async def test_a_mutation_gives_another_handle_that_shows_nothing(pl: PortLayer) -> None:
    first = await pl.execution.create("busybox", "true", name="one")
    second = await pl.execution.rename(first, "two")
    assert second != first
    assert second.id == first.id
    assert first.sealed not in repr(first)
    assert (await pl.execution.inspect(first)).proposed.name == "one"
    assert (await pl.execution.inspect(second)).proposed.name == "two"
    again = ContainerHandle(second.id, second.sealed)
    assert (await pl.execution.commit(again)).id == first.id


async def test_every_option_of_create_arrives(pl: PortLayer) -> None:
    handle = await pl.execution.create(
        "busybox",
        "a",
        "b",
        name="full",
        entrypoint=["/bin/echo"],
        env={"A": "1"},
        cwd="/tmp",
        user="1:2",
        terminal=True,
        init=True,
        cap_add=["NET_ADMIN"],
        cap_drop=["ALL"],
        cpus=0.5,
        memory_bytes=64 << 20,
        pids=10,
        labels={"l": "1"},
        annotations={"n": "2"},
        hostname="here",
        restart_policy=RestartPolicy(name="on-failure", maximum_retry_count=3),
        stop_signal="SIGINT",
        stop_timeout_seconds=3,
        read_only_rootfs=True,
    )
    proposed = (await pl.execution.inspect(handle)).proposed
    process = proposed.process
    assert process.args == ("/bin/echo", "a", "b")
    assert "A=1" in process.env
    assert (process.cwd, process.user, process.terminal, process.init) == ("/tmp", "1:2", True, True)
    assert (process.capabilities.add, process.capabilities.drop) == (("NET_ADMIN",), ("ALL",))
    assert (proposed.resources.cpus, proposed.resources.memory_bytes, proposed.resources.pids) == (0.5, 64 << 20, 10)
    assert (proposed.labels, proposed.annotations, proposed.hostname) == ({"l": "1"}, {"n": "2"}, "here")
    assert (proposed.restart_policy.name, proposed.restart_policy.maximum_retry_count) == ("on-failure", 3)
    assert (proposed.stop_signal, proposed.stop_timeout_seconds, proposed.read_only_rootfs) == ("SIGINT", 3, True)


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        create_request("busybox", (), {"colour": "blue"})  # type: ignore[typeddict-unknown-key]


async def test_steps_are_composed_and_committed_at_once(pl: PortLayer) -> None:
    await pl.storage.create_volume("jar")
    steps = (
        Steps()
        .create("busybox", "sleep", "1000", name="all")
        .set_labels({"a": "1"})
        .set_resources(pids=9)
        .set_restart_policy("no")
        .join_volume("jar", "/jar", read_only=True)
        .join_network("gibson_network", mac_address="02:00:00:00:00:99")
        .bind_network()
        .join_interaction(stdin=True)
        .bind_interaction()
    )
    composed = await pl.execution.compose(steps.rename("other"))
    assert (await pl.execution.inspect(composed)).proposed.name == "other"
    committed = await pl.execution.commit(steps.set_state("running"))
    found = await pl.execution.inspect_container("all")
    assert (found.id, found.state, found.labels, found.resources.pids) == (committed.id, "running", {"a": "1"}, 9)
    assert (found.mounts[0].volume, found.endpoints[0].mac_address) == ("jar", "02:00:00:00:00:99")
    stopped = Steps(await pl.execution.get_container("all")).set_state("stopped", timeout_seconds=0)
    await pl.execution.commit(stopped)
    undone = Steps(await pl.execution.get_container("all")).unbind_interaction().unbind_network()
    await pl.execution.commit(undone.leave_network("gibson_network").leave_volume(volume="jar"), strict=True)
    assert (await pl.execution.inspect_container("all")).endpoints == ()


async def test_what_a_step_raises_is_of_its_class(pl: PortLayer) -> None:
    with pytest.raises(NotFound):
        await pl.execution.commit(Steps().create("absent"))
    with pytest.raises(InvalidArgument, match="begin with"):
        await pl.execution.compose(Steps().rename("x"))
    handle = await pl.execution.create("busybox", "true")
    joined = await pl.network.join(handle, "gibson_network")
    assert joined.endpoint_id
    with pytest.raises(AlreadyExists):
        await pl.network.join(joined, "gibson_network")


async def test_a_stale_commit_names_what_collided(pl: PortLayer) -> None:
    await made(pl)
    stale = await pl.execution.get_container("cookie_monster")
    await pl.execution.commit(await pl.execution.set_labels(stale, {"colour": "blue"}))
    with pytest.raises(Conflict) as refused:
        await pl.execution.commit(await pl.execution.set_labels(stale, {"colour": "red"}))
    assert refused.value.facts["collisions"] == ("labels/colour",)
    await pl.execution.commit(await pl.execution.set_labels(stale, {"flavour": "mint"}))
    assert (await pl.execution.inspect_container("cookie_monster")).labels == {"colour": "blue", "flavour": "mint"}


async def test_several_containers_as_one_change(pl: PortLayer) -> None:
    one = await pl.execution.create("busybox", "true", name="one")
    host = (await pl.execution.inspect(one)).proposed.host  # one commit is for one host
    handles = [one, await pl.execution.create("busybox", "true", name="two", host=host)]
    assert {each.id for each in await pl.execution.commit_all(handles)} == {handle.id for handle in handles}
    assert {each.name for each in await pl.execution.list()} == {"one", "two"}


async def test_life_and_lists(pl: PortLayer) -> None:
    await made(pl, "sleep", "1000")
    await start(pl, "cookie_monster")
    handle = await pl.execution.get_container("cookie_monster")
    assert [each.id for each in await pl.execution.list(state="running", name="cookie_monster")] == [handle.id]
    assert await pl.execution.list(labels=["no=such"]) == ()
    await pl.execution.signal(handle, "SIGKILL")
    assert (await pl.execution.wait(handle)).exit_code == 137
    await pl.execution.commit(await pl.execution.set_resources(handle, memory_bytes=64 << 20))
    await pl.execution.discard(await pl.execution.set_restart_policy(handle, "always"))
    await pl.execution.remove(handle)
    with pytest.raises(NotFound):
        await pl.execution.get_container("cookie_monster")


async def test_streams(served: PortLayer) -> None:
    pl = served
    steps = Steps().create("busybox", "sh", "-c", "cat; echo done >&2; exit 3", name="eater")
    await pl.execution.commit(steps.join_interaction(stdin=True).bind_interaction())
    async with pl.interaction.attach("eater", stdin=True) as attachment:
        await start(pl, "eater")
        await attachment.write(b"cookie\n")
        output = aiter(attachment)
        assert (await anext(output)).data == b"cookie\n"
        await attachment.close_stdin()
        rest = [piece async for piece in output]
    assert [(piece.stream, piece.data) for piece in rest] == [(STDERR, b"done\n")]
    assert (attachment.exit_code, attachment.detached) == (3, False)
    chunks = [chunk async for chunk in pl.interaction.logs("eater", timestamps=True)]
    assert [(chunk.stream, chunk.data) for chunk in chunks] == [(STDOUT, b"cookie\n"), (STDERR, b"done\n")]
    assert [chunk.data async for chunk in pl.interaction.logs("eater", tail=1, stderr=False)] == [b"cookie\n"]


async def test_streams_without_an_attachment(pl: PortLayer) -> None:
    container = await pl.execution.create("busybox", "cat", name="plain")
    container = await pl.interaction.bind(await pl.interaction.join(container, stdin=True))
    await pl.execution.commit(await pl.execution.set_state(container, "running"))
    await pl.interaction.write_stdin("plain", b"one\n")
    async for chunk in pl.interaction.logs("plain", follow=True):
        assert chunk.data == b"one\n"
        await pl.interaction.close_stdin("plain")
    assert (await pl.execution.wait("plain")).exit_code == 0


async def test_detaching_leaves_it_running(served: PortLayer) -> None:
    pl = served
    container = await pl.execution.create("busybox", "cat", name="left")
    container = await pl.interaction.bind(await pl.interaction.join(container, stdin=True, terminal=True))
    await pl.execution.commit(await pl.execution.set_state(container, "running"))
    async with pl.interaction.attach("left", stdin=True, detach_keys="x,y") as attachment:
        await attachment.resize(100, 30)
        await attachment.write(b"xy")
        assert [piece async for piece in attachment] == []
    assert attachment.detached
    assert attachment.cursor is not None
    assert (await pl.execution.inspect_container("left")).state == "running"


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.mark.parametrize("kind", ["path", "bytes", "pieces"])
async def test_images_come_from_anywhere(pl: PortLayer, tmp_path: Path, kind: str) -> None:
    data = images.docker_archive(images.Built([images.tar([images.file("hello", b"x")])], "other:1"))
    (tmp_path / "image.tar").write_bytes(data)
    archive = {"path": tmp_path / "image.tar", "bytes": data, "pieces": pieces(data)}[kind]
    seen: list[Progress] = []
    (image,) = await pl.storage.import_image(archive, name="mine", progress=seen.append)  # type: ignore[arg-type]
    assert image.names == ("mine:latest",)
    assert (await pl.storage.inspect_image("mine")).id == image.id
    (layer,) = image.layers
    assert len(b"".join([piece async for piece in pl.storage.get_layer(layer.digest)])) == layer.size_bytes
    assert image.id in {each.id for each in await pl.storage.list_images()}
    await pl.storage.remove_image("mine")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        await pl.storage.import_image(tmp_path / "absent.tar")


async def test_volumes_and_networks(pl: PortLayer) -> None:
    volume = await pl.storage.create_volume("jar", labels={"a": "1"}, idempotency_key="k")
    assert (await pl.storage.create_volume("jar", labels={"a": "1"}, idempotency_key="k")).id == volume.id
    assert [each.name for each in await pl.storage.list_volumes(labels=["a"])] == ["jar"]
    assert (await pl.storage.inspect_volume("jar")).id == volume.id
    await pl.storage.remove_volume("jar")
    assert await pl.storage.image_stores()
    assert await pl.storage.volume_stores()
    network = await pl.network.create_network(
        "lan", subnets=["10.9.8.0/24"], internal=True, mtu=1400, labels={"a": "1"}
    )
    assert (network.subnets[0].subnet, network.internal, network.mtu) == ("10.9.8.0/24", True, 1400)
    handle = await pl.network.bind(
        await pl.network.join(await pl.execution.create("busybox", "true"), "lan", address="10.9.8.7")
    )
    handle = await pl.network.bind(await pl.network.unbind(handle))
    assert (await pl.execution.commit(handle)).endpoints == await pl.network.container_endpoints(handle)
    assert [each.address for each in await pl.network.network_endpoints("lan")] == [handle.endpoints[0].address]
    await pl.execution.commit(await pl.network.leave(await pl.execution.get_container(handle), "lan"))
    await pl.network.remove("lan")
    dual = await pl.network.create_network("dual", subnets=["fd00:9:8::/64"], ipv6=True)
    assert (dual.ipv6, dual.subnets[1].gateway, dual.free_addresses6) == (True, "fd00:9:8::1", 2**53 - 1)
    joined = await pl.network.join(await pl.execution.create("busybox", "true"), "dual", address6="fd00:9:8::77")
    (endpoint,) = (await pl.network.bind(joined)).endpoints
    assert (endpoint.address6, endpoint.prefix_length6, endpoint.gateway6) == ("fd00:9:8::77", 64, "fd00:9:8::1")
    await pl.network.remove("dual")
    assert [each.name for each in await pl.network.list()] == ["gibson_network"]


async def test_the_service(pl: PortLayer) -> None:
    assert (await pl.service.info()).api_version == "v1"
    assert (await pl.service.ready()).ready
    assert "portlayer_info" in await pl.service.metrics()
    assert (await pl.service.inspect_vch()).name == (await pl.service.list_vchs())[0].name == "default"
    entry = await pl.service.put_kv("k", b"v")
    assert (await pl.service.get_kv("k")).value == b"v"
    with pytest.raises(Conflict):
        await pl.service.put_kv("k", b"w", if_match="999999")
    await pl.service.delete_kv("k", if_match=entry.etag)
    await made(pl)
    async for numbered in pl.service.events("0"):
        if numbered.event.name == "cookie_monster":
            break


def test_where_the_server_is() -> None:
    assert default_host({}) == "unix:///run/portlayer/portlayer.sock"
    assert default_host({"PORTLAYER_RUN": "/x"}) == "unix:///x/portlayer.sock"
    assert default_host({"PORTLAYER_RUN": "/x", "PORTLAYER_HOST": "https://y"}) == "https://y"


async def test_all_endpoints_of_a_network_are_told_however_many(
    quick: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a server that gives less at once than it is asked for."""
    network = quick.pl.network
    for ask in (network.network_endpoints, network.container_endpoints):

        async def sparing(caller: Caller, request: ListEndpoints, ask: Ask = ask) -> Endpoints:
            return await ask(caller, replace(request, limit=1))

        monkeypatch.setattr(network, ask.__name__, sparing)
    async with connect(quick.pl) as pl:
        await pl.network.create_network("lan")
        ids = set()
        for name in ("one", "two", "three"):
            steps = Steps().create("busybox", "true", name=name).join_network("lan").join_network("gibson_network")
            ids.add((await pl.execution.commit(steps)).id)
        assert {each.container_id for each in await pl.network.network_endpoints("lan")} == ids
        assert {each.network for each in await pl.network.container_endpoints("one")} == {"lan", "gibson_network"}
