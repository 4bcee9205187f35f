"""`portlayer store`: backups of a port layer's store, and moving it from SQLite to etcd and back."""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from portlayer.cli.lock import holding
from portlayer.compose import Settings, make_paths, read_settings
from portlayer.compose.copies import back_up, migrate_store, rekey, restore

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Config = Annotated[Path | None, typer.Option(help="The server's TOML file.")]


@app.callback()
def _group() -> None:
    """The store: backup, restore, migrate. Layers, volumes and logs are not in it: they are in the state directory."""


@app.command()
def backup(file: Path, config: Config = None) -> None:
    """Write all that the store holds to FILE. The server may go on."""
    settings = read_settings(os.environ, config)
    count = asyncio.run(back_up(settings, file))
    typer.echo(f"{count} records of {settings.store.where} are in {file}.")


@app.command("restore")
def restore_(
    file: Path,
    config: Config = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what the store holds.")] = False,
) -> None:
    """Make the store hold what FILE holds. The server must be stopped, everywhere. Handles of before are refused."""
    settings = read_settings(os.environ, config)
    with _alone(settings):
        count = asyncio.run(restore(settings, file, replace=force))
    typer.echo(
        f"{count} records are in {settings.store.where}; handles taken before are refused. Tokens and certificates are "
        "as they were: revoke again what was revoked since."
    )


@app.command()
def migrate(
    to: Annotated[str, typer.Argument(help="sqlite, or etcd://host:port/prefix.")],
    config: Config = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what the other store holds.")] = False,
) -> None:
    """Copy the store into another one. The server must be stopped, everywhere. The old one stays as it is.

    Nothing is lost: handles, leases, cursors of events stay good.
    """
    settings = read_settings(os.environ, config)
    with _alone(settings):
        count = asyncio.run(migrate_store(settings, to, replace=force))
    typer.echo(f"{count} records of {settings.store.where} are copied; now start the server with PORTLAYER_STORE={to}.")


@app.command("rekey")
def rekey_(config: Config = None) -> None:
    """Forget the host's key and all that it opens. The server must be stopped, everywhere.

    Handles and certificates of before are refused; tokens stay good. The next start makes a new key: give it to all
    hosts.
    """
    settings = read_settings(os.environ, config)
    with _alone(settings):
        asyncio.run(rekey(settings))
    typer.echo("The keys are forgotten; handles and certificates of before are refused.")


def _alone(settings: Settings) -> AbstractContextManager[None]:
    paths = make_paths(settings)
    return holding(paths.state, paths.run)
