"""The command `portlayer`. Each command's module is read when that command is asked for."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer
import typer.core

from portlayer import __version__
from portlayer.model.errors import PortlayerError
from portlayer.tracing import entered, read

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Run a command in a new container."),
    "ps": ("containers", "List containers."),
    "inspect": ("containers", "Show all there is to know of containers."),
    "logs": ("streams", "Show what a container wrote."),
    "attach": ("streams", "Attach to a container's streams."),
    "start": ("lifecycle", "Start containers."),
    "stop": ("lifecycle", "Stop containers."),
    "kill": ("lifecycle", "Send a signal to containers."),
    "pause": ("lifecycle", "Freeze containers."),
    "unpause": ("lifecycle", "Let frozen containers go on."),
    "wait": ("lifecycle", "Wait until containers stop; print their exit codes."),
    "rename": ("lifecycle", "Give a container another name."),
    "rm": ("lifecycle", "Remove containers."),
    "image": ("images", "Images: import, ls, inspect, rm."),
    "network": ("networks", "Networks: create, ls, inspect, rm, connect, disconnect."),
    "volume": ("volumes", "Volumes: create, ls, inspect, rm."),
    "vch": ("vchs", "VCHs, the tenants: create, ls, inspect, set, rm."),
    "events": ("service", "Show what happens, as it happens."),
    "info": ("service", "Show what this port layer is made of."),
    "host": ("hosts", "Hosts: ls, rm."),
    "topology": ("topology", "Show which process has which components, where, and how it is."),
    "version": ("service", "Show the versions of this command and of the server."),
    "token": ("tokens", "Tokens, which prove who calls: create, ls, rm."),
    "cert": ("certificates", "Certificates, which prove who calls over TLS: issue, ls, revoke."),
    "ca": ("ca", "Show the CA of this port layer, for PORTLAYER_CA; or let it sign with a new key."),
    "serve": ("serve", "Serve the REST API until stopped; containers run on."),
    "store": ("store", "The store: backup, restore, migrate, rekey."),
    "doctor": ("doctor", "Say what this host lacks, and how to get it."),
    "cleanup": ("cleanup", "List, and with --apply remove, all that this port layer has on the host."),
}
"""Every command: the module that has it, and its line in the help."""

_STEP = re.compile(r"^step \d+ \([a-z/-]+\): ")
"""Of a composed request. Who typed one command knows of no steps."""
RUN_FAILED = 125
"""What `run` exits with when it is we that failed, as docker does."""


class _OnDemand(typer.core.TyperGroup):
    """A group that knows its commands by name and line, and reads their modules when they are run."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: typer.core.TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in COMMANDS:
            return super().resolve_command(ctx, args)
        module = importlib.import_module(f"portlayer.cli.{COMMANDS[name][0]}")
        group = typer.main.get_group(module.app)
        return name, group.commands.get(name, group), args[1:]


app = typer.Typer(cls=_OnDemand, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"portlayer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # noqa: ARG001 - all that it does is done by its callback
        bool,
        typer.Option("--version", is_eager=True, callback=_tell_version, help="Show the version of this command."),
    ] = False,
    vch: Annotated[str | None, typer.Option("--vch", metavar="NAME", help="The VCH that the command is for.")] = None,
) -> None:
    """A port layer: container primitives under an engine.

    PORTLAYER_HOST says where the server is, as unix:///path or https://host:port; PORTLAYER_CA, which CA to trust
    there; PORTLAYER_TOKEN, or PORTLAYER_CERT and PORTLAYER_KEY, who calls;
    PORTLAYER_VCH, which VCH a command is for, where --vch does not; else it is for the VCH default. TRACEPARENT, as
    W3C Trace Context has it, says of which trace it is a part.
    """
    if vch is not None:
        os.environ["PORTLAYER_VCH"] = vch


def _asked(arguments: Iterable[str]) -> str | None:
    """The command in *arguments*: the first that is no option of ours."""
    rest = iter(arguments)
    for each in rest:
        if each == "--vch":
            next(rest, None)
        elif not each.startswith("-"):
            return each
    return None


def main() -> None:
    """Run the command line. Whatever fails is one line on stderr."""
    failed = RUN_FAILED if _asked(sys.argv[1:]) == "run" else 1
    try:
        with entered(read(os.environ.get("TRACEPARENT"))):
            app(prog_name="portlayer")
    except PortlayerError as error:
        reason = _STEP.sub("", error.detail)
    except Exception as error:
        if os.environ.get("PORTLAYER_DEBUG"):
            raise
        reason = f"{type(error).__name__}: {error} (a fault of this command; PORTLAYER_DEBUG=1 shows where)"
    typer.echo(f"portlayer: {reason}", err=True)
    sys.exit(failed)
