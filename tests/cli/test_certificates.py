"""`portlayer cert` and `portlayer ca`; test_two_hosts.py uses what they make."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

from cli.conftest import Cli


def test_a_certificate_is_issued_listed_and_revoked(cli: Cli, tmp_path: Path) -> None:
    wanted = ("cert", "issue", "team/vera", "--role", "viewer", "--vch", "default", "--days", "3")
    out = cli.ok(*wanted, "--out", str(tmp_path))
    names = {line.partition("=")[0]: Path(line.partition("=")[2]) for line in out.splitlines()}
    assert list(names) == ["export PORTLAYER_CERT", "export PORTLAYER_KEY", "export PORTLAYER_CA"]
    cert, key, ca = names.values()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert ca.read_text() == cli.ok("ca")
    before = cert.read_text()
    again = cli(*wanted, "--out", str(tmp_path))
    assert (again.code, cert.read_text()) == (1, before)
    assert "is there already" in again.err
    (listed,) = cli.json("cert", "ls")
    assert (listed["subject"], listed["role"], listed["vch"]) == ("team/vera", "viewer", "default")
    assert cli.ok("cert", "revoke", listed["id"]).strip() == listed["id"]
    assert cli.json("cert", "ls") == []
    assert cli("cert", "revoke", listed["id"]).code == 1
    refused = cli("cert", "issue", "vera", "--role", "viewer", "--out", str(tmp_path))
    assert (refused.code, list(tmp_path.glob("vera*"))) == (1, []), "no key stays behind that nothing goes with"


def test_the_files_of_a_certificate_are_named_for_a_shell_and_are_three(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "it's here"
    out.mkdir()
    said = cli.ok("cert", "issue", "ada", "--role", "operator", "--out", str(out))
    show = f'{said}cat "$PORTLAYER_CERT" "$PORTLAYER_KEY" "$PORTLAYER_CA" >/dev/null'
    subprocess.run(["sh", "-euc", show], check=True, cwd=tmp_path)
    refused = cli("cert", "issue", "ca", "--role", "operator", "--out", str(tmp_path))
    assert (refused.code, list(tmp_path.glob("ca.*"))) == (1, [])
    assert "call the holder otherwise" in refused.err


def test_the_ca_is_rotated(cli: Cli) -> None:
    first = cli.ok("ca")
    assert cli.ok("ca") == first
    second = cli.ok("ca", "--rotate")
    assert second.startswith(first)
    assert second.count("BEGIN CERTIFICATE") == 2
    alone = cli.ok("ca", "--rotate", "--forget")
    assert alone.count("BEGIN CERTIFICATE") == 1
    assert alone not in second
    assert cli("ca", "--forget").code != 0
