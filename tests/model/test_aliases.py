"""What an alias may be: what DNS can ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portlayer.model.errors import InvalidArgument
from portlayer.model.limits import MAX_ALIASES, check_aliases


@pytest.mark.parametrize("alias", ["db", "DB", "a", "0a", "my_db", "db-1", "db.local", "_sip._tcp.db", "a" * 63])
def test_names_that_dns_can_ask_for(alias: str) -> None:
    assert check_aliases((alias,)) == (alias,)


@pytest.mark.parametrize(
    "alias",
    [
        *("", ".", "db.", ".db", "a..b", "-db", "db-", "d b", "d,b", "dß", "db\n", "1.2.3.4", "a.1", "ab" * 16),
        "a" * 64,
        ".".join(["a" * 60] * 3),
    ],
)
def test_others_are_refused_with_a_pointer(alias: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_aliases(("fine", alias))
    assert caught.value.facts == {"pointer": "/aliases/1"}


@pytest.mark.parametrize("again", ["db", "DB"])
def test_twice_is_once_too_many(again: str) -> None:
    with pytest.raises(InvalidArgument, match="twice") as caught:
        check_aliases(("db", "web", again))
    assert caught.value.facts == {"pointer": "/aliases/2"}


def test_there_may_be_so_many() -> None:
    aliases = tuple(f"a{number}" for number in range(MAX_ALIASES))
    assert check_aliases(aliases) == aliases
    with pytest.raises(InvalidArgument) as caught:
        check_aliases((*aliases, "more"))
    assert caught.value.facts == {"pointer": "/aliases"}


@given(st.lists(st.text(max_size=70), max_size=5))
def test_whatever_is_taken_stands_on_one_line_of_a_record(aliases: list[str]) -> None:
    try:
        taken = check_aliases(tuple(aliases))
    except InvalidArgument:
        return
    assert not any(set(alias) & set(" ,\n\r") or len(alias.splitlines()) != 1 for alias in taken)
