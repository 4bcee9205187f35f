"""Commands that change containers."""

from __future__ import annotations

from typing import Annotated

import typer

from portlayer.cli.asking import ask, each
from portlayer.cli.output import Json
from portlayer.cli.refs import Container, Containers, container_id
from portlayer.cli.values import parse_number
from portlayer.client import PortLayer, Steps
from portlayer.model.errors import InvalidState, NotFound
from portlayer.model.execution import Committed, Waited

app = typer.Typer(rich_markup_mode=None)


async def _steps(pl: PortLayer, ref: str) -> Steps:
    return Steps(await pl.execution.get_container(await container_id(pl, ref)))


@app.command()
def start(containers: Containers, json: Json = False) -> None:
    """Start containers."""

    async def one(pl: PortLayer, ref: str) -> Committed:
        committed = await pl.execution.commit((await _steps(pl, ref)).set_state("running"))
        if committed.start_error:
            raise InvalidState(f"{ref} did not start: {committed.start_error}")
        return committed

    each(containers, one, json=json)


@app.command()
def stop(
    containers: Containers,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--time",
            "-t",
            parser=parse_number,
            metavar="NUMBER",
            help="Seconds until it is killed; default: as the container says.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Stop containers: their stop signal, and after a time SIGKILL."""

    async def one(pl: PortLayer, ref: str) -> Committed:
        return await pl.execution.commit((await _steps(pl, ref)).set_state("stopped", timeout_seconds=timeout))

    each(containers, one, json=json)


@app.command()
def kill(
    containers: Containers,
    signal: Annotated[str, typer.Option("--signal", "-s", help="Name or number.")] = "SIGKILL",
    json: Json = False,
) -> None:
    """Send a signal to containers."""

    async def one(pl: PortLayer, ref: str) -> None:
        await pl.execution.signal(await container_id(pl, ref), signal)

    each(containers, one, json=json)


@app.command()
def pause(containers: Containers, json: Json = False) -> None:
    """Freeze all processes of containers."""

    async def one(pl: PortLayer, ref: str) -> Committed:
        return await pl.execution.commit((await _steps(pl, ref)).set_state("paused"))

    each(containers, one, json=json)


@app.command()
def unpause(containers: Containers, json: Json = False) -> None:
    """Let frozen containers go on."""

    async def one(pl: PortLayer, ref: str) -> Committed:
        found = await pl.execution.inspect_container(await container_id(pl, ref))
        if found.state != "paused":
            raise InvalidState(f"{ref} is {found.state}, not paused.")
        return await pl.execution.commit(Steps(await pl.execution.get_container(found.id)).set_state("running"))

    each(containers, one, json=json)


@app.command()
def wait(containers: Containers, json: Json = False) -> None:
    """Wait until containers stop; print their exit codes."""

    async def one(pl: PortLayer, ref: str) -> Waited:
        waited = await pl.execution.wait(await container_id(pl, ref))
        if waited.exit_code is None:
            raise NotFound(f"{ref} was removed before it had exited.", kind="container", id=ref)
        return waited

    each(containers, one, json=json, shown="exitCode")


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
    json: Json = False,
) -> None:
    """Remove containers."""

    async def one(pl: PortLayer, ref: str) -> None:
        await pl.execution.remove(await container_id(pl, ref), force=force, volumes=volumes)

    each(containers, one, json=json)
