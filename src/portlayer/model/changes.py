"""Changes: what a handle carries, and the pure functions over them.

A change is a small frozen value. Two functions say all there is to know of it:

    apply(spec, change) -> spec     the fold that previews a draft and that commit replays on the newest spec
    facets(change)                  what it changes or relies on, as names such as `name`, `labels/colour`,
                                    `endpoints/<network id>`; two commits collide only where these meet

The state of a process is not in the spec: `state` is a facet all the same, so that two callers who both set
it collide.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from portlayer.model.base import Value
from portlayer.model.errors import AlreadyExists, InvalidState, NotFound
from portlayer.model.execution import ContainerSpec, Resources, RestartPolicy, replace
from portlayer.model.interaction import InteractionSpec
from portlayer.model.network import EndpointSpec
from portlayer.model.storage import MountSpec


class Change(Value, tag_field="change"):
    """Base of the tagged union."""


class CreateContainer(Change, tag="create"):
    spec: ContainerSpec


class PlaceContainer(Change, tag="place"):
    """Another host for a container that has none for good yet: a volume that it joins lives there."""

    host: str


class ChangeState(Change, tag="setState"):
    """restart: by a restart policy, which counts it; any other start begins to count anew."""

    state: Literal["running", "stopped", "paused"]
    timeout_seconds: float | None = None
    restart: bool = False


class MergeLabels(Change, tag="setLabels"):
    labels: dict[str, str | None]


class ChangeResources(Change, tag="setResources"):
    resources: Resources


class ChangeRestartPolicy(Change, tag="setRestartPolicy"):
    restart_policy: RestartPolicy


class RenameContainer(Change, tag="rename"):
    name: str


class AddMount(Change, tag="storage.join"):
    mount: MountSpec


class RemoveMount(Change, tag="storage.leave"):
    destination: str


class AddEndpoint(Change, tag="network.join"):
    endpoint: EndpointSpec


class ActivateEndpoint(Change, tag="network.bind"):
    """The address, and in a network with IPv6 both of them, were leased under `claim`; commit turns that lease into an
    allocation."""

    network: str
    endpoint: str
    address: str
    prefix_length: int
    gateway: str
    claim: str
    address6: str = ""
    prefix_length6: int = 0
    gateway6: str = ""


class DeactivateEndpoint(Change, tag="network.unbind"):
    network: str


class RemoveEndpoint(Change, tag="network.leave"):
    network: str


class AddInteraction(Change, tag="interaction.join"):
    interaction: InteractionSpec


class ActivateInteraction(Change, tag="interaction.bind"):
    pass


class DeactivateInteraction(Change, tag="interaction.unbind"):
    pass


class RemoveContainer(Change, tag="remove"):
    """Only ever made by DELETE; relies on everything. volumes: id -> name of those that go with the container."""

    force: bool = False
    volumes: dict[str, str] = {}


MOST_TOUCHED = 1000
"""How many facets of a container are remembered by themselves: those that were touched last."""

AnyChange = (
    CreateContainer
    | PlaceContainer
    | ChangeState
    | MergeLabels
    | ChangeResources
    | ChangeRestartPolicy
    | RenameContainer
    | AddMount
    | RemoveMount
    | AddEndpoint
    | ActivateEndpoint
    | DeactivateEndpoint
    | RemoveEndpoint
    | AddInteraction
    | ActivateInteraction
    | DeactivateInteraction
    | RemoveContainer
)


def apply(spec: ContainerSpec | None, change: AnyChange) -> ContainerSpec:
    """The spec after *change*.

    Raises:
        AlreadyExists, NotFound, InvalidState: the change does not fit this spec.
    """
    if isinstance(change, CreateContainer):
        if spec is not None:
            raise AlreadyExists("This container has been created already.", kind="container", id=spec.id)
        return change.spec
    if spec is None:
        raise NotFound("This container has been removed.", kind="container")
    match change:
        case ChangeState() | RemoveContainer():
            return spec
        case PlaceContainer(host=host):
            return replace(spec, host=host)
        case MergeLabels(labels=labels):
            merged = {**spec.labels, **labels}
            return replace(spec, labels={key: value for key, value in merged.items() if value is not None})
        case ChangeResources(resources=resources):
            return replace(spec, resources=resources)
        case ChangeRestartPolicy(restart_policy=policy):
            return replace(spec, restart_policy=policy)
        case RenameContainer(name=name):
            return replace(spec, name=name)
        case AddMount() | RemoveMount():
            return _apply_mount(spec, change)
        case AddEndpoint() | ActivateEndpoint() | DeactivateEndpoint() | RemoveEndpoint():
            return _apply_endpoint(spec, change)
        case AddInteraction() | ActivateInteraction() | DeactivateInteraction():
            return _apply_interaction(spec, change)
    raise AssertionError(change)


def fold(spec: ContainerSpec | None, changes: Iterable[AnyChange]) -> ContainerSpec:
    """*changes* applied in order; raises what `apply` raises. With no changes at all, the spec must be there."""
    for change in changes:
        spec = apply(spec, change)
    if spec is None:
        raise NotFound("This container has been removed.", kind="container")
    return spec


def _apply_mount(spec: ContainerSpec, change: AddMount | RemoveMount) -> ContainerSpec:
    mounts = dict(spec.mounts)
    if isinstance(change, RemoveMount):
        if mounts.pop(change.destination, None) is None:
            raise NotFound(
                f"Nothing is mounted at {change.destination} of {spec.name}.", kind="mount", id=change.destination
            )
    else:
        destination = change.mount.destination
        if destination in mounts:
            raise AlreadyExists(
                f"{destination} of {spec.name} has volume {mounts[destination].volume_name} already.",
                kind="mount",
                id=destination,
            )
        mounts[destination] = change.mount
    return replace(spec, mounts=mounts)


def _joined(spec: ContainerSpec, network: str) -> EndpointSpec:
    endpoint = spec.endpoints.get(network)
    if endpoint is None:
        raise NotFound(f"{spec.name} is not in this network; join it first.", kind="endpoint", id=network)
    return endpoint


def _apply_endpoint(
    spec: ContainerSpec, change: AddEndpoint | ActivateEndpoint | DeactivateEndpoint | RemoveEndpoint
) -> ContainerSpec:
    endpoints = dict(spec.endpoints)
    match change:
        case AddEndpoint(endpoint=new):
            if new.network in endpoints:
                raise AlreadyExists(
                    f"{spec.name} is in network {new.network_name} already.", kind="endpoint", id=new.network_name
                )
            endpoints[new.network] = new
        case ActivateEndpoint():
            old = _joined(spec, change.network)
            if old.id != change.endpoint:
                raise NotFound("This endpoint has left the network.", kind="endpoint", id=change.endpoint)
            if old.bound and (old.address, old.address6) != (change.address, change.address6):
                raise InvalidState(
                    f"The endpoint in {old.network_name} is bound already.", kind="endpoint", id=old.id, state="bound"
                )
            endpoints[change.network] = replace(
                old,
                bound=True,
                address=change.address,
                prefix_length=change.prefix_length,
                gateway=change.gateway,
                address6=change.address6,
                prefix_length6=change.prefix_length6,
                gateway6=change.gateway6,
            )
        case DeactivateEndpoint(network=network):
            old = _joined(spec, network)
            endpoints[network] = replace(
                old, bound=False, address="", prefix_length=0, gateway="", address6="", prefix_length6=0, gateway6=""
            )
        case RemoveEndpoint(network=network):
            _joined(spec, network)
            del endpoints[network]
    return replace(spec, endpoints=endpoints)


def _apply_interaction(
    spec: ContainerSpec, change: AddInteraction | ActivateInteraction | DeactivateInteraction
) -> ContainerSpec:
    if isinstance(change, AddInteraction):
        return replace(spec, interaction=change.interaction)
    if spec.interaction is None:
        raise InvalidState("No interaction is joined; join it first.", kind="container", id=spec.id)
    return replace(spec, interaction=replace(spec.interaction, bound=isinstance(change, ActivateInteraction)))


def facets(change: AnyChange) -> frozenset[str]:
    """What *change* changes or relies on. `*` collides with everything."""
    match change:
        case CreateContainer() | PlaceContainer() | RemoveContainer():
            return frozenset({"*"})
        case ChangeState():
            return frozenset({"state"})
        case MergeLabels(labels=labels):
            return frozenset(f"labels/{key}" for key in labels)
        case ChangeResources():
            return frozenset({"resources"})
        case ChangeRestartPolicy():
            return frozenset({"restartPolicy"})
        case RenameContainer():
            return frozenset({"name"})
        case AddMount(mount=mount):
            return frozenset({f"mounts{mount.destination}"})
        case RemoveMount(destination=destination):
            return frozenset({f"mounts{destination}"})
        case AddEndpoint(endpoint=endpoint):
            return frozenset({f"endpoints/{endpoint.network}"})
        case ActivateEndpoint() | DeactivateEndpoint() | RemoveEndpoint():
            return frozenset({f"endpoints/{change.network}"})
        case AddInteraction() | ActivateInteraction() | DeactivateInteraction():
            return frozenset({"interaction"})
    raise AssertionError(change)


def all_facets(changes: Iterable[AnyChange]) -> frozenset[str]:
    """What any of *changes* changes or relies on."""
    return frozenset[str]().union(*(facets(change) for change in changes))


def touch(
    touched: dict[str, int], forgotten: int, changes: Iterable[AnyChange], revision: int
) -> tuple[dict[str, int], int]:
    """*touched* and *forgotten*, as in ContainerRecord, once *changes* are committed as *revision*. A container that
    joins one network after the other for years does not grow by it."""
    now = {**touched, **dict.fromkeys(all_facets(changes), revision)}
    oldest = sorted(now, key=now.__getitem__)[: max(0, len(now) - MOST_TOUCHED)]
    return now, max([forgotten, *(now.pop(facet) for facet in oldest)])


def collisions(touched: dict[str, int], base: int, changes: Iterable[AnyChange], forgotten: int = 0) -> tuple[str, ...]:
    """The facets of *changes* that were committed after revision *base*, or, where that was too long ago to tell, may
    have been; empty means that they commute. touched, forgotten: as in ContainerRecord.
    """
    wanted = all_facets(changes)
    if base < forgotten:
        return tuple(sorted(wanted))
    newer = {facet for facet, revision in touched.items() if revision > base}
    if "*" in wanted:
        return tuple(sorted(newer))
    return tuple(sorted(newer & wanted))
