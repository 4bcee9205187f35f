"""`portlayer store`: from SQLite to etcd and back under a real server's containers; backups."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import etcdlab
import pytest
from cli.conftest import Cli, serving, stop

from portlayer.client import Steps, SyncPortLayer, connect_sync
from portlayer.model.errors import HandleInvalid, NotFound


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    cli.ok("cleanup", "--apply")


@contextlib.contextmanager
def served(cli: Cli, environment: dict[str, str] | None = None) -> Iterator[SyncPortLayer]:
    """A client of a server that is stopped afterwards."""
    server = serving(cli, environment)
    try:
        with connect_sync(host=cli.host) as pl:
            yield pl
    finally:
        code = stop(server)
    assert code == 0


def until(pl: SyncPortLayer, since: str, kind: str) -> str:
    """Where the first event of *kind* after *since* stands."""
    return next(numbered.cursor for numbered in pl.service.events(since) if numbered.event.type == kind)


def test_a_port_layer_goes_to_etcd_and_back_while_its_containers_run(
    fresh: Cli, etcd: etcdlab.Cluster, archive: bytes, tmp_path: Path
) -> None:
    url = f"etcd://{etcd.endpoints[0]}/cli"
    config = tmp_path / "portlayer.toml"
    config.write_text(f'[store]\nkind = "etcd"\nendpoints = ["{etcd.endpoints[0]}"]\nprefix = "cli"\n')
    with served(fresh) as pl:
        pl.storage.import_image(archive)
        pl.execution.commit(Steps().create("busybox", "sleep", "1000", name="stays").set_state("running"))
        before = pl.execution.inspect_container("stays")
        first = pl.execution.commit(once := pl.execution.create("busybox", "true", name="once"))
        pl.execution.commit(Steps().create("busybox", "true", name="gone"))
        gone = pl.execution.get_container("gone")
        pl.execution.remove("gone")
        pl.network.create_network("lan")
        bound = pl.network.bind(pl.network.join(pl.execution.create("busybox", "true", name="late"), "lan"))
        seen = until(pl, "0", "container.removed")
        refused = fresh("store", "migrate", url)
        assert (refused.code, "Another port layer uses" in refused.err) == (1, True)
        assert "records of sqlite are in" in fresh.ok("store", "backup", str(tmp_path / "backup"))

    assert f"PORTLAYER_STORE={url}" in fresh.ok("store", "migrate", url)
    assert "already" in fresh("store", "migrate", url).err
    with served(fresh, {"PORTLAYER_STORE": url}) as pl:
        assert pl.execution.inspect_container("stays") == before
        pl.execution.commit(Steps().create("busybox", "true", name="there").set_state("running"))
        pl.execution.wait("there", timeout_seconds=20)
        assert pl.execution.commit(once) == first, "a receipt"
        with pytest.raises(NotFound, match="removed"):
            pl.execution.commit(gone)
        assert [one.address for one in pl.execution.commit(bound).endpoints] == [bound.endpoints[0].address], "a lease"
        assert float(until(pl, seen, "container.created")) > float(seen), "a cursor"

    fresh.ok("store", "migrate", "sqlite", "--force", "--config", str(config))
    with served(fresh) as pl:
        assert pl.execution.inspect_container("stays") == before
        assert pl.execution.inspect_container("there").exit_code == 0

    assert "already" in fresh("store", "restore", str(tmp_path / "backup")).err
    assert "refused" in fresh.ok("store", "restore", "--force", str(tmp_path / "backup"))
    with served(fresh) as pl:
        assert {one.name for one in pl.execution.list()} == {"stays", "once"}
        assert pl.execution.inspect_container("stays") == before


def test_who_uses_sqlite_does_not_load_what_etcd_needs() -> None:
    code = (
        "import sys, portlayer.cli.serve; print([name for name in sys.modules if name in ('grpc', 'google.protobuf')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_all_keys_are_forgotten_and_what_was_made_with_them_is_refused(fresh: Cli, archive: bytes) -> None:
    file = fresh.directory / "state" / "host.key"
    with served(fresh) as pl:
        pl.service.put_kv("kept", b"value")
        pl.service.create_token("vera", "viewer", vch="default")
        pl.storage.import_image(archive)
        handle, ca = pl.execution.create("busybox"), pl.service.authorities()
        assert fresh("store", "rekey").code == 1, "not while it is served"
    first = file.read_bytes()
    file.write_bytes(bytes(32))
    lost = fresh("serve")
    assert (lost.code, "bring the host key" in lost.err) == (1, True)
    assert "refused" in fresh.ok("store", "rekey")
    assert not file.exists()
    with served(fresh) as pl:
        assert file.read_bytes() not in (first, bytes(32))
        assert pl.service.get_kv("kept").value == b"value"
        assert [token.subject for token in pl.service.list_tokens()] == ["vera"]
        assert pl.service.authorities() != ca
        with pytest.raises(HandleInvalid):
            pl.execution.inspect(handle)
