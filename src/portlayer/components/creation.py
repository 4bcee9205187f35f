"""From what was asked for and what the image says to the spec of a new container. Pure."""

from __future__ import annotations

from portlayer.model import execution as m
from portlayer.model import names
from portlayer.model.base import now
from portlayer.model.errors import InvalidArgument
from portlayer.model.limits import check_hostname, check_process, check_resources, check_restart_policy, check_timeout
from portlayer.model.signals import parse_signal
from portlayer.model.storage import Image, ImageConfig

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def new_container(ident: str, vch: str, request: m.Create, image: Image, substrate: str, host: str) -> m.ContainerSpec:
    """The spec of a new container with id *ident*, on *host*, which has *substrate*.

    Raises:
        InvalidArgument: what does not make sense.
    """
    check_process(request.process)
    stop_signal = request.stop_signal
    if stop_signal is None:
        stop_signal = image.config.stop_signal or "SIGTERM"
    parse_signal(stop_signal, "/stopSignal")
    check_timeout(request.stop_timeout_seconds, "/stopTimeoutSeconds")
    return m.ContainerSpec(
        id=ident,
        vch=vch,
        name=names.check_name(request.name) if request.name is not None else f"c-{ident[:12]}",
        image=m.ContainerImage(
            id=image.id,
            name=_image_name(request.image, image),
            layers=tuple(layer.diff_id for layer in image.layers),
        ),
        process=_process(request.process, image.config),
        hostname=check_hostname(request.hostname) if request.hostname is not None else ident[:12],
        created_at=now(),
        substrate=substrate,
        host=host,
        remove_on_exit=request.remove_on_exit,
        resources=check_resources(request.resources),
        labels=names.check_labels({**image.config.labels, **request.labels}),
        annotations=names.check_labels(request.annotations, "/annotations"),
        restart_policy=check_restart_policy(request.restart_policy, remove_on_exit=request.remove_on_exit),
        stop_signal=stop_signal,
        stop_timeout_seconds=request.stop_timeout_seconds,
        read_only_rootfs=request.read_only_rootfs,
        placed=request.host is None,
        placement=request.placement,
    )


def _image_name(asked: str, image: Image) -> str:
    """The name that it was asked for by, in full; one of its names where that was its id."""
    if names.is_id(asked) or names.image_id(asked):
        return image.names[0] if image.names else asked
    return names.check_image_name(asked, "/image")


def _process(asked: m.ProcessRequest, image: ImageConfig) -> m.Process:
    """Source: Docker's rules for ENTRYPOINT and CMD: an entrypoint of one's own drops the image's cmd."""
    entrypoint = image.entrypoint if asked.entrypoint is None else asked.entrypoint
    image_cmd = image.cmd if asked.entrypoint is None else ()
    args = (*entrypoint, *(image_cmd if asked.args is None else asked.args))
    if not args or not args[0]:
        raise InvalidArgument("Neither the image nor the request says what to run.", pointer="/process/args")
    return m.Process(
        args=args,
        env=_environment(image.env, asked.env),
        cwd=asked.cwd or image.working_dir or "/",
        user=asked.user if asked.user is not None else image.user,
        terminal=asked.terminal,
        capabilities=asked.capabilities,
        init=asked.init,
    )


def _environment(image: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
    merged = {variable.partition("=")[0]: variable for variable in (DEFAULT_PATH, *image, *asked)}
    return tuple(merged.values())
