"""Processes and clients of different versions: one may say more than the other knows."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import msgspec
import pytest
from rest import standins

from portlayer.model.caller import Caller
from portlayer.model.errors import Unavailable
from portlayer.model.events import Event
from portlayer.rest.client.connection import decoded
from portlayer.rest.passport import HEADER, Passport
from portlayer.rest.server import Server


def test_an_answer_with_more_than_is_known_is_an_answer() -> None:
    told = Event(type="cookie.eaten", kind="cookie", id="1", name="oreo", time="", attributes={})
    more = msgspec.json.decode(msgspec.json.encode(told)) | {"flavour": "vanilla"}
    assert decoded(Event, msgspec.json.encode(more)) == told


def test_an_answer_that_makes_no_sense_is_none() -> None:
    with pytest.raises(Unavailable, match="not of this version of the API: Object missing"):
        decoded(Event, b'{"type": "cookie.eaten"}')


async def test_a_process_that_does_not_know_what_is_passed_on_to_it_says_why(tmp_path: Path) -> None:
    """The process before it has taken the request for good: the caller has made no mistake."""
    world = standins.World()
    passport = Passport(b"k" * 32)
    server = Server(world.components, world.components, passport)
    await server.listen_unix(tmp_path / "s")
    connector = aiohttp.UnixConnector(str(tmp_path / "s"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        for verb, target, body in (
            ("POST", "/v1/vchs/default/network/networks", {"name": "net", "future": 1}),
            ("GET", "/v1/vchs/default/network/networks?future=1", None),
            ("POST", "/v1/vchs/default/network/teleport", {}),
        ):
            signed = {HEADER: passport.sign(Caller(), verb, target)}
            async with session.request(verb, target, json=body, headers=signed) as answer:
                told = await answer.json()
            assert (answer.status, told["code"], told["refused"]) == (503, "Unavailable", True)
            assert "another version" in told["detail"]
            assert int(answer.headers["Retry-After"]) > 0
            async with session.request(verb, target, json=body, headers={HEADER: signed[HEADER][:-2]}) as answer:
                assert answer.status == 401, "who is none of us learns nothing"
            async with session.request(verb, target, json=body) as answer:
                assert answer.status in (400, 404), "and callers are told what is wrong"
    await server.drain(1)
