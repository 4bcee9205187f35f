from __future__ import annotations

from collections import Counter

from soak.cycles import KINDS
from soak.run import Plan


def test_the_seed_decides() -> None:
    one, same, other = Plan(200, 5, seed=1), Plan(200, 5, seed=1), Plan(200, 5, seed=2)
    assert (one.deals(), one.strikes()) == (same.deals(), same.strikes())
    assert one.deals() != other.deals()
    assert one.strikes() != other.strikes()


def test_every_kind_comes_as_often_as_any_other() -> None:
    dealt = Counter(Plan(3 * len(KINDS), 0, seed=1).deals())
    assert dealt == Counter(dict.fromkeys(KINDS, 3))


def test_the_server_is_left_alone_at_the_end() -> None:
    strikes = Plan(1000, 20, seed=1).strikes()
    assert len(strikes) == 20
    assert max(strikes) < 400
