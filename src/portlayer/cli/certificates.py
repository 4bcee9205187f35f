"""Commands about certificates of clients."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from portlayer.cli.asking import ask, each
from portlayer.cli.output import Json, print_json, print_table
from portlayer.cli.tokens import COLUMNS, RoleName
from portlayer.client import PortLayer
from portlayer.model.errors import InvalidArgument
from portlayer.model.grants import CERTIFICATE_DAYS, Grant

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_CA = "ca"


@app.callback()
def _group() -> None:
    """Certificates: what proves who calls over TLS, in PORTLAYER_CERT and PORTLAYER_KEY. For operators."""


@app.command()
def issue(
    subject: Annotated[str, typer.Argument(help="What the audit log calls its holder.")],
    role: Annotated[RoleName, typer.Option(help="What its holder may.")],
    vch: Annotated[str | None, typer.Option(help="The VCH that it is for; an operator's is for all.")] = None,
    days: Annotated[int, typer.Option(help="How long it is good.")] = CERTIFICATE_DAYS,
    directory: Annotated[Path, typer.Option("--out", help="Where the files go.")] = Path(),
    json: Json = False,
) -> None:
    """Issue a certificate: SUBJECT.pem, SUBJECT.key and ca.pem. The key is made here, and sent nowhere."""
    from portlayer.cli import signing  # noqa: PLC0415

    key = signing.Key()
    stem = subject.replace("/", "_")
    if stem == _CA:
        raise InvalidArgument(f"{stem}.pem has the CA's certificates; call the holder otherwise.")
    files = {name: directory / name for name in (f"{stem}.pem", f"{stem}.key", f"{_CA}.pem")}
    with _private(files[f"{stem}.key"]) as stream:
        stream.write(key.pem)

    async def work(pl: PortLayer) -> tuple[Grant, str, str]:
        made = await pl.service.create_certificate(subject, role, key.request, vch=vch, ttl_seconds=days * 86400)
        return made.certificate, made.pem, await pl.service.authorities()

    try:
        grant, pem, authorities = ask(work)
    except BaseException:
        files[f"{stem}.key"].unlink()
        raise
    files[f"{stem}.pem"].write_text(pem)
    files[f"{_CA}.pem"].write_text(authorities)
    if json:
        print_json(grant)
    else:
        for name, file in zip(("CERT", "KEY", "CA"), files.values(), strict=True):
            typer.echo(f"export PORTLAYER_{name}={shlex.quote(str(file.absolute()))}")


@app.command()
def ls(json: Json = False) -> None:
    """List certificates that are good."""
    certificates = ask(lambda pl: pl.service.list_certificates())
    if json:
        print_json(certificates)
    else:
        print_table(certificates, COLUMNS)


@app.command()
def revoke(certificates: Annotated[list[str], typer.Argument(metavar="ID...")], json: Json = False) -> None:
    """Revoke certificates: they are good for nothing from now on, and streams that they opened end."""

    async def one(pl: PortLayer, ident: str) -> None:
        await pl.service.revoke_certificate(ident)

    each(certificates, one, json=json)


def _private(file: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except FileExistsError:
        raise InvalidArgument(f"{file} is there already; move it away, or choose another place with --out.") from None
    except OSError as error:
        raise InvalidArgument(f"{file} cannot be made: {error.strerror}.") from None
