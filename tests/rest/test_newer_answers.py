"""A newer server may say more than its client knows."""

from __future__ import annotations

import msgspec
import pytest

from portlayer.model.errors import Unavailable
from portlayer.model.events import Event
from portlayer.rest.client.connection import decoded


def test_an_answer_with_more_than_is_known_is_an_answer() -> None:
    told = Event(type="cookie.eaten", kind="cookie", id="1", name="oreo", time="", attributes={})
    more = msgspec.json.decode(msgspec.json.encode(told)) | {"flavour": "vanilla"}
    assert decoded(Event, msgspec.json.encode(more)) == told


def test_an_answer_that_makes_no_sense_is_none() -> None:
    with pytest.raises(Unavailable, match="not of this version of the API: Object missing"):
        decoded(Event, b'{"type": "cookie.eaten"}')
