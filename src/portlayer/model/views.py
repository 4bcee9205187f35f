"""What the API shows, put together from what is committed and what is observed. Pure."""

from __future__ import annotations

from portlayer.model import execution as e
from portlayer.model.interaction import MAIN_TASK
from portlayer.model.network import Endpoint, EndpointSpec


def endpoint_view(spec: EndpointSpec, container: str) -> Endpoint:
    return Endpoint(
        id=spec.id,
        network=spec.network_name,
        network_id=spec.network,
        container_id=container,
        address=spec.address,
        prefix_length=spec.prefix_length,
        gateway=spec.gateway,
        mac_address=spec.mac_address,
        aliases=spec.aliases,
        ports=spec.ports,
        state="bound" if spec.bound else "joined",
        address6=spec.address6,
        prefix_length6=spec.prefix_length6,
        gateway6=spec.gateway6,
    )


def endpoint_views(spec: e.ContainerSpec) -> tuple[Endpoint, ...]:
    return tuple(endpoint_view(endpoint, spec.id) for endpoint in spec.endpoints.values())


def shown_state(observed: e.Observed, *, away: bool) -> str:
    """away: its host is, so what ran there may run or have ended; what did not run does not start by itself."""
    return "unknown" if away and observed.state in ("running", "paused") else observed.state


def task_views(spec: e.ContainerSpec, observed: e.Observed, *, away: bool = False) -> tuple[e.Task, ...]:
    main = e.Task(
        id=MAIN_TASK,
        state=shown_state(observed, away=away),
        args=spec.process.args,
        terminal=observed.terminal if observed.incarnation else spec.terminal,
        exit_code=observed.exit_code,
    )
    return (main,)


def container_view(record: e.ContainerRecord, observed: e.Observed, *, away: bool = False) -> e.Container:
    """away: the container's host is."""
    spec = record.spec
    mounts = (
        e.Mount(
            volume=mount.volume_name,
            volume_id=mount.volume,
            destination=mount.destination,
            read_only=mount.read_only,
            subpath=mount.subpath,
        )
        for mount in spec.mounts.values()
    )
    return e.Container(
        id=spec.id,
        name=spec.name,
        image=spec.image.name,
        image_id=spec.image.id,
        state=shown_state(observed, away=away),
        labels=spec.labels,
        annotations=spec.annotations,
        process=spec.process,
        resources=spec.resources,
        restart_policy=spec.restart_policy,
        stop_signal=spec.stop_signal,
        stop_timeout_seconds=spec.stop_timeout_seconds,
        read_only_rootfs=spec.read_only_rootfs,
        remove_on_exit=spec.remove_on_exit,
        hostname=spec.hostname,
        endpoints=endpoint_views(spec),
        mounts=tuple(mounts),
        interaction=spec.interaction,
        tasks=task_views(spec, observed, away=away),
        substrate=spec.substrate,
        host=spec.host,
        revision=record.revision,
        created_at=spec.created_at,
        restarts=observed.restarts,
        exit_code=observed.exit_code,
        start_error=observed.start_error,
        oom_killed=observed.oom_killed,
        started_at=observed.started_at,
        finished_at=observed.finished_at,
        placement=spec.placement,
    )


def committed_view(spec: e.ContainerSpec, observed: e.Observed, revision: int) -> e.Committed:
    return e.Committed(
        id=spec.id,
        revision=revision,
        state=observed.state,
        endpoints=endpoint_views(spec),
        tasks=task_views(spec, observed),
        exit_code=observed.exit_code,
        start_error=observed.start_error,
    )
