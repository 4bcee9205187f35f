"""Who calls over TLS: every route as everybody, by certificate and by token; and when what proves it ends."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import time

import aiohttp
import pytest
import tlslab
from driver import Driver
from rest.test_access import CANARY, VARYING, filled
from rest.tlsrig import Rig
from yarl import URL

from portlayer.client import Steps
from portlayer.components import x509
from portlayer.components.ca import Ca
from portlayer.interfaces.store import Put, Record, Transaction
from portlayer.model import errors as e
from portlayer.model import service as m
from portlayer.model.access import Identity, Role, decide
from portlayer.model.caller import Caller
from portlayer.model.storage import Nothing
from portlayer.rest import tls
from portlayer.rest.calls import CALLS
from portlayer.rest.client import RestClient
from portlayer.rest.passport import HEADER as PASSPORT
from portlayer.rest.passport import Passport
from portlayer.rest.tls import Chain
from portlayer.stores.memory import MemoryStore

INSIDE = "/v1/vchs/default/network/networks"
EVENTS = "/v1/vchs/default/events"
PEOPLE: dict[str, tuple[str, Role, str | None]] = {
    "viewer": ("vera", "viewer", "default"),
    "user": ("ursula", "user", "default"),
    "stranger": ("sam", "viewer", "other"),
    "strange user": ("sue", "user", "other"),
    "operator": ("olga", "operator", None),
}


async def sessions(rig: Rig, how: str) -> dict[str, aiohttp.ClientSession]:
    """One for each of PEOPLE, and for nobody, who are known by *how*."""
    made = {"nobody": await rig.session()}
    for name, (subject, role, vch) in PEOPLE.items():
        if how == "certificate":
            made[name] = await rig.session((await rig.issue(subject, role, vch)).chain)
        else:
            made[name] = await rig.session(token=(await rig.pl.service.create_token(subject, role, vch=vch)).secret)
    return made


async def ask(session: aiohttp.ClientSession, verb: str, path: str) -> tuple[int, dict[str, str], bytes]:
    async with session.request(verb, URL(path, encoded=True)) as response:
        kept = {name: value for name, value in response.headers.items() if name not in VARYING}
        return response.status, kept, await response.read()


async def furnish(rig: Rig) -> str:
    """One of everything, called `thing`; a handle of it."""
    await Driver(rig.cluster.served).image()
    await rig.pl.service.create_vch("other")
    await rig.pl.network.create_network("thing")
    await rig.pl.storage.create_volume("thing")
    await rig.pl.service.put_kv("thing", CANARY.encode())
    await rig.pl.execution.commit(Steps().create("busybox", "true", name="thing", env=[f"PASSWORD={CANARY}"]))
    return (await rig.pl.execution.get_container("thing")).sealed


@pytest.mark.parametrize("how", ["certificate", "token"])
async def test_no_route_tells_the_unknown_the_low_or_the_stranger_what_there_is(how: str, rig: Rig) -> None:
    await furnish(rig)
    people = await sessions(rig, how)
    for call in CALLS:
        for who, session in people.items():
            subject, role, vch = PEOPLE.get(who, ("", "viewer", None))
            identity = Identity(subject=subject, role=role, vch=vch) if subject else None
            try:
                decide(identity, call.role, "default" if call.tenant else None)
            except e.PortlayerError as refusal:
                expected = type(refusal)
            else:
                continue
            there = await ask(session, call.verb, filled(call, "default", "thing"))
            absent = await ask(session, call.verb, filled(call, "default", "absent"))
            assert there == absent, (call.name, who)
            assert json.loads(there[2])["code"] == expected.__name__, (call.name, who)
            if expected is e.NotFound:
                other = await ask(session, call.verb, filled(call, "default-not", "thing"))
                assert (other[0], other[1], other[2].replace(b"default-not", b"default")) == there, (call.name, who)
    looked = {who: (await ask(session, "GET", INSIDE))[0] for who, session in people.items()}
    assert looked == {"nobody": 401, "viewer": 200, "user": 200, "stranger": 404, "strange user": 404, "operator": 200}
    assert (await ask(people["nobody"], "GET", "/healthz"))[0] == 200
    assert CANARY not in rig.audit
    for session in people.values():
        await session.close()


@pytest.mark.parametrize("how", ["certificate", "token"])
async def test_a_leaked_handle_is_worthless_and_the_audit_log_says_what_proved_who(how: str, rig: Rig) -> None:
    handle = await furnish(rig)
    people = await sessions(rig, how)

    async def use(who: str, vch: str, sent: str) -> tuple[int, bytes]:
        path = f"/v1/vchs/{vch}/execution/commit"
        async with people[who].post(path, json={"handle": sent}) as response:
            return response.status, await response.read()

    assert await use("strange user", "default", handle) == await use("strange user", "default", "garbage")
    stolen = await use("strange user", "other", handle)
    assert stolen == await use("strange user", "other", "garbage")
    assert stolen[0] == 410
    assert (await use("user", "default", handle))[0] == 200
    lines = [json.loads(line) for line in rig.audit.splitlines()]
    assert [(line["subject"], line["status"]) for line in lines] == [
        *[("sue", 404)] * 2,
        *[("sue", 410)] * 2,
        ("ursula", 200),
    ]
    listed = await (rig.pl.service.list_certificates() if how == "certificate" else rig.pl.service.list_tokens())
    ids = {grant.subject: grant.id for grant in listed}
    assert {line["how"] for line in lines} == {f"{how}:{ids['sue']}", f"{how}:{ids['ursula']}"}
    for session in people.values():
        await session.close()


async def read(response: aiohttp.ClientResponse) -> None:
    async for _ in response.content:
        pass


@pytest.mark.parametrize("how", ["revoked", "over"])
async def test_a_stream_ends_with_the_certificate_that_opened_it(how: str, rig: Rig) -> None:
    held = await rig.issue("vera", "viewer", "default", seconds=1 if how == "over" else 600)
    stays = await rig.issue("victor", "viewer", "default")
    async with (
        await rig.session(held.chain) as mine,
        await rig.session(stays.chain) as others,
        mine.get(EVENTS) as ends,
        others.get(EVENTS) as lasts,
    ):
        assert (ends.status, lasts.status) == (200, 200)
        still = asyncio.ensure_future(read(lasts))
        if how == "revoked":
            await rig.pl.service.revoke_certificate(held.grant.id)
        async with asyncio.timeout(10):
            with pytest.raises(aiohttp.ClientError):
                await read(ends)
        assert not still.done()
        still.cancel()
        assert await rig.status(EVENTS, held.chain) == 401, "a new connection"
        async with mine.get(INSIDE) as response:
            assert response.status == 401, "and a call in the same session"
    assert [grant.subject for grant in await rig.pl.service.list_certificates()] == ["victor"]
    if how == "revoked":
        with pytest.raises(e.NotFound):
            await rig.pl.service.revoke_certificate(held.grant.id)


async def test_a_call_on_a_connection_that_was_opened_before_the_revocation(rig: Rig) -> None:
    held = await rig.issue("vera", "viewer", "default")
    async with await rig.session(held.chain) as session:
        assert (await ask(session, "GET", INSIDE))[0] == 200
        await rig.pl.service.revoke_certificate(held.grant.id)
        assert (await ask(session, "GET", INSIDE))[0] == 401


async def test_a_later_vch_of_the_same_name_knows_none_of_the_certificates(rig: Rig) -> None:
    path = "/v1/vchs/team/network/networks"
    await rig.pl.service.create_vch("team")
    held = await rig.issue("tim", "user", "team")
    (kept,) = await rig.cluster.store.range("/grants/certificate/")
    assert await rig.status(path, held.chain) == 200
    await rig.cluster.served.service.delete_vch(Caller(), m.DeleteVch(ref="team"))
    assert await rig.pl.service.list_certificates() == ()
    await rig.pl.service.create_vch("team")
    await rig.cluster.store.apply(Transaction(ops=(Put(kept.key, kept.value),)))  # even if it had been left behind
    assert await rig.status(path, held.chain) == 401


async def test_a_token_goes_before_a_certificate(rig: Rig) -> None:
    operator = await rig.issue("olga", "operator")
    viewer = await rig.pl.service.create_token("vera", "viewer", vch="default")
    for secret, status in (("", 200), (viewer.secret, 403), ("plt_x", 401)):
        async with await rig.session(operator.chain, secret) as session, session.get("/v1/tokens") as response:
            assert response.status == status


def forwarded(rig: Rig, passport: Passport | None = None) -> dict[str, str]:
    signed = (passport or rig.cluster.entry.passport).sign(Caller(subject="root", role="operator"), "GET", "/v1/tokens")
    return {PASSPORT: signed}


async def test_only_a_process_is_believed_about_callers(rig: Rig) -> None:
    """The signature alone is not enough, nor is the certificate of a client, an operator's even, or of another CA."""
    client, stranger = await rig.issue("olga", "operator"), tlslab.process()
    issued = rig.certificates._ca.issue_process("door", [])
    process = Chain(certificates=issued.chain, key=issued.key)
    for own, headers, status in (
        (None, forwarded(rig), 401),
        (client.chain, forwarded(rig), 401),
        (process, forwarded(rig), 200),
        (process, forwarded(rig, Passport(b"k" * 32)), 401),
        (process, {}, 401),
    ):
        async with await rig.session(own) as session, session.get("/v1/tokens", headers=headers) as response:
            assert response.status == status
    async with await rig.session(stranger) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get("/v1/tokens", headers=forwarded(rig))


