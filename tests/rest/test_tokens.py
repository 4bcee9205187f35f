"""Bearer tokens: whom they prove, and when they stop."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import tlslab
from apart.cluster import Cluster
from driver import ME, Driver

from portlayer.client import PortLayer
from portlayer.interfaces.store import Put, Transaction
from portlayer.model import errors as e
from portlayer.model import service as m
from portlayer.model.grants import NewToken
from portlayer.model.interaction import BindInteraction, JoinInteraction
from portlayer.rest.calls.interaction import ATTACH_PROTOCOL
from portlayer.rest.client import RestClient
from portlayer.rest.server import Audit, Server

INSIDE = "/v1/vchs/default/network/networks"


@pytest.fixture
def pl(cluster: Cluster) -> PortLayer:
    return PortLayer(cluster.served)


@pytest.fixture
def server(cluster: Cluster, tmp_path: Path) -> Server:
    return Server(cluster.served, authority=cluster.entry.authority, audit=Audit(tmp_path / "audit.log"))


@pytest.fixture
async def http(server: Server, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    port = await server.listen_tls("127.0.0.1", 0, tlslab.serving())
    await server.listen_unix(tmp_path / "s")
    connector = aiohttp.TCPConnector(ssl=tlslab.calling()())
    async with aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=connector) as session:
        yield session
    await server.drain(5)


def bearer(made: NewToken | str) -> dict[str, str]:
    return {"Authorization": f"Bearer {made if isinstance(made, str) else made.secret}"}


async def status(http: aiohttp.ClientSession, made: NewToken | str, path: str, verb: str = "GET") -> int:
    async with http.request(verb, path, headers=bearer(made)) as response:
        return response.status


async def test_a_token_has_its_role_in_its_vch_alone(http: aiohttp.ClientSession, pl: PortLayer) -> None:
    viewer = await pl.service.create_token("vera", "viewer", vch="default")
    operator = await pl.service.create_token("olga", "operator")
    assert await status(http, viewer, INSIDE) == 200
    assert await status(http, viewer, f"{INSIDE}/x", "DELETE") == 403
    assert await status(http, viewer, "/v1/vchs/other/network/networks") == 404
    assert await status(http, viewer, "/v1/tokens") == 403
    assert await status(http, operator, "/v1/tokens") == 200


@pytest.mark.parametrize("change", ["last", "id", "prefix", "empty", "basic"])
async def test_what_is_no_token_proves_nothing_and_says_so(
    change: str, http: aiohttp.ClientSession, pl: PortLayer
) -> None:
    made = await pl.service.create_token("olga", "operator")
    secret = made.secret
    wrong = {
        "last": secret[:-2] + ("AA" if secret[-2:] != "AA" else "BB"),
        "id": secret.replace(made.token.id, "0" * 32),
        "prefix": secret.removeprefix("plt_"),
        "empty": "",
        "basic": secret,
    }[change]
    headers = {"Authorization": f"{'Basic' if change == 'basic' else 'Bearer'} {wrong}"}
    async with http.get("/v1/info", headers=headers) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert await status(http, made, "/v1/info") == 200


async def test_a_token_goes_before_what_the_kernel_says(
    http: aiohttp.ClientSession, pl: PortLayer, tmp_path: Path
) -> None:
    viewer = await pl.service.create_token("vera", "viewer", vch="default")
    address = f"unix://{tmp_path / 's'}"
    async with RestClient(address) as root, RestClient(address, token=viewer.secret) as vera:
        assert await PortLayer(root.components).service.list_tokens() == (viewer.token,)
        with pytest.raises(e.PermissionDenied):
            await PortLayer(vera.components).service.list_tokens()
    async with RestClient(address, token="plt_x") as nobody:
        with pytest.raises(e.Unauthenticated):
            await PortLayer(nobody.components).service.info()


async def test_a_deleted_token_is_good_for_nothing_at_once(http: aiohttp.ClientSession, pl: PortLayer) -> None:
    made = await pl.service.create_token("vera", "viewer", vch="default")
    assert await status(http, made, INSIDE) == 200
    await pl.service.delete_token(made.token.id)
    assert await status(http, made, INSIDE) == 401
    with pytest.raises(e.NotFound):
        await pl.service.delete_token(made.token.id)
    assert await pl.service.list_tokens() == ()


async def read_events(response: aiohttp.ClientResponse) -> None:
    async for _ in response.content:
        pass


@pytest.mark.parametrize("how", ["deleted", "over"])
async def test_a_stream_ends_with_the_token_that_opened_it(
    how: str, http: aiohttp.ClientSession, pl: PortLayer
) -> None:
    made = await pl.service.create_token("vera", "viewer", vch="default", ttl_seconds=1 if how == "over" else None)
    stays = await pl.service.create_token("vera", "viewer", vch="default")
    path = "/v1/vchs/default/events"
    async with http.get(path, headers=bearer(made)) as ends, http.get(path, headers=bearer(stays)) as lasts:
        assert (ends.status, lasts.status) == (200, 200)
        still = asyncio.ensure_future(read_events(lasts))
        if how == "deleted":
            await pl.service.delete_token(made.token.id)
        async with asyncio.timeout(10):
            with pytest.raises(aiohttp.ClientError):
                await read_events(ends)
        assert not still.done()
        still.cancel()
    assert await status(http, made, path) == 401


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"more\n"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("cluster", ["all in one", "each apart"], indirect=True)
async def test_whatever_lasts_is_cut_with_the_token_that_began_it(
    http: aiohttp.ClientSession, server: Server, cluster: Cluster, pl: PortLayer
) -> None:
    driver, container = Driver(cluster.served), "/v1/vchs/default/interaction/containers/shell"
    await driver.image()
    handle = await driver.draft("sh", "-c", "while read line; do echo $line; done; sleep 1000", name="shell")
    join = JoinInteraction(handle=handle, stdin=True)
    handle = (await driver.pl.interaction.join(driver.me, join)).handle
    handle = (await driver.pl.interaction.bind(driver.me, BindInteraction(handle=handle))).handle
    await driver.commit(await driver.set_state(handle, "running"))

    async def attach(headers: dict[str, str]) -> None:
        async with http.ws_connect(f"{container}/attach", headers=headers, protocols=[ATTACH_PROTOCOL]) as attached:
            async for _ in attached:
                pass
            assert attached.close_code == 1006, "nobody has closed it"
        raise aiohttp.ClientConnectionError

    async def call(verb: str, path: str, body: Any = None) -> None:
        async with http.request(verb, path, headers=bearer(made), data=body and body()) as response:
            if response.status == 401:  # the client has tried again
                raise aiohttp.ClientConnectionError
            assert response.status == 200, await response.text()
            await read_events(response)

    made = await pl.service.create_token("ursula", "user", vch="default")
    stays = await pl.service.create_token("ursula", "user", vch="default")
    lasting = asyncio.ensure_future(attach(bearer(stays)))
    works = [
        attach(bearer(made)),
        call("GET", f"{container}/stdout"),
        call("GET", f"{container}/logs?follow=true"),
        call("POST", f"{container}/stdin", endless),
        call("POST", "/v1/vchs/default/storage/images/import?name=x", endless),
        call("GET", "/v1/vchs/default/execution/containers/shell/wait"),
    ]
    ended = [asyncio.ensure_future(work) for work in works]
    async with asyncio.timeout(20):
        while server._dispatcher.load._requests < len(works) + 1:
            await asyncio.sleep(0.01)
    await pl.service.delete_token(made.token.id)
    async with asyncio.timeout(20):
        results = await asyncio.gather(*ended, return_exceptions=True)
    assert [result for result in results if not isinstance(result, aiohttp.ClientError)] == []
    assert not lasting.done()
    lasting.cancel()
    await asyncio.gather(lasting, return_exceptions=True)


async def test_a_later_vch_of_the_same_name_knows_none_of_the_tokens(
    http: aiohttp.ClientSession, cluster: Cluster, pl: PortLayer
) -> None:
    path = "/v1/vchs/team/network/networks"
    await pl.service.create_vch("team")
    made = await pl.service.create_token("tim", "user", vch="team")
    (kept,) = await cluster.store.range("/grants/token/")
    assert await status(http, made, path) == 200
    await cluster.served.service.delete_vch(ME, m.DeleteVch(ref="team"))
    assert await pl.service.list_tokens() == ()
    await pl.service.create_vch("team")
    await cluster.store.apply(Transaction(ops=(Put(kept.key, kept.value),)))  # even if it had been left behind
    assert await status(http, made, path) == 401


async def test_secrets_are_in_no_store_log_list_or_audit(
    http: aiohttp.ClientSession, cluster: Cluster, pl: PortLayer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "portlayer")
    root = await pl.service.create_token("olga", "operator")
    body = {"subject": "vera", "role": "viewer", "vch": "default"}
    async with http.post("/v1/tokens", json=body, headers=bearer(root)) as response:
        assert response.status == 201
        made = json.loads(await response.read())
    async with http.get("/v1/tokens", headers=bearer(root)) as response:
        listed = await response.text()
    assert await status(http, made["secret"], "/v1/tokens") == 403
    audit = (tmp_path / "audit.log").read_text()
    assert f'"token:{root.token.id}"' in audit
    everything = [str(vars(record)) for record in caplog.records if record.name.startswith("portlayer")]
    everything += [listed, audit, *(str(row.value) for row in await cluster.store.range("/"))]
    for secret in (root.secret, made["secret"]):
        assert not any(secret[-43:] in text for text in everything)


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        ({"subject": "x", "role": "operator", "vch": "default"}, "/vch"),
        ({"subject": "x", "role": "user"}, "/vch"),
        ({"subject": "x\n", "role": "operator"}, "/subject"),
        ({"subject": "x", "role": "operator", "ttl_seconds": 0}, "/ttlSeconds"),
        ({"subject": "x", "role": "operator", "ttl_seconds": 10**12}, "/ttlSeconds"),
    ],
)
async def test_tokens_that_make_no_sense_are_refused(wanted: dict[str, object], pointer: str, pl: PortLayer) -> None:
    with pytest.raises(e.InvalidArgument) as refused:
        await pl.service.create_token(**wanted)  # type: ignore[arg-type]
    assert refused.value.facts["pointer"] == pointer
    with pytest.raises(e.NotFound):
        await pl.service.create_token("x", "user", vch="absent")


def test_nothing_is_sent_in_the_clear() -> None:
    with pytest.raises(e.InvalidArgument, match="https"):
        RestClient("http://127.0.0.1:1")
