"""Examples for the document: a request and its answer, of the types that the calls have."""

from __future__ import annotations

from typing import Any

from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.rest.calls import compose, execution, network, storage
from portlayer.rest.calls.call import Call

_ID = "5f0c8a2be1d94f6fb0a1c2d3e4f50617"
_NETWORK_ID = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
_ENDPOINT_ID = "9e8d7c6b5a4f3e2d1c0b9a8f7e6d5c4b"
_HANDLE = "pl1.BbQ0dJ8xk2Jq"
_NEXT = "pl1.FvT7sW1mZ5Rn"
_WHEN = "2026-11-23T06:01:00.000000000Z"

_ENDPOINT = n.Endpoint(
    id=_ENDPOINT_ID,
    network="gibson_network",
    network_id=_NETWORK_ID,
    container_id=_ID,
    address="10.88.0.2",
    prefix_length=24,
    gateway="10.88.0.1",
    mac_address="02:42:0a:58:00:02",
    aliases=("monster",),
    ports=(),
    state="bound",
    address6="fd5c:1e4a:9b07::2",
    prefix_length6=64,
    gateway6="fd5c:1e4a:9b07::1",
)
_COMMITTED = e.Committed(id=_ID, revision=42, state="running", endpoints=(_ENDPOINT,), tasks=())
_SUBNET = n.Subnet(subnet="10.88.0.0/24", gateway="10.88.0.1")
_SUBNET6 = n.Subnet(subnet="fd5c:1e4a:9b07::/64", gateway="fd5c:1e4a:9b07::1")

EXAMPLES: dict[Call[Any, Any], tuple[Any, Any]] = {
    execution.CREATE: (
        e.Create(image="busybox", name="cookie_monster", process=e.ProcessRequest(args=("sleep", "60"))),
        e.Created(handle=_HANDLE, id=_ID),
    ),
    execution.SET_STATE: (e.SetState(handle=_HANDLE, state="running"), s.HandleAnswer(handle=_NEXT)),
    execution.COMMIT: (e.Commit(handle=_HANDLE), _COMMITTED),
    execution.HANDLE: ({}, e.ContainerHandle(handle=_HANDLE, id=_ID, revision=42)),
    execution.SIGNAL: ({"signal": "SIGTERM"}, None),
    compose.COMPOSE: (
        {
            "steps": [
                {"call": "execution/create", "image": "busybox", "name": "cookie_monster"},
                {"call": "network/join", "network": "gibson_network"},
                {"call": "network/bind"},
                {"call": "execution/set-state", "state": "running"},
                {"call": "execution/commit"},
            ]
        },
        compose.Composed(answers=({"handle": _HANDLE, "id": _ID},), handle=_NEXT),
    ),
    storage.CREATE_VOLUME: (
        s.CreateVolume(name="cookies"),
        s.Volume(id=_ID, name="cookies", store="default", labels={}, created_at=_WHEN),
    ),
    storage.JOIN: (
        s.JoinVolume(handle=_HANDLE, volume="cookies", destination="/jar"),
        s.HandleAnswer(handle=_NEXT),
    ),
    network.CREATE_NETWORK: (
        n.CreateNetwork(name="gibson_network", subnets=(_SUBNET,), ipv6=True),
        n.Network(
            id=_NETWORK_ID,
            name="gibson_network",
            type="bridge",
            subnets=(_SUBNET, _SUBNET6),
            dns=(),
            internal=False,
            mtu=1500,
            labels={},
            created_at=_WHEN,
            allocated_addresses=0,
            free_addresses=253,
            ipv6=True,
            allocated_addresses6=0,
            free_addresses6=n.COUNTABLE,
        ),
    ),
    network.JOIN: (
        n.JoinNetwork(handle=_HANDLE, network="gibson_network", aliases=("monster",), address6="fd5c:1e4a:9b07::2"),
        n.JoinedNetwork(handle=_NEXT, endpoint_id=_ENDPOINT_ID),
    ),
    network.BIND: (n.BindNetwork(handle=_HANDLE), n.BoundNetwork(handle=_NEXT, endpoints=(_ENDPOINT,))),
}
