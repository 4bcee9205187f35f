"""Commands that change containers."""

from __future__ import annotations

from typing import Annotated

import typer

from portlayer.cli.asking import ask, each
from portlayer.cli.refs import Container, Containers, container_id
from portlayer.client import PortLayer, Steps
from portlayer.model.errors import InvalidState

app = typer.Typer(rich_markup_mode=None)


async def _steps(pl: PortLayer, ref: str) -> Steps:
    return Steps(await pl.execution.get_container(await container_id(pl, ref)))


@app.command()
def start(containers: Containers) -> None:
    """Start containers."""

    async def one(pl: PortLayer, ref: str) -> str:
        committed = await pl.execution.commit((await _steps(pl, ref)).set_state("running"))
        if committed.start_error:
            raise InvalidState(f"{ref} did not start: {committed.start_error}")
        return ref

    each(containers, one)


@app.command()
def stop(
    containers: Containers,
    timeout: Annotated[
        float | None, typer.Option("--time", "-t", help="Seconds until it is killed; default: as the container says.")
    ] = None,
) -> None:
    """Stop containers: their stop signal, and after a time SIGKILL."""

    async def one(pl: PortLayer, ref: str) -> str:
        await pl.execution.commit((await _steps(pl, ref)).set_state("stopped", timeout_seconds=timeout))
        return ref

    each(containers, one)


@app.command()
def kill(
    containers: Containers,
    signal: Annotated[str, typer.Option("--signal", "-s", help="Name or number.")] = "SIGKILL",
) -> None:
    """Send a signal to containers."""

    async def one(pl: PortLayer, ref: str) -> str:
        await pl.execution.signal(await container_id(pl, ref), signal)
        return ref

    each(containers, one)


@app.command()
def pause(containers: Containers) -> None:
    """Freeze all processes of containers."""

    async def one(pl: PortLayer, ref: str) -> str:
        await pl.execution.commit((await _steps(pl, ref)).set_state("paused"))
        return ref

    each(containers, one)


@app.command()
def unpause(containers: Containers) -> None:
    """Let frozen containers go on."""

    async def one(pl: PortLayer, ref: str) -> str:
        found = await pl.execution.inspect_container(await container_id(pl, ref))
        if found.state != "paused":
            raise InvalidState(f"{ref} is {found.state}, not paused.")
        await pl.execution.commit(Steps(await pl.execution.get_container(found.id)).set_state("running"))
        return ref

    each(containers, one)


@app.command()
def wait(containers: Containers) -> None:
    """Wait until containers stop; print their exit codes."""

    async def one(pl: PortLayer, ref: str) -> str:
        return str((await pl.execution.wait(await container_id(pl, ref))).exit_code)

    each(containers, one)


@app.command()
def rename(container: Container, name: str) -> None:
    """Give a container another name."""

    async def one(pl: PortLayer) -> None:
        await pl.execution.commit((await _steps(pl, container)).rename(name))

    ask(one)


@app.command()
def rm(
    containers: Containers,
    force: Annotated[bool, typer.Option("--force", "-f", help="Even one that runs.")] = False,
    volumes: Annotated[bool, typer.Option("--volumes", "-v", help="Its anonymous volumes too.")] = False,
) -> None:
    """Remove containers."""

    async def one(pl: PortLayer, ref: str) -> str:
        await pl.execution.remove(await container_id(pl, ref), force=force, volumes=volumes)
        return ref

    each(containers, one)
