"""The same client for callers without an event loop: the same names and arguments, without `await`.

Nothing is done twice: each method here is made of the async one, and its types are derived from that one's.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from portlayer.client.attachment import Attachment
from portlayer.client.connect import RETRIES, PortLayer, connect
from portlayer.client.execution import Execution
from portlayer.client.interaction import Interaction
from portlayer.client.network import Network
from portlayer.client.portal import Portal
from portlayer.client.service import Service
from portlayer.client.storage import Storage
from portlayer.interfaces.components import Components

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class Sync(Generic[A]):
    """An object of type A, used from a thread that has no event loop."""

    def __init__(self, portal: Portal, asynchronous: A) -> None:
        self._portal = portal
        self._asynchronous = asynchronous


def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Sync[A], P], T]:
    """*method*, waited for."""

    @functools.wraps(method)
    def call(self: Sync[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._portal.call(method(self._asynchronous, *args, **kwargs))

    return call


def iterating(method: Callable[Concatenate[A, P], AsyncIterator[T]]) -> Callable[Concatenate[Sync[A], P], Iterator[T]]:
    """*method*, whose items are waited for one by one."""

    @functools.wraps(method)
    def call(self: Sync[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._portal.iterate(method(self._asynchronous, *args, **kwargs))

    return call


class SyncAttachment(Sync[Attachment]):
    """As Attachment. One thread may read while another writes."""

    write = blocking(Attachment.write)
    detach = blocking(Attachment.detach)
    close_stdin = blocking(Attachment.close_stdin)
    resize = blocking(Attachment.resize)
    __iter__ = iterating(Attachment.__aiter__)

    @property
    def exit_code(self) -> int | None:
        return self._asynchronous.exit_code

    @property
    def start_error(self) -> str | None:
        return self._asynchronous.start_error

    @property
    def detached(self) -> bool:
        return self._asynchronous.detached

    @property
    def cursor(self) -> str | None:
        return self._asynchronous.cursor


def attaching(
    method: Callable[Concatenate[A, P], AbstractAsyncContextManager[Attachment]],
) -> Callable[Concatenate[Sync[A], P], AbstractContextManager[SyncAttachment]]:
    """*method*, whose attachment is used from this thread."""

    @functools.wraps(method)
    @contextmanager
    def call(self: Sync[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[SyncAttachment]:
        with self._portal.enter(method(self._asynchronous, *args, **kwargs)) as attachment:
            yield SyncAttachment(self._portal, attachment)

    return call


class SyncService(Sync[Service]):
    """As Service."""

    info = blocking(Service.info)
    ready = blocking(Service.ready)
    list_processes = blocking(Service.list_processes)
    metrics = blocking(Service.metrics)
    list_vchs = blocking(Service.list_vchs)
    inspect_vch = blocking(Service.inspect_vch)
    create_token = blocking(Service.create_token)
    list_tokens = blocking(Service.list_tokens)
    delete_token = blocking(Service.delete_token)
    remove_host = blocking(Service.remove_host)
    create_certificate = blocking(Service.create_certificate)
    list_certificates = blocking(Service.list_certificates)
    revoke_certificate = blocking(Service.revoke_certificate)
    authorities = blocking(Service.authorities)
    rotate_ca = blocking(Service.rotate_ca)
    create_vch = blocking(Service.create_vch)
    set_quota = blocking(Service.set_quota)
    remove_vch = blocking(Service.remove_vch)
    events = iterating(Service.events)
    get_kv = blocking(Service.get_kv)
    put_kv = blocking(Service.put_kv)
    delete_kv = blocking(Service.delete_kv)


class SyncStorage(Sync[Storage]):
    """As Storage."""

    join = blocking(Storage.join)
    leave = blocking(Storage.leave)
    import_image = blocking(Storage.import_image)
    list_images = blocking(Storage.list_images)
    inspect_image = blocking(Storage.inspect_image)
    remove_image = blocking(Storage.remove_image)
    get_layer = iterating(Storage.get_layer)
    create_volume = blocking(Storage.create_volume)
    list_volumes = blocking(Storage.list_volumes)
    inspect_volume = blocking(Storage.inspect_volume)
    remove_volume = blocking(Storage.remove_volume)
    image_stores = blocking(Storage.image_stores)
    volume_stores = blocking(Storage.volume_stores)


class SyncExecution(Sync[Execution]):
    """As Execution."""

    create = blocking(Execution.create)
    get_container = blocking(Execution.get_container)
    set_state = blocking(Execution.set_state)
    set_labels = blocking(Execution.set_labels)
    set_resources = blocking(Execution.set_resources)
    set_restart_policy = blocking(Execution.set_restart_policy)
    rename = blocking(Execution.rename)
    inspect = blocking(Execution.inspect)
    compose = blocking(Execution.compose)
    commit = blocking(Execution.commit)
    recall = blocking(Execution.recall)
    commit_all = blocking(Execution.commit_all)
    discard = blocking(Execution.discard)
    list = blocking(Execution.list)
    inspect_container = blocking(Execution.inspect_container)
    remove = blocking(Execution.remove)
    signal = blocking(Execution.signal)
    wait = blocking(Execution.wait)


class SyncNetwork(Sync[Network]):
    """As Network."""

    get_network = blocking(Network.get_network)
    join = blocking(Network.join)
    bind = blocking(Network.bind)
    unbind = blocking(Network.unbind)
    leave = blocking(Network.leave)
    create_network = blocking(Network.create_network)
    list = blocking(Network.list)
    inspect_network = blocking(Network.inspect_network)
    remove = blocking(Network.remove)
    network_endpoints = blocking(Network.network_endpoints)
    container_endpoints = blocking(Network.container_endpoints)


class SyncInteraction(Sync[Interaction]):
    """As Interaction."""

    join = blocking(Interaction.join)
    bind = blocking(Interaction.bind)
    unbind = blocking(Interaction.unbind)
    attach = attaching(Interaction.attach)
    output = iterating(Interaction.output)
    write_stdin = blocking(Interaction.write_stdin)
    close_stdin = blocking(Interaction.close_stdin)
    resize = blocking(Interaction.resize)
    logs = iterating(Interaction.logs)


class SyncPortLayer:
    """As PortLayer."""

    def __init__(self, portal: Portal, portlayer: PortLayer) -> None:
        self.service = SyncService(portal, portlayer.service)
        self.storage = SyncStorage(portal, portlayer.storage)
        self.execution = SyncExecution(portal, portlayer.execution)
        self.network = SyncNetwork(portal, portlayer.network)
        self.interaction = SyncInteraction(portal, portlayer.interaction)


@contextmanager
def connect_sync(
    components: Components | None = None,
    *,
    host: str | None = None,
    vch: str | None = None,
    retries: int = RETRIES,
    token: str | None = None,
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    key: str | Path | None = None,
) -> Iterator[SyncPortLayer]:
    """As connect. The event loop runs in a thread of its own, which ends with the block."""
    portal = Portal()
    way = connect(components, host=host, vch=vch, retries=retries, token=token, ca=ca, cert=cert, key=key)
    try:
        with portal.enter(way) as portlayer:
            yield SyncPortLayer(portal, portlayer)
    finally:
        portal.close()
