"""What may stand in the settings' table `limits`."""

from __future__ import annotations

from pathlib import Path

import pytest

from portlayer.compose import read_settings
from portlayer.model.bounds import Limits, commits_on
from portlayer.model.errors import InvalidArgument


def read(tmp_path: Path, text: str) -> Limits:
    (tmp_path / "topology.toml").write_text(text)
    return read_settings({}, tmp_path / "topology.toml").limits


COMMITS = "[limits.commits]\natOnce = 2\natOncePerVch = 1\nqueued = 0\nqueuedPerVch = 0\n"


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Limits()
    limits = read(tmp_path, f"{COMMITS}[limits.http]\nrequests = 7\n[limits]\nevents = 500\n")
    assert (limits.commits.at_once, limits.commits.queued, limits.http.requests) == (2, 0, 7)
    assert limits.events == 500
    assert (limits.imports, limits.http.connections) == (Limits().imports, Limits().http.connections)


@pytest.mark.parametrize(
    "text",
    [
        "limits = 3\n",
        "[limits.commits]\natOnce = 0\natOncePerVch = 1\nqueued = 0\nqueuedPerVch = 0\n",
        f"{COMMITS}waitSeconds = 0\n",
        f"{COMMITS}waitSeconds = nan\n",
        f"{COMMITS}colour = 1\n",
        '[limits.http]\nrequests = "many"\n',
        "[limits.http]\nrequests = 5000\n",
        "[limits.pulls]\natOnce = 1\n",
        "[limits]\nevents = 99\n",
    ],
)
def test_what_could_never_run_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidArgument, match="limits"):
        read(tmp_path, text)


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_a_vch_leaves_room_for_the_others(cores: int) -> None:
    bounds = commits_on(cores)
    assert 1 <= bounds.at_once_per_vch < bounds.at_once
    assert bounds.queued_per_vch < bounds.queued
