from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import advantage, percentile, summarize

values = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=50)


@given(values, st.floats(min_value=0, max_value=100))
def test_a_percentile_is_one_of_the_values_and_enough_do_not_exceed_it(sample: list[float], percent: float) -> None:
    found = percentile(sample, percent)
    assert found in sample
    assert sum(value <= found for value in sample) >= len(sample) * percent / 100 - 1e-9


@given(values)
def test_a_summary_is_in_order(sample: list[float]) -> None:
    summary = summarize(sample)
    assert min(sample) <= summary.median <= max(sample)
    assert summary.median <= summary.percentile95
    assert summary.count == len(sample)


def test_the_95th_of_a_hundred() -> None:
    assert percentile(list(range(1, 101)), 95) == 95
    assert percentile([7.0], 95) == 7.0


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 95)


def test_an_advantage_above_one_is_ours_whichever_way_the_unit_points() -> None:
    assert advantage(10, 40, lower_is_better=True) == 4
    assert advantage(40, 10, lower_is_better=False) == 4
