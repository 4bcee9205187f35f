"""`portlayer run`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from portlayer.cli.asking import ask
from portlayer.cli.conversation import converse
from portlayer.cli.main import RUN_FAILED
from portlayer.cli.refs import complete_image, complete_network, image_id, network_id
from portlayer.cli.streams import Keys
from portlayer.cli.values import (
    VolumeOption,
    parse_bytes,
    parse_environment,
    parse_labels,
    parse_number,
    parse_port,
    parse_restart,
    parse_volume,
)
from portlayer.client import CreateOptions, PortLayer, Steps
from portlayer.model.errors import AlreadyExists, InvalidArgument, NotFound, PortlayerError
from portlayer.model.execution import Committed, Placement
from portlayer.model.network import Port

app = typer.Typer(rich_markup_mode=None)
Strategy = Literal["spread", "pack"]
_UsageError: Any = typer.BadParameter.__base__


class _Run(typer.core.TyperCommand):
    """What is wrong in the way we were called is no exit code of the container's."""

    def make_context(self, *args: Any, **settings: Any) -> Any:
        try:
            return super().make_context(*args, **settings)
        except _UsageError as error:
            error.exit_code = RUN_FAILED
            raise


@dataclass(frozen=True)
class _Wanted:
    """What to run, beside what `create` is told."""

    image: str
    command: tuple[str, ...]
    options: CreateOptions
    networks: tuple[str, ...]
    ports: tuple[Port, ...]
    volumes: tuple[VolumeOption, ...]
    stdin: bool
    terminal: bool
    detach_keys: str | None


