"""Execution over REST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from portlayer.model import execution as m
from portlayer.model.caller import Caller
from portlayer.model.storage import HandleAnswer
from portlayer.rest.calls import compose
from portlayer.rest.calls import execution as calls
from portlayer.rest.client.connection import decoded
from portlayer.rest.client.remote import Remote
from portlayer.rest.pointers import refusal


class RestExecution(Remote):
    """Implements interfaces.execution.Execution, and what REST adds to it: `compose`."""

    async def create(self, caller: Caller, request: m.Create) -> m.Created:
        return await self._connection.call(calls.CREATE, caller, request)

    async def set_state(self, caller: Caller, request: m.SetState) -> HandleAnswer:
        return await self._connection.call(calls.SET_STATE, caller, request)

    async def set_labels(self, caller: Caller, request: m.SetLabels) -> HandleAnswer:
        return await self._connection.call(calls.SET_LABELS, caller, request)

    async def set_resources(self, caller: Caller, request: m.SetResources) -> HandleAnswer:
        return await self._connection.call(calls.SET_RESOURCES, caller, request)

    async def set_restart_policy(self, caller: Caller, request: m.SetRestartPolicy) -> HandleAnswer:
        return await self._connection.call(calls.SET_RESTART_POLICY, caller, request)

    async def rename(self, caller: Caller, request: m.Rename) -> HandleAnswer:
        return await self._connection.call(calls.RENAME, caller, request)

    async def inspect(self, caller: Caller, request: m.Inspect) -> m.Inspected:
        return await self._connection.call(calls.INSPECT, caller, request)

    async def commit(self, caller: Caller, request: m.Commit) -> m.Committed | m.CommittedMany:
        body = await self._connection.fetch(calls.COMMIT, caller, request)
        answer: m.Committed | m.CommittedMany = decoded(m.CommittedMany if request.handles else m.Committed, body)
        return answer

    async def recall(self, caller: Caller, request: m.Recall) -> m.Recalled:
        return await self._connection.call(calls.RECALL, caller, request)

    async def discard(self, caller: Caller, request: m.Discard) -> None:
        await self._connection.call(calls.DISCARD, caller, request)

    async def compose(self, caller: Caller, steps: Sequence[Mapping[str, Any]]) -> compose.Composed:
        """Several mutations in one round trip: `{"call": "network/join", "network": "lan"}` and so on, each on the
        handle that the one before gave. What fails is named in the error, and its leases are given back."""
        try:
            request = msgspec.convert({"steps": steps}, compose.Compose)
        except msgspec.ValidationError as error:
            raise refusal(error) from error
        return await self._connection.call(compose.COMPOSE, caller, request)

    async def list_containers(self, caller: Caller, request: m.ListContainers) -> m.Containers:
        return await self._connection.call(calls.LIST_CONTAINERS, caller, request)

    async def get_container(self, caller: Caller, request: m.ContainerRef) -> m.Container:
        return await self._connection.call(calls.GET_CONTAINER, caller, request)

    async def handle(self, caller: Caller, request: m.ContainerRef) -> m.ContainerHandle:
        return await self._connection.call(calls.HANDLE, caller, request)

    async def delete_container(self, caller: Caller, request: m.DeleteContainer) -> None:
        await self._connection.call(calls.DELETE_CONTAINER, caller, request)

    async def signal(self, caller: Caller, request: m.Signal) -> None:
        await self._connection.call(calls.SIGNAL, caller, request)

    async def wait(self, caller: Caller, request: m.Wait) -> m.Waited:
        return await self._connection.call(calls.WAIT, caller, request)