async def test_a_process_whose_certificate_is_over_is_believed_no_more(rig: Rig) -> None:
    ca = rig.certificates._ca
    old = tlslab.chain(x509.issue_process(ca._pair, "door", [], dt.timedelta(seconds=-1)))
    async with await rig.session(old) as session, session.get("/v1/tokens", headers=forwarded(rig)) as response:
        assert response.status == 401


async def test_a_client_cannot_pose_as_a_server(rig: Rig) -> None:
    held = await rig.issue("olga", "operator")
    context = tls.server_side(held.chain, None, [])
    port = await rig.server.listen_tls("127.0.0.1", 0, lambda: context)
    calling = await rig.calling()
    for passport in (None, rig.cluster.entry.passport):
        other = RestClient(f"https://127.0.0.1:{port}", calling, passport=passport, name="storage")
        with pytest.raises(e.Unavailable, match="storage cannot be trusted"):
            await other.service.info(Caller(), Nothing())
        await other.close()


@pytest.mark.parametrize("wrong", ["", "nonsense", "weak", "short", "unsigned"])
async def test_requests_that_make_no_sense_are_refused(wrong: str, rig: Rig) -> None:
    with pytest.raises(e.InvalidArgument) as refused:
        await rig.pl.service.create_certificate("vera", "viewer", tlslab.request(wrong), vch="default")
    assert refused.value.facts["pointer"] == "/request"
    assert await rig.pl.service.list_certificates() == ()


