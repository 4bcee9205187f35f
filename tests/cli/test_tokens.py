"""`portlayer token`, and PORTLAYER_TOKEN, which every command sends."""

from __future__ import annotations

from cli.conftest import Cli


def test_a_token_proves_who_calls_until_it_is_removed(cli: Cli) -> None:
    secret = cli.ok("token", "create", "vera", "--role", "viewer", "--vch", "default").strip()
    environment = {"PORTLAYER_TOKEN": secret}
    assert cli.raw("ps", environment=environment)[0] == 0
    code, _, err = cli.raw("network", "create", "n", environment=environment)
    assert (code, b"viewer" in err) == (1, True)
    listed = cli.ok("token", "ls")
    assert "vera" in listed
    assert secret not in listed
    ident = secret.split("_")[1]
    assert cli.ok("token", "rm", ident).strip() == ident
    code, _, err = cli.raw("ps", environment=environment)
    assert (code, secret.encode() in err) == (1, False)
