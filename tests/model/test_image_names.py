"""What an image may be called: the grammar of references of the OCI distribution project."""

from __future__ import annotations

import pytest

from portlayer.model.errors import InvalidArgument
from portlayer.model.names import check_image_name

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("busybox", "busybox:latest"),
        ("busybox:1.36-RC_1", "busybox:1.36-RC_1"),
        ("library/my_app__x.y---z", "library/my_app__x.y---z:latest"),
        ("Registry.Example.com:5000/team/app", "Registry.Example.com:5000/team/app:latest"),
        ("HOST:1/app:v1", "HOST:1/app:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("[2001:db8::1]:5000/app", "[2001:db8::1]:5000/app:latest"),
        (f"app@{DIGEST}", f"app@{DIGEST}"),
        (f"app:v1@{DIGEST}", f"app:v1@{DIGEST}"),
        ("a" * 255, "a" * 255 + ":latest"),
    ],
)
def test_a_name_is_taken_with_a_tag(name: str, whole: str) -> None:
    assert check_image_name(name) == whole


@pytest.mark.parametrize("name", ["Busybox", "library/BusyBox:1", "Team/app", "example.com/Team/app:V1"])
def test_upper_case_in_a_repository_is_refused_as_such(name: str) -> None:
    with pytest.raises(InvalidArgument, match="lower case") as caught:
        check_image_name(name)
    assert caught.value.facts == {"pointer": "/name"}


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "a b", "a//b", "/a", "a/", "a..b", "a___b", "-a", "a-", "a_", ".a", "ä", "a\n", "a\0"),
        *("a:", "a:-1", "a:" + "t" * 129, "a:b:c", "a@", "a@sha256:12", "host:port/a", "example.com/"),
        *("a" * 256, "0" * 32, DIGEST, "0" * 64),
    ],
)
def test_what_is_no_name_is_refused_with_its_pointer(name: str) -> None:
    with pytest.raises(InvalidArgument, match="no image name") as caught:
        check_image_name(name, "?name")
    assert caught.value.facts == {"pointer": "?name"}
