"""Tokens and certificates asked for once more under the same Idempotency-Key: the answer was lost, not what it told."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
import tlslab
from apart.cluster import TOGETHER, Cluster, opened

from portlayer.client import PortLayer
from portlayer.model.caller import Caller
from portlayer.model.errors import InvalidArgument, InvalidState, NotFound
from portlayer.model.grants import CreateCertificate, CreateToken, ListGrants

ONCE = {"idempotency_key": "once"}
TOKEN = CreateToken(subject="alice", role="user", vch="default")


async def grant(pl: PortLayer, kind: str, subject: str = "alice", **more: Any) -> Any:
    if kind == "token":
        return await pl.service.create_token(subject, "user", vch="default", **more)
    return await pl.service.create_certificate(subject, "user", tlslab.request("good"), vch="default", **more)


async def listed(pl: PortLayer, kind: str) -> list[str]:
    found = await (pl.service.list_tokens() if kind == "token" else pl.service.list_certificates())
    return [each.id for each in found]


@pytest.mark.parametrize("kind", ["token", "certificate"])
async def test_a_repeated_request_gets_the_same_answer_from_any_process(cluster: Cluster, kind: str) -> None:
    async with cluster.at(cluster.doors[0]) as here, cluster.at(cluster.doors[-1]) as there:
        again = _request(kind)
        first = await again(here)
        assert await again(there) == first
        assert await listed(here, kind) == [getattr(first, kind).id]


@pytest.mark.parametrize("kind", ["token", "certificate"])
async def test_it_does_so_after_a_restart(cluster: Cluster, kind: str) -> None:
    again = _request(kind)
    async with cluster.at() as pl:
        first = await again(pl)
    entry = cluster.topology.parts[0]
    await cluster.stop(entry.name)
    await cluster.start(entry)
    async with cluster.at() as pl:
        assert await again(pl) == first
        assert len(await listed(pl, kind)) == 1
        if kind == "token":
            found = await cluster.entry.authority.identify(first.secret)
            assert found is not None
            assert found.subject == "alice"


@pytest.mark.parametrize("kind", ["token", "certificate"])
async def test_another_request_under_the_key_is_refused(cluster: Cluster, kind: str) -> None:
    async with cluster.at() as pl:
        await grant(pl, kind, **ONCE)
        with pytest.raises(InvalidArgument, match="used for another request"):
            await grant(pl, kind, "bob", **ONCE)
        assert len(await listed(pl, kind)) == 1


@pytest.mark.parametrize("other", [Caller(subject="olga", **ONCE), Caller(role="user", **ONCE)])
async def test_another_caller_with_the_same_key_gets_nothing_of_it(cluster: Cluster, other: Caller) -> None:
    service = cluster.entry.components.service
    mine, theirs = await service.create_token(Caller(**ONCE), TOKEN), await service.create_token(other, TOKEN)
    assert theirs.token.id != mine.token.id
    assert theirs.secret[-43:] != mine.secret[-43:]
    wanted = CreateCertificate(subject="alice", role="user", vch="default", request=tlslab.request("good"))
    first, second = [await service.create_certificate(caller, wanted) for caller in (Caller(**ONCE), other)]
    assert first.pem != second.pem


async def test_a_key_and_a_token_do_not_tell_another_token(cluster: Cluster) -> None:
    async with cluster.at() as pl:
        made = [await grant(pl, "token", **more) for more in (ONCE, {"idempotency_key": "twice"}, {}, {})]
        assert len({each.secret[-43:] for each in made}) == len(made)


async def test_no_secret_is_in_the_store(cluster: Cluster) -> None:
    async with cluster.at() as pl:
        made = await grant(pl, "token", **ONCE)
    rows = await cluster.store.range("")
    assert rows
    assert not [row.key for row in rows if made.secret[-43:].encode() in row.value or b"once" in row.value]


async def test_one_that_was_deleted_stays_so(cluster: Cluster) -> None:
    async with cluster.at() as pl:
        made = await grant(pl, "token", **ONCE)
        await pl.service.delete_token(made.token.id)
        assert await grant(pl, "token", **ONCE) == made
        assert await listed(pl, "token") == []
        with pytest.raises(NotFound):
            await pl.service.delete_token(made.token.id)
    assert await cluster.entry.authority.identify(made.secret) is None


async def test_a_secret_that_went_with_the_hosts_key_is_not_told_wrongly(tmp_path: Path) -> None:
    async with opened(TOGETHER, tmp_path) as cluster:
        service = cluster.entry.components.service
        made = await service.create_token(Caller(**ONCE), TOKEN)
        book: Any = service
        book._tokens._key = secrets.token_bytes(32)
        with pytest.raises(InvalidState, match="host's key") as refused:
            await service.create_token(Caller(**ONCE), TOKEN)
        assert refused.value.facts["id"] == made.token.id
        assert len((await service.list_tokens(Caller(), ListGrants())).tokens) == 1


def _request(kind: str) -> Any:
    """The same request each time: of a certificate, with the same key."""
    csr = tlslab.request("good")

    async def again(pl: PortLayer) -> Any:
        if kind == "token":
            return await grant(pl, "token", **ONCE)
        return await pl.service.create_certificate("alice", "user", csr, vch="default", **ONCE)

    return again
