"""What a newer version of us has written is read as far as it is known, or not at all."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from portlayer.model.base import Value
from portlayer.model.errors import Unavailable
from portlayer.model.versions import amended, read, read_whole


class Sheet(Value):
    cells: int = 0


class Cat(Value, tag="cat"):
    lives: int


class Dog(Value, tag="dog"):
    name: str


class Ark(Value):
    master: str
    state: Literal["dry", "afloat"] = "dry"
    sheet: Sheet | None = None
    animals: tuple[Cat | Dog, ...] = ()
    rooms: dict[str, Sheet] = {}
    pair: tuple[str, Sheet] = ("", Sheet())
    seal: bytes = b""


WHOLE = Ark(
    master="Noah",
    sheet=Sheet(cells=1),
    animals=(Cat(lives=9), Dog(name="Rex")),
    rooms={"a": Sheet(cells=2)},
    pair=("b", Sheet(cells=3)),
    seal=b"\x00\xff",
)


def newer(value: Any) -> Any:
    """As a later version would write it: everything has a field more."""
    if isinstance(value, list):
        return [newer(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {"future": {"deep": [1]}} | {name: newer(one) for name, one in value.items()}


def written(value: Value) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def test_what_is_unknown_is_left_out_wherever_it_stands() -> None:
    told = newer(written(WHOLE))
    told["rooms"].pop("future")  # there it is no field
    assert read(Ark, msgspec.json.encode(told)) == WHOLE
    assert read(tuple[Ark, ...], msgspec.json.encode([told])) == (WHOLE,)  # type: ignore[arg-type]


def test_who_needs_all_of_it_is_told() -> None:
    assert read_whole(Ark, msgspec.json.encode(WHOLE)) == WHOLE
    with pytest.raises(Unavailable, match=r"future.*upgrade it") as refused:
        read_whole(Ark, msgspec.json.encode(written(WHOLE) | {"future": 1}))
    assert refused.value.facts["retry_after_seconds"] > 0


def test_who_changes_one_field_leaves_the_others_as_they_are() -> None:
    told = written(WHOLE) | {"future": 1}
    changed = msgspec.json.decode(amended(Ark, msgspec.json.encode(told), state="afloat", rooms={"b": Sheet(cells=1)}))
    assert changed == told | {"state": "afloat", "rooms": {"b": {"cells": 1}}}


@pytest.mark.parametrize(
    "told",
    [
        {"master": "Noah", "state": "flying"},
        {"master": "Noah", "animals": [{"type": "unicorn", "horns": 1}]},
        {"master": 3},
        {"future": 1},
        [],
    ],
)
def test_what_makes_no_sense_without_what_is_unknown_is_read_by_nobody(told: Any) -> None:
    for reading in (read, read_whole):
        with pytest.raises(Unavailable):
            reading(Ark, msgspec.json.encode(told))


def test_what_is_no_json_is_read_by_nobody() -> None:
    for reading in (read, read_whole):
        with pytest.raises(Unavailable):
            reading(Ark, b"\xff{")
