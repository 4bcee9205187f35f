"""`portlayer ca`: what clients have to trust."""

from __future__ import annotations

from typing import Annotated

import typer

from portlayer.cli.asking import ask

app = typer.Typer(rich_markup_mode=None)


@app.command()
def ca(
    rotate: Annotated[bool, typer.Option("--rotate", help="Sign with a new key from now on; trust the last ones.")] = (
        False
    ),
    forget: Annotated[bool, typer.Option("--forget", help="With --rotate: trust no older key any more.")] = False,
) -> None:
    """Print the certificates of the private CA of this port layer: put them in a file, and its name in PORTLAYER_CA.

    After a rotation, who trusts only the one before goes on trusting this port layer, unless that was forgotten.
    """
    if forget and not rotate:
        raise typer.BadParameter("--forget goes with --rotate.")
    typer.echo(ask(lambda pl: pl.service.rotate_ca(forget=forget) if rotate else pl.service.authorities()), nl=False)
