"""The end of a prefix is the first key behind all that have it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portlayer.stores.keys import bounds

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\0\ud7ff\ue000\U0010ffff"), max_size=4)


@given(texts, texts, texts)
def test_bounds_hold_exactly_the_keys_with_the_prefix(prefix: str, after: str, key: str) -> None:
    lower, upper = bounds(prefix, after)
    for candidate in (key, prefix + key, prefix, after):
        inside = lower <= candidate and (upper is None or candidate < upper)
        assert inside == (candidate.startswith(prefix) and (not after or candidate > after))
    assert upper is None or upper.encode()
