from __future__ import annotations

from soak.result import Rest, Result


def _rest(cycles: int, **fields: int) -> Rest:
    memory = {"rss": 0, "pss": 0, "anonymous": 0, "store": 0, "wal": 0, **fields}
    descriptors = {"socket": memory.pop("sockets", 3)}
    return Rest(cycles=cycles, generation=1, served=cycles, descriptors=descriptors, **memory)


def _result(*rests: Rest) -> Result:
    return Result(seed=1, cycles=1000, at_once=8, started_at="now", done=1000, rests=list(rests))


def test_a_server_at_rest_is_well() -> None:
    assert _result(*(_rest(cycles) for cycles in range(100, 1001, 100))).wrong() == []


def test_memory_that_grows_to_the_end_is_wrong() -> None:
    (wrong,) = _result(*(_rest(cycles, anonymous=9000 * cycles) for cycles in range(100, 1001, 100))).wrong()
    assert "memory grows by 9000 bytes a cycle" in wrong


def test_a_short_run_does_not_judge_memory() -> None:
    assert _result(*(_rest(cycles, anonymous=9000 * cycles) for cycles in range(100, 901, 100))).wrong() == []


def test_caches_that_fill_are_not() -> None:
    grown = (_rest(cycles, anonymous=9000 * min(cycles, 500)) for cycles in range(100, 1001, 100))
    assert _result(*grown).wrong() == []


def test_a_descriptor_that_stays_open_is_named() -> None:
    (wrong,) = _result(_rest(100), _rest(1000, sockets=4)).wrong()
    assert "{'socket': 1}" in wrong


def test_what_is_left_and_what_did_not_end_well_is_wrong() -> None:
    result = _result(_rest(1000))
    result.leftovers, result.errors, result.done = ["link x"], ["cycle 7: no"], 999
    assert result.wrong() == ["cycle 7: no", "link x", "only 999 of 1000 cycles ended well"]