async def test_a_certificate_has_an_end(rig: Rig) -> None:
    for seconds in (0, 10**9):
        with pytest.raises(e.InvalidArgument) as refused:
            await rig.issue("vera", "viewer", "default", seconds=seconds)
        assert refused.value.facts["pointer"] == "/ttlSeconds"


async def test_what_was_issued_lasts_over_a_rotation_unless_that_is_to_be_forgotten(rig: Rig) -> None:
    before, held = await rig.calling(), await rig.issue("vera", "viewer", "default")
    await rig.pl.service.rotate_ca()
    await rig.cluster.refresh_certificates()
    client = RestClient(rig.address, before)
    with pytest.raises(e.Unauthenticated):  # it is the right server, which who trusts the old key alone can tell
        await client.service.info(Caller(), Nothing())
    await client.close()
    assert await rig.status(INSIDE, held.chain) == 200
    later = await rig.issue("victor", "viewer", "default")
    assert await rig.status(INSIDE, later.chain) == 200
    await rig.pl.service.rotate_ca(forget=True)
    await rig.cluster.refresh_certificates()
    assert (await rig.pl.service.authorities()).count("BEGIN") == 1
    for chain in (held.chain, later.chain):
        with pytest.raises(aiohttp.ClientError):
            await rig.status(INSIDE, chain)
    assert await rig.status(INSIDE, (await rig.issue("vera", "viewer", "default")).chain) == 200


