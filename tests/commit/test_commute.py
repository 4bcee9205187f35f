"""The commute table of docs/commit.md: changes whose facets do not meet give the same spec in either order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from builders import container
from hypothesis import assume, given
from hypothesis import strategies as st

from portlayer.model import changes as c
from portlayer.model.errors import PortlayerError
from portlayer.model.execution import ContainerSpec, Resources, RestartPolicy, replace
from portlayer.model.interaction import InteractionSpec
from portlayer.model.network import EndpointSpec
from portlayer.model.storage import MountSpec

KEYS, NETWORKS, PATHS = st.sampled_from("abc"), st.sampled_from(["n1", "n2", "n3"]), st.sampled_from(["/x", "/y"])


def endpoint(network: str, **fields: object) -> EndpointSpec:
    return replace(
        EndpointSpec(id=f"e-{network}", network=network, network_name=network, mac_address="02:00:00:00:00:01"),
        **fields,
    )


CHANGES = st.one_of(
    st.builds(c.ChangeState, state=st.sampled_from(["running", "stopped", "paused"])),
    st.builds(c.MergeLabels, labels=st.dictionaries(KEYS, st.none() | KEYS, min_size=1, max_size=2)),
    st.builds(c.ChangeResources, resources=st.builds(Resources, pids=st.integers(1, 3))),
    st.builds(c.ChangeRestartPolicy, restart_policy=st.builds(RestartPolicy, name=st.sampled_from(["no", "always"]))),
    st.builds(c.RenameContainer, name=KEYS),
    st.builds(lambda path: c.AddMount(mount=MountSpec(volume="v", volume_name="v", destination=path)), PATHS),
    st.builds(c.RemoveMount, destination=PATHS),
    st.builds(lambda network: c.AddEndpoint(endpoint=endpoint(network)), NETWORKS),
    st.builds(
        lambda network: c.ActivateEndpoint(
            network=network, endpoint=f"e-{network}", address="10.0.0.2", prefix_length=24, gateway="", claim="h"
        ),
        NETWORKS,
    ),
    st.builds(c.DeactivateEndpoint, network=NETWORKS),
    st.builds(c.RemoveEndpoint, network=NETWORKS),
    st.builds(lambda stdin: c.AddInteraction(interaction=InteractionSpec(stdin=stdin)), st.booleans()),
    st.builds(c.ActivateInteraction),
    st.builds(c.DeactivateInteraction),
)
SPECS = st.builds(
    lambda networks, paths, joined: replace(
        container("true"),
        labels={"a": "1"},
        endpoints={network: endpoint(network) for network in networks},
        mounts={path: MountSpec(volume="v", volume_name="v", destination=path) for path in paths},
        interaction=InteractionSpec() if joined else None,
    ),
    st.sets(NETWORKS),
    st.sets(PATHS),
    st.booleans(),
)


def both(spec: ContainerSpec, first: c.AnyChange, second: c.AnyChange) -> ContainerSpec | None:
    try:
        return c.fold(spec, (first, second))
    except PortlayerError:
        return None


@given(SPECS, CHANGES, CHANGES)
def test_changes_whose_facets_do_not_meet_commute(spec: ContainerSpec, first: c.AnyChange, second: c.AnyChange) -> None:
    assume(not c.facets(first) & c.facets(second))
    one, other = both(spec, first, second), both(spec, second, first)
    assert one == other


@given(CHANGES, CHANGES, st.integers(1, 5), st.integers(0, 5))
def test_commits_collide_exactly_where_facets_meet_and_the_other_is_newer(
    mine: c.AnyChange, theirs: c.AnyChange, revision: int, base: int
) -> None:
    touched = dict.fromkeys(c.facets(theirs), revision)
    found = c.collisions(touched, base, (mine,))
    expected = c.facets(mine) & c.facets(theirs) if revision > base else frozenset()
    assert set(found) == expected


@given(CHANGES, st.integers(1, 5))
def test_a_removal_collides_with_everything_newer(theirs: c.AnyChange, revision: int) -> None:
    touched = dict.fromkeys(c.facets(theirs), revision)
    assert set(c.collisions(touched, 0, (c.RemoveContainer(),))) == c.facets(theirs)


PAGE = Path(__file__).parents[2] / "docs" / "commit.md"
CALLS: dict[str, tuple[c.AnyChange, ...]] = {
    "execution/create": (c.CreateContainer(spec=container("true")), c.PlaceContainer(host="east")),
    "DELETE": (c.RemoveContainer(),),
    "execution/set-state": (c.ChangeState(state="running"),),
    "execution/set-labels": (c.MergeLabels(labels={"a": "1"}),),
    "execution/set-resources": (c.ChangeResources(resources=Resources()),),
    "execution/set-restart-policy": (c.ChangeRestartPolicy(restart_policy=RestartPolicy()),),
    "execution/rename": (c.RenameContainer(name="b"),),
    "storage/join": (c.AddMount(mount=MountSpec(volume="v", volume_name="v", destination="/x")),),
    "storage/leave": (c.RemoveMount(destination="/x"),),
    "network/join": (c.AddEndpoint(endpoint=endpoint("n1")),),
    "network/bind": (
        c.ActivateEndpoint(network="n1", endpoint="e-n1", address="10.0.0.2", prefix_length=24, gateway="", claim="h"),
    ),
    "network/unbind": (c.DeactivateEndpoint(network="n1"),),
    "network/leave": (c.RemoveEndpoint(network="n1"),),
    "interaction/join": (c.AddInteraction(interaction=InteractionSpec()),),
    "interaction/bind": (c.ActivateInteraction(),),
    "interaction/unbind": (c.DeactivateInteraction(),),
}
"""What each call adds to a handle."""


def rows() -> dict[str, str]:
    """The table of the page: the facets that each call has."""
    found = {}
    for calls, cell in re.findall(r"^\| (`[a-zA-Z/`, -]+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE):
        component = ""
        for call in re.findall("`([^`]+)`", calls):
            component = call.partition("/")[0] if "/" in call else component
            name = call if "/" in call or call.isupper() else f"{component}/{call}"
            found[name] = "*" if cell.startswith("all") else cell.split("`")[1]
    return {name: facet for name, facet in found.items() if name in CALLS or "/" in name}


def test_the_table_knows_every_call_and_every_change() -> None:
    assert set(rows()) == set(CALLS)
    assert {type(change) for changes in CALLS.values() for change in changes} == set(get_args(c.AnyChange))


@pytest.mark.parametrize("call", CALLS)
def test_the_table_says_what_each_call_touches(call: str) -> None:
    told = rows()[call]
    parts = {"<key>": "a", "/<destination>": "/x", "<destination>": "/x", "<network>": "n1"}
    for part, value in parts.items():
        told = told.replace(part, value)
    assert [set(c.facets(change)) for change in CALLS[call]] == [{told}] * len(CALLS[call])
