"""The Python client: the seed's verbs, async and sync, over a port layer that is anywhere.

    async with connect() as pl:
        container = await pl.execution.get_container("cookie_monster")
        network = await pl.network.get_network("gibson_network")
        container = await pl.network.join(container, network)
        container = await pl.network.bind(container)
        await pl.execution.commit(container)

Errors are those of `portlayer.model.errors`; what calls answer are the values of `portlayer.model`.
"""

from __future__ import annotations

from portlayer.client.attachment import Attachment
from portlayer.client.connect import PortLayer, connect
from portlayer.client.handles import BoundHandle, ContainerHandle, JoinedHandle, NetworkHandle
from portlayer.client.options import CreateOptions, JoinOptions
from portlayer.client.steps import Steps
from portlayer.client.sync import SyncAttachment, SyncPortLayer, connect_sync
from portlayer.interfaces.interaction import Output

__all__ = [
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
]
