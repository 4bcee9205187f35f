"""Whichever components share a process: any grouping of the four is one port layer, from each of its processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from apart.cluster import COMPONENTS, Cluster
from apart.test_topologies import furnish

from portlayer.model.topology import Part, Topology
from portlayer.stores.memory import MemoryStore

Groups = tuple[tuple[str, ...], ...]


def groupings(names: tuple[str, ...]) -> Iterator[Groups]:
    """All ways to share *names* out among processes."""
    if not names:
        yield ()
        return
    first, *rest = names
    for others in groupings(tuple(rest)):
        yield ((first,), *others)
        for at, group in enumerate(others):
            yield (*others[:at], (first, *group), *others[at + 1 :])


ALL = {" | ".join("+".join(group) for group in groups): groups for groups in groupings(COMPONENTS)}


def test_there_are_as_many_as_there_can_be() -> None:
    assert len(ALL) == 15
    assert all(sorted(name for group in groups for name in group) == sorted(COMPONENTS) for groups in ALL.values())


@pytest.mark.parametrize("name", ALL)
async def test_each_is_a_port_layer_from_each_of_its_processes(tmp_path: Path, name: str) -> None:
    parts = tuple(Part(name=group[0], components=group) for group in ALL[name])
    async with Cluster(Topology(parts=parts), MemoryStore(), tmp_path) as cluster:
        async with cluster.at() as pl:
            await furnish(pl)
            await pl.storage.create_volume("jar")
        for door in cluster.doors:
            async with cluster.at(door) as pl:
                c = await pl.execution.create("busybox", "sh", "-c", "cat > /jar/it; cat /jar/it; exit 3", name=door)
                c = await pl.storage.join(c, "jar", "/jar")
                c = await pl.network.bind(await pl.network.join(c, "gibson_network"))
                c = await pl.interaction.bind(await pl.interaction.join(c, stdin=True))
                done = await pl.execution.commit(await pl.execution.set_state(c, "running"))
                assert done.endpoints[0].address
                async with pl.interaction.attach(door, stdin=True) as attached:
                    await attached.write(b"hello\n")
                    await attached.close_stdin()
                    assert [output.data async for output in attached] == [b"hello\n"]
                assert (await pl.execution.wait(door, timeout_seconds=20)).exit_code == 3
                assert [chunk.data async for chunk in pl.interaction.logs(door)] == [b"hello\n"]
                await pl.execution.remove(door)
