"""No component imports another, holds one, or calls one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import builders
import grimp
import images
import pytest
from apart.cluster import COMPONENTS, opened

from portlayer.client import Steps
from portlayer.components.departures import Departures
from portlayer.compose.layers import StorageLayers
from portlayer.compose.peers import Peers
from portlayer.interfaces.components import Components

OWN = {
    "storage": ("imports", "blobs"),
    "execution": ("commit", "creation", "observer", "reconciler"),
    "network": ("ports", "subnets"),
    "interaction": ("attachment",),
}
"""What a component has for itself in portlayer.components. What is in none of these all may use: it is over the store
alone."""


def inside(name: str) -> set[str]:
    """The modules that are the component *name* and its own, as prefixes."""
    return {f"portlayer.components.{module}" for module in (name, *OWN[name])}


def test_none_imports_another_nor_what_another_has_for_itself() -> None:
    graph = grimp.build_graph("portlayer")
    for name in COMPONENTS:
        mine = {one for one in graph.modules if any(one == own or one.startswith(f"{own}.") for own in inside(name))}
        assert len(mine) > len(OWN[name]), name
        reached = mine.union(*(graph.find_upstream_modules(module) for module in mine))
        for other in set(COMPONENTS) - {name}:
            foreign = {one for one in reached if any(one == own or one.startswith(f"{own}.") for own in inside(other))}
            assert not foreign, (name, other)
        assert not any(one.startswith(("portlayer.rest", "portlayer.compose", "portlayer.client")) for one in reached)


def held(thing: Any) -> Iterator[Any]:
    """What *thing* holds on to; not by way of the composition root, which tells each part of a VCH that it goes, and
    brings a host the layers that it lacks, by their digests."""
    match thing:
        case Departures() | StorageLayers():
            return
        case dict():
            yield from thing.values()
        case list() | tuple() | set() | frozenset():
            yield from thing
        case MethodType() | BuiltinFunctionType():
            yield thing.__self__
        case FunctionType():
            yield from (cell.cell_contents for cell in thing.__closure__ or ())
        case _ if type(thing).__module__.startswith(("portlayer", "functools")):
            yield from getattr(thing, "__dict__", {}).values()
            slots = (name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()))
            yield from (getattr(thing, name) for name in slots if hasattr(thing, name))


def reachable(thing: Any) -> dict[int, Any]:
    """All that *thing* holds, however far away, by identity."""
    found: dict[int, Any] = {}
    todo = [thing]
    while todo:
        one = todo.pop()
        if id(one) not in found:
            found[id(one)] = one
            todo.extend(held(one))
    return found


async def test_none_holds_another_even_in_one_process(tmp_path: Path) -> None:
    async with opened("all in one", tmp_path) as cluster:
        components: Components = cluster.entry.here
        for name in COMPONENTS:
            found = reachable(getattr(components, name))
            assert len(found) > 50, name
            for other in set(COMPONENTS) - {name}:
                assert id(getattr(components, other)) not in found, (name, other)


async def test_none_calls_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for, only the process that was asked passes calls on; and the one that a compose was passed on
    to passes on its steps, and nothing else."""
    looked: list[tuple[str, str]] = []
    find = Peers.find

    def noted(self: Peers, component: str, *more: Any) -> Any:
        looked.append((self._me.name, component))
        return find(self, component, *more)

    monkeypatch.setattr(Peers, "find", noted)
    async with opened("each apart", tmp_path) as cluster, cluster.at() as pl:
        await pl.storage.import_image(images.stream(builders.layer()[1]), name="busybox", format="rootfs")
        await pl.storage.create_volume("jar")
        await pl.network.create_network("lan")
        steps = Steps().create("busybox", "cat", name="one").join_volume("jar", "/jar").join_network("lan")
        steps = steps.bind_network().join_interaction(stdin=True).bind_interaction().set_state("running")
        await pl.execution.commit(steps)
        async with pl.interaction.attach("one", stdin=True) as attached:
            await attached.write(b"hello\n")
            await attached.close_stdin()
            assert [output.data async for output in attached] == [b"hello\n"]
        assert [chunk.data async for chunk in pl.interaction.logs("one")] == [b"hello\n"]
        await pl.execution.remove("one")
        await pl.network.remove("lan")
        await pl.storage.remove_volume("jar")
        await pl.storage.remove_image("busybox")
        await pl.service.create_vch("other")
        await pl.service.remove_vch("other", force=True)
    assert {component for _, component in looked} == set(COMPONENTS)
    assert {name for name, _ in looked} == {"door", "execution"}
    steps_elsewhere = ["storage", "network", "network", "interaction", "interaction"]
    assert [component for name, component in looked if name == "execution"] == steps_elsewhere
