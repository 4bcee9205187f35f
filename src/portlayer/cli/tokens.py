"""Commands about bearer tokens."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from portlayer.cli.asking import ask, each
from portlayer.cli.output import Columns, Json, age, print_json, print_table
from portlayer.client import PortLayer
from portlayer.model.grants import Grant

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
RoleName = Literal["viewer", "user", "operator"]


@app.callback()
def _group() -> None:
    """Tokens: what a caller sends to prove who it is, in PORTLAYER_TOKEN. For operators."""


@app.command()
def create(
    subject: Annotated[str, typer.Argument(help="What the audit log calls its holder.")],
    role: Annotated[RoleName, typer.Option(help="What its holder may.")],
    vch: Annotated[str | None, typer.Option(help="The VCH that it is for; an operator's is for all.")] = None,
    seconds: Annotated[int | None, typer.Option(help="How long it is good; by default until it is removed.")] = None,
    json: Json = False,
) -> None:
    """Create a token and print it. It is not shown again."""
    made = ask(lambda pl: pl.service.create_token(subject, role, vch=vch, ttl_seconds=seconds))
    if json:
        print_json(made)
    else:
        typer.echo(made.secret)


@app.command()
def ls(json: Json = False) -> None:
    """List tokens, without their secrets."""
    tokens = ask(lambda pl: pl.service.list_tokens())
    if json:
        print_json(tokens)
    else:
        print_table(tokens, COLUMNS)


@app.command()
def rm(tokens: Annotated[list[str], typer.Argument(metavar="ID...")], json: Json = False) -> None:
    """Remove tokens: they are good for nothing from now on, and streams that they opened end."""

    async def one(pl: PortLayer, ident: str) -> None:
        await pl.service.delete_token(ident)

    each(tokens, one, json=json)


COLUMNS: Columns[Grant] = {
    "ID": lambda token: token.id,
    "SUBJECT": lambda token: token.subject,
    "ROLE": lambda token: token.role,
    "VCH": lambda token: token.vch or "",
    "CREATED": lambda token: f"{age(token.created_at)} ago",
    "EXPIRES": lambda token: (token.expires_at or "never")[:19],
}
