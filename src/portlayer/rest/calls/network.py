"""The calls of network: networks, endpoints, addresses."""

from __future__ import annotations

from portlayer.model import network as m
from portlayer.model.storage import HandleAnswer
from portlayer.rest.calls.call import Table

_table = Table("network")

JOIN = _table.mutation("join", m.JoinNetwork, m.JoinedNetwork)
BIND = _table.mutation("bind", m.BindNetwork, m.BoundNetwork)
UNBIND = _table.mutation("unbind", m.BindNetwork, m.BoundNetwork)
LEAVE = _table.mutation("leave", m.LeaveNetwork, HandleAnswer)

CREATE_NETWORK = _table.create("create-network", "networks", m.CreateNetwork, m.Network)
LIST_NETWORKS = _table.get("list-networks", "networks", m.ListNetworks, m.Networks)
GET_NETWORK = _table.get("get-network", "networks/{ref}", m.NetworkRef, m.Network)
DELETE_NETWORK = _table.delete("delete-network", "networks/{ref}", m.NetworkRef)
HANDLE = _table.post("handle", "networks/{ref}/handle", m.NetworkRef, m.NetworkHandle, acts=False)
NETWORK_ENDPOINTS = _table.get("network-endpoints", "networks/{ref}/endpoints", m.ListEndpoints, m.Endpoints)
CONTAINER_ENDPOINTS = _table.get("container-endpoints", "containers/{ref}/endpoints", m.ListEndpoints, m.Endpoints)

CALLS = _table.calls
