from __future__ import annotations

from soak.flat import fit


def test_a_steady_growth_is_told() -> None:
    found = fit([(cycles, 1_000_000 + 3000 * cycles) for cycles in range(0, 1000, 100)], 1000)
    assert (found.slope, found.judged, found.flat) == (3000, True, False)


def test_a_single_leap_is_no_growth() -> None:
    measured = [(cycles, 1_000_000 + (500_000 if cycles >= 800 else 0)) for cycles in range(0, 1000, 100)]
    assert fit(measured, 100).flat


def test_too_few_measurements_say_nothing() -> None:
    found = fit([(0, 0), (1, 1 << 30)], 1)
    assert not found.judged
    assert found.flat
