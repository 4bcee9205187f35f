"""An etcd that wants TLS, client certificates, a user and a password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import etcdlab
import pytest
from conformance.store_tools import keys_of, next_changes, put
from tlslab import Authority

from portlayer.model.errors import InvalidArgument, Unavailable
from portlayer.stores import etcd_client
from portlayer.stores.choice import open_store, parse_url
from portlayer.stores.etcd import EtcdStore

PASSWORD = "gibson"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, server and client (.pem, .key), a CA that nobody trusts, and a password."""
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory)
    authority.issue("server")
    authority.issue("client")
    (directory / "stranger").mkdir()
    Authority(directory / "stranger").issue("client")
    (directory / "password").write_text(f"{PASSWORD}\n")
    (directory / "wrong").write_text("hunter2")
    return directory


@pytest.fixture(scope="module")
def guarded(files: Path) -> Iterator[str]:
    """The URL of an etcd that wants all of them, without options."""
    options = ["--cert-file", f"{files}/server.pem", "--key-file", f"{files}/server.key", "--client-cert-auth"]
    options += ["--trusted-ca-file", f"{files}/ca.pem", "--auth-token-ttl", "1"]
    with etcdlab.cluster(options=options, scheme="https") as cluster:
        tls = ["--cacert", f"{files}/ca.pem", "--cert", f"{files}/client.pem", "--key", f"{files}/client.key"]
        for words in (
            ("user", "add", f"root:{PASSWORD}"),
            ("user", "grant-role", "root", "root"),
            ("user", "add", f"me:{PASSWORD}"),
            ("role", "add", "mine"),
            ("role", "grant-permission", "--prefix=true", "mine", "readwrite", "mine/"),
            ("user", "grant-role", "me", "mine"),
            ("auth", "enable"),
        ):
            cluster.control(*tls, *words)
        yield f"etcds://me@{cluster.endpoints[0]}/mine"


def options(files: Path, **changed: str) -> str:
    given = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key", "passwordFile": "password", **changed}
    return "&".join(f"{name}={files}/{file}" for name, file in given.items() if file)


async def test_tls_a_certificate_and_a_password_are_enough(guarded: str, files: Path, tmp_path: Path) -> None:
    store = await open_store(parse_url(f"{guarded}?{options(files)}"), tmp_path)
    assert isinstance(store, EtcdStore)
    watch = store.watch("")
    await put(store, "a", ttl=60)
    assert keys_of(await next_changes(watch, 1)) == ["a"]
    store._client._token = "stale"
    await put(store, "b")
    assert keys_of(await store.range("")) == ["a", "b"]
    assert keys_of(await next_changes(watch, 1)) == ["b"]
    await store.close()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"passwordFile": "wrong"}, "user and password"),
        ({"ca": "stranger/ca.pem"}, "cannot be used"),
        ({"cert": "", "key": ""}, "cannot be used"),
        ({"cert": "stranger/client.pem", "key": "stranger/client.key"}, "cannot be used"),
    ],
)
async def test_what_it_does_not_take_is_said_at_once(
    guarded: str, files: Path, tmp_path: Path, changed: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words == "cannot be used":  # it is not told why, and tries again
        monkeypatch.setattr(etcd_client, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(Unavailable, match=words):
        await open_store(parse_url(f"{guarded}?{options(files, **changed)}"), tmp_path)


async def test_a_user_without_rights_is_told_so(guarded: str, files: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="may not use this prefix"):
        await open_store(parse_url(f"{guarded.replace('/mine', '/theirs')}?{options(files)}"), tmp_path)


async def test_without_a_user_the_certificates_name_is_one(guarded: str, files: Path, tmp_path: Path) -> None:
    url = guarded.replace("me@", "")
    with pytest.raises(Unavailable, match="may not use this prefix"):
        await open_store(parse_url(f"{url}?{options(files, passwordFile='')}"), tmp_path)


async def test_a_user_where_none_is_known(etcd: etcdlab.Cluster, files: Path, tmp_path: Path) -> None:
    url = f"etcd://me@{etcd.endpoints[0]}/mine?passwordFile={files}/password"
    with pytest.raises(Unavailable, match="leave the user out"):
        await open_store(parse_url(url), tmp_path)


async def test_a_password_file_that_is_not_there(etcd: etcdlab.Cluster, files: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        await open_store(parse_url(f"etcd://me@{etcd.endpoints[0]}/mine?passwordFile={files}/none"), tmp_path)