async def test_keys_are_in_no_store_log_list_or_audit(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    held = await rig.issue("olga", "operator")
    await rig.status("/v1/tokens/none", held.chain, "DELETE")
    await rig.pl.service.rotate_ca()
    await rig.cluster.refresh_certificates()
    with pytest.raises(e.Unavailable) as refused:
        await Ca(rig.cluster.store, b"k" * 32).load()
    async with await rig.session(held.chain) as session:
        told = [
            await (await session.get(path)).text() for path in ("/v1/info", "/v1/certificates", "/v1/ca", "/metrics")
        ]
    told += [str(vars(record)) for record in caplog.records]
    told += [rig.audit, refused.value.detail, *(repr(row.value) for row in await rig.cluster.store.range("/"))]
    certificates = rig.certificates
    secrets = [held.chain.key, certificates._own.key, certificates._ca._pair.key_pem, certificates._ca._host_key]
    for secret in secrets:
        middle = secret.splitlines()[1].decode() if secret.startswith(b"-----") else secret.hex()
        assert not any(middle in text or repr(secret)[2:-1] in text for text in told)


async def test_what_is_secret_is_told_its_owner_alone(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Variables, values and tokens, of which there are some in each answer's reach: no log, event, error or list."""
    caplog.set_level(logging.DEBUG)
    handle = await furnish(rig)
    people = await sessions(rig, "token")
    secrets = [session.headers["Authorization"] for session in people.values() if session.headers]
    async with people["user"].get(EVENTS, params={"since": "0"}) as stream:
        events = await stream.content.readuntil(b"container.created")
    told = [events.decode()]
    for path in ("execution/containers/thing", "execution/containers", "storage/images", "kv/thing"):
        told.append(str(await ask(people["viewer"], "GET", f"/v1/vchs/default/{path}")))
        told.append(str(await ask(people["stranger"], "GET", f"/v1/vchs/default/{path}")))
    paths = ("/v1/tokens", "/v1/certificates", "/v1/info", "/v1/processes", "/v1/vchs", "/metrics")
    told += [str(await ask(people["operator"], "GET", path)) for path in paths]
    body = {"handle": handle, "state": CANARY}
    async with people["stranger"].post("/v1/vchs/default/execution/set-state", json=body) as response:
        told.append(await response.text())
    async with people["user"].post("/v1/vchs/default/execution/commit", json={"handle": handle[:-2]}) as response:
        told.append(await response.text())
    told += [handle, rig.audit, *(str(vars(record)) for record in caplog.records)]
    for secret in (CANARY, *(each.removeprefix("Bearer ")[-43:] for each in secrets)):
        assert not [text for text in told if secret in text]
    assert CANARY in str(await ask(people["user"], "GET", "/v1/vchs/default/execution/containers/thing"))
    for session in people.values():
        await session.close()


class Shared(MemoryStore):
    """One that others use, too, while an answer is on its way."""

    async def get(self, key: str) -> Record | None:
        row = await super().get(key)
        await asyncio.sleep(0)
        return row


async def test_processes_that_find_no_ca_or_an_old_one_make_one_new_key(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = rig.certificates._ca._host_key
    store = Shared()
    found = [Ca(store, secret) for _ in range(5)]
    await asyncio.gather(*(ca.load() for ca in found))
    assert {ca.pem.count("BEGIN") for ca in found} == {1}
    later = time.time() + 6 * 365 * 86400
    monkeypatch.setattr("portlayer.components.ca.time.time", lambda: later)
    await asyncio.gather(*(ca.load() for ca in found))
    assert len({ca.pem for ca in found}) == 1
    assert found[0].pem.count("BEGIN") == 2
