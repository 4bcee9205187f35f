"""The sync client: the same surface as the async one, and it works from any thread."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import portlayer.client
from portlayer.client import Attachment, Steps, connect_sync, sync
from portlayer.client.execution import Execution
from portlayer.client.interaction import Interaction
from portlayer.client.network import Network
from portlayer.client.service import Service
from portlayer.client.storage import Storage
from portlayer.interfaces import execution, interaction, network, service, storage
from portlayer.model.errors import NotFound

PAIRS = [
    (Service, sync.SyncService),
    (Storage, sync.SyncStorage),
    (Execution, sync.SyncExecution),
    (Network, sync.SyncNetwork),
    (Interaction, sync.SyncInteraction),
    (Attachment, sync.SyncAttachment),
]


def methods(kind: type) -> dict[str, inspect.Signature]:
    found = {name: value for name, value in vars(kind).items() if inspect.isfunction(value)}
    return {
        name: inspect.signature(value)
        for name, value in found.items()
        if not name.startswith("_") or name == "__iter__"
    }


@pytest.mark.parametrize(("asynchronous", "synchronous"), PAIRS)
def test_both_have_the_same_methods_with_the_same_arguments(asynchronous: type, synchronous: type) -> None:
    theirs = methods(synchronous)
    theirs.pop("__iter__", None)
    assert theirs == methods(asynchronous)


@pytest.mark.parametrize(
    ("protocol", "offered", "renamed"),
    [
        (
            service.Service,
            Service,
            {
                "get_vch": "inspect_vch",
                "update_vch": "set_quota",
                "delete_vch": "remove_vch",
                "delete_host": "remove_host",
                "delete_certificate": "revoke_certificate",
            },
        ),
        (
            storage.Storage,
            Storage,
            {
                "get_image": "inspect_image",
                "delete_image": "remove_image",
                "get_volume": "inspect_volume",
                "delete_volume": "remove_volume",
            },
        ),
        (
            execution.Execution,
            Execution,
            {
                "list_containers": "list",
                "get_container": "inspect_container",
                "handle": "get_container",
                "delete_container": "remove",
            },
        ),
        (
            network.Network,
            Network,
            {
                "list_networks": "list",
                "get_network": "inspect_network",
                "delete_network": "remove",
                "handle": "get_network",
            },
        ),
        (interaction.Interaction, Interaction, {}),
    ],
)
def test_every_call_of_the_interfaces_is_offered(protocol: type, offered: type, renamed: dict[str, str]) -> None:
    wanted = {renamed.get(name, name) for name in methods(protocol)}
    assert wanted <= methods(offered).keys()


def test_the_public_names() -> None:
    assert set(portlayer.client.__all__) == {
        "Attachment",
        "BoundHandle",
        "ContainerHandle",
        "CreateOptions",
        "JoinOptions",
        "JoinedHandle",
        "NetworkHandle",
        "Output",
        "PortLayer",
        "Steps",
        "SyncAttachment",
        "SyncPortLayer",
        "connect",
        "connect_sync",
    }


def blocking_story(host: str) -> None:
    with connect_sync(host=host) as pl:
        c = pl.execution.create("busybox", "cat", name="cookie_monster")
        c = pl.interaction.bind(pl.interaction.join(c, stdin=True))
        pl.execution.commit(c)
        c = pl.execution.get_container("cookie_monster")
        c = pl.network.join(c, pl.network.get_network("gibson_network"))
        bound = pl.network.bind(c)
        assert pl.execution.commit(bound).endpoints == bound.endpoints
        with pl.interaction.attach("cookie_monster", stdin=True) as attachment:
            pl.execution.commit(Steps(pl.execution.get_container("cookie_monster")).set_state("running"))
            attachment.write(b"hello\n")
            attachment.close_stdin()
            assert b"".join(piece.data for piece in attachment) == b"hello\n"
        assert (attachment.exit_code, attachment.start_error, attachment.detached) == (0, None, False)
        assert [chunk.data for chunk in pl.interaction.logs("cookie_monster")] == [b"hello\n"]
        for numbered in pl.service.events("0"):
            if numbered.event.type == "container.exited":
                break
        with pytest.raises(NotFound):
            pl.execution.inspect_container("absent")


async def test_the_same_story_without_await(host: str) -> None:
    await asyncio.to_thread(blocking_story, host)
    assert "portlayer" not in {thread.name for thread in threading.enumerate()}


def test_its_types_are_those_of_the_async_one(tmp_path: Path) -> None:
    """A wrong keyword and a wrong type are found by mypy, through what makes the sync methods."""
    script = tmp_path / "script.py"
    script.write_text(
        "from portlayer.client import ContainerHandle, connect_sync\n"
        "with connect_sync() as pl:\n"
        "    c: ContainerHandle = pl.execution.create('busybox', 'true', name='x')\n"
        "    address: str = pl.network.bind(c).endpoints[0].address\n"
        "    pl.execution.create('busybox', nmae='x')\n"
        "    pl.execution.commit('x')\n"
    )
    cache = Path(__file__).parents[2] / ".mypy_cache"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), str(script)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    assert [line.split("[")[-1] for line in found[:-1]] == ["call-arg]", "arg-type]"], found