@app.command(cls=_Run, context_settings={"allow_interspersed_args": False})
def run(
    image: Annotated[str, typer.Argument(metavar="IMAGE", autocompletion=complete_image)],
    command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]...")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print its id and leave it running.")] = False,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Give it our stdin.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")] = False,
    remove: Annotated[bool, typer.Option("--rm", help="Remove it when it stops.")] = False,
    name: Annotated[str | None, typer.Option(help="Its name; without, one is made up.")] = None,
    networks: Annotated[
        list[str],
        typer.Option(
            "--network", help="Join and bind it to this network; may be repeated.", autocompletion=complete_network
        ),
    ] = [],  # noqa: B006
    publish: Annotated[
        list[str],
        typer.Option("--publish", "-p", help="[[ADDRESS:]HOSTPORT:]PORT[/udp], in the first --network."),
    ] = [],  # noqa: B006
    env: Annotated[list[str], typer.Option("--env", "-e", help="NAME=value, or NAME for our own value.")] = [],  # noqa: B006
    env_file: Annotated[list[Path], typer.Option("--env-file", help="A file with a variable a line.")] = [],  # noqa: B006
    volume: Annotated[
        list[str], typer.Option("--volume", "-v", help="NAME:/path[:ro], or /path for an anonymous volume.")
    ] = [],  # noqa: B006
    memory: Annotated[str | None, typer.Option("--memory", "-m", help="Most memory and swap, as 64m.")] = None,
    cpus: Annotated[
        float | None, typer.Option(parser=parse_number, metavar="NUMBER", help="Most cores, as 0.5.")
    ] = None,
    pids_limit: Annotated[int | None, typer.Option(help="Most processes.")] = None,
    workdir: Annotated[str | None, typer.Option("--workdir", "-w", help="Its working directory.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="name|uid[:group|gid].")] = None,
    entrypoint: Annotated[str | None, typer.Option(help="Replaces the image's entrypoint.")] = None,
    hostname: Annotated[str | None, typer.Option("--hostname", help="Its host name.")] = None,
    labels: Annotated[list[str], typer.Option("--label", "-l", help="KEY=VALUE.")] = [],  # noqa: B006
    read_only: Annotated[bool, typer.Option("--read-only", help="Make its root filesystem read-only.")] = False,
    restart: Annotated[str | None, typer.Option(help="no, always, unless-stopped or on-failure[:N].")] = None,
    stop_signal: Annotated[str | None, typer.Option(help="The signal that asks it to stop.")] = None,
    stop_timeout: Annotated[
        float | None, typer.Option(parser=parse_number, metavar="NUMBER", help="Seconds until it is killed.")
    ] = None,
    cap_add: Annotated[list[str], typer.Option(help="Add a capability.")] = [],  # noqa: B006
    cap_drop: Annotated[list[str], typer.Option(help="Drop a capability.")] = [],  # noqa: B006
    init: Annotated[bool, typer.Option("--init", help="Run a small init that reaps and forwards signals.")] = False,
    host: Annotated[str | None, typer.Option(help="The host that it shall be on; without, any.")] = None,
    placement: Annotated[
        Strategy | None, typer.Option(help="Choose a host with room: the emptiest (spread), or the fullest (pack).")
    ] = None,
    host_labels: Annotated[
        list[str], typer.Option("--host-label", help="KEY=VALUE that the chosen host must have.")
    ] = [],  # noqa: B006
    detach_keys: Keys = None,
) -> None:
    """Run a command in a new container; the exit code is the container's.

    125 is a failure of ours, 126 a command that cannot be executed, 127 one that is not there.
    """
    asked: dict[str, Any] = {
        "name": name,
        "entrypoint": None if entrypoint is None else (entrypoint,),
        "env": parse_environment(env, env_file),
        "cwd": workdir,
        "user": user,
        "init": init,
        "cap_add": cap_add,
        "cap_drop": cap_drop,
        "cpus": cpus,
        "memory_bytes": None if memory is None else parse_bytes(memory),
        "pids": pids_limit,
        "labels": parse_labels(labels),
        "hostname": hostname,
        "restart_policy": None if restart is None else parse_restart(restart),
        "stop_signal": stop_signal,
        "stop_timeout_seconds": stop_timeout,
        "read_only_rootfs": read_only,
        "remove_on_exit": remove,
        "host": host,
        "placement": _placement(placement, host_labels),
    }
    options: Any = {key: value for key, value in asked.items() if value is not None}
    volumes = tuple(parse_volume(text) for text in volume)
    ports = tuple(parse_port(text) for text in publish)
    if ports and not networks:
        raise InvalidArgument("--publish needs a --network, whose ports these are.")
    wanted = _Wanted(
        image, tuple(command or ()), options, tuple(networks), ports, volumes, interactive, tty, detach_keys
    )
    raise typer.Exit(ask(lambda pl: _detached(pl, wanted) if detach else _attached(pl, wanted)))


def _placement(strategy: Strategy | None, labels: list[str]) -> Placement | None:
    if strategy is None and not labels:
        return None
    return Placement(strategy=strategy or "spread", labels=parse_labels(labels))


async def _detached(pl: PortLayer, wanted: _Wanted) -> int:
    committed = await _commit(pl, wanted, start=True)
    typer.echo(committed.id)
    if committed.start_error:
        typer.echo(f"portlayer: {committed.start_error}", err=True)
        return committed.exit_code or RUN_FAILED
    return 0


async def _attached(pl: PortLayer, wanted: _Wanted) -> int:
    """Attach between create and start, so that no byte is missed, however short its life is."""
    container = (await _commit(pl, wanted, start=False)).id
    started = False

    async def start() -> Committed:
        nonlocal started
        committed = await pl.execution.commit(Steps(handle).set_state("running"))
        started = True
        return committed

    try:
        handle = await pl.execution.get_container(container)
        async with pl.interaction.attach(container, stdin=wanted.stdin, detach_keys=wanted.detach_keys) as attachment:
            return await converse(pl, container, attachment, stdin=wanted.stdin, terminal=wanted.terminal, start=start)
    except PortlayerError:
        if wanted.options.get("remove_on_exit") and not started:
            await _remove_unless_gone(pl, container)
        raise


async def _commit(pl: PortLayer, wanted: _Wanted, *, start: bool) -> Committed:
    """The container, as one change; anonymous volumes that were made for it go again where it fails."""
    image, networks = await image_id(pl, wanted.image), [await network_id(pl, each) for each in wanted.networks]
    steps = Steps().create(image, *wanted.command, **wanted.options)
    for at, network in enumerate(networks):
        steps = steps.join_network(network, ports=() if at else wanted.ports)
    if networks:
        steps = steps.bind_network()
    if wanted.stdin or wanted.terminal:
        steps = steps.join_interaction(stdin=wanted.stdin, terminal=wanted.terminal).bind_interaction()
    anonymous: list[str] = []
    try:
        for volume in wanted.volumes:
            joined = await _volume(pl, volume.name)
            if volume.name is None:
                anonymous.append(joined)
            steps = steps.join_volume(joined, volume.destination, read_only=volume.read_only)
        return await pl.execution.commit(steps.set_state("running") if start else steps)
    except BaseException:
        for made in anonymous:
            with contextlib.suppress(PortlayerError):  # why it fails is to be told, and it may be used after all
                await pl.storage.remove_volume(made)
        raise


async def _volume(pl: PortLayer, name: str | None) -> str:
    """The id of a volume, made where there is none."""
    if name is None:
        return (await pl.storage.create_volume()).id
    try:
        return (await pl.storage.create_volume(name)).id
    except AlreadyExists:
        return (await pl.storage.inspect_volume(name)).id


async def _remove_unless_gone(pl: PortLayer, container: str) -> None:
    try:
        await pl.execution.remove(container, force=True, volumes=True)
    except NotFound:
        return
