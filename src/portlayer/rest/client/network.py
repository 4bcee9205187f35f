"""Network over REST."""

from __future__ import annotations

from portlayer.model import network as m
from portlayer.model.caller import Caller
from portlayer.model.storage import HandleAnswer
from portlayer.rest.calls import network as calls
from portlayer.rest.client.remote import Remote


class RestNetwork(Remote):
    """Implements interfaces.network.Network."""

    async def join(self, caller: Caller, request: m.JoinNetwork) -> m.JoinedNetwork:
        return await self._connection.call(calls.JOIN, caller, request)

    async def bind(self, caller: Caller, request: m.BindNetwork) -> m.BoundNetwork:
        return await self._connection.call(calls.BIND, caller, request)

    async def unbind(self, caller: Caller, request: m.BindNetwork) -> m.BoundNetwork:
        return await self._connection.call(calls.UNBIND, caller, request)

    async def leave(self, caller: Caller, request: m.LeaveNetwork) -> HandleAnswer:
        return await self._connection.call(calls.LEAVE, caller, request)

    async def create_network(self, caller: Caller, request: m.CreateNetwork) -> m.Network:
        return await self._connection.call(calls.CREATE_NETWORK, caller, request)

    async def list_networks(self, caller: Caller, request: m.ListNetworks) -> m.Networks:
        return await self._connection.call(calls.LIST_NETWORKS, caller, request)

    async def get_network(self, caller: Caller, request: m.NetworkRef) -> m.Network:
        return await self._connection.call(calls.GET_NETWORK, caller, request)

    async def delete_network(self, caller: Caller, request: m.NetworkRef) -> None:
        await self._connection.call(calls.DELETE_NETWORK, caller, request)

    async def handle(self, caller: Caller, request: m.NetworkRef) -> m.NetworkHandle:
        return await self._connection.call(calls.HANDLE, caller, request)

    async def network_endpoints(self, caller: Caller, request: m.ListEndpoints) -> m.Endpoints:
        return await self._connection.call(calls.NETWORK_ENDPOINTS, caller, request)

    async def container_endpoints(self, caller: Caller, request: m.ListEndpoints) -> m.Endpoints:
        return await self._connection.call(calls.CONTAINER_ENDPOINTS, caller, request)
