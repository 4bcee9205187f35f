"""The table between errors and problem documents is whole."""

from __future__ import annotations

import msgspec
import pytest

from portlayer.model import errors as e
from portlayer.rest import problems


def test_the_table_has_every_class_of_the_taxonomy() -> None:
    assert set(problems.TABLE) == set(e.TAXONOMY)


def test_a_document_may_hold_every_fact_that_there_is() -> None:
    facts = {name for error in e.TAXONOMY for name in error.fields}
    own = {info.name for info in msgspec.structs.fields(problems.Problem)}
    assert own == facts | {"type", "title", "status", "detail", "code"}


@pytest.mark.parametrize(
    ("status", "error"), [(409, e.AlreadyExists), (404, e.NotFound), (418, e.InvalidArgument), (500, e.Unavailable)]
)
@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff", b"[]", b'{"code": "New"}'])
def test_an_answer_that_is_not_ours_is_told_by_its_status(
    status: int, error: type[e.PortlayerError], body: bytes
) -> None:
    assert type(problems.error_of(status, body)) is error
