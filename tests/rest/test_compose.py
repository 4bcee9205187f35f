"""Compose: the steps of one round trip, each on the handle that the one before gave."""

from __future__ import annotations

from typing import Any

import pytest
from rest.standins import World, sample

from portlayer.model import errors as e
from portlayer.model import execution as em
from portlayer.model import network as nm
from portlayer.model.caller import Caller
from portlayer.model.storage import HandleAnswer
from portlayer.rest.client import RestClient

CREATE = {"call": "execution/create", "image": "busybox"}
JOIN = {"call": "network/join", "network": "lan", "ports": [{"containerPort": 80}]}
BIND = {"call": "network/bind"}
RUN = {"call": "execution/set-state", "state": "running"}
COMMIT = {"call": "execution/commit", "strict": True}
DISCARD = {"call": "execution/discard"}


@pytest.fixture(autouse=True)
def handles(world: World) -> None:
    world.answer("execution", "create", em.Created(handle="h1", id="i"))
    world.answer("network", "join", nm.JoinedNetwork(handle="h2", endpoint_id="e"))
    world.answer("network", "bind", nm.BoundNetwork(handle="h3", endpoints=()))
    world.answer("execution", "set_state", HandleAnswer(handle="h4"))
    world.answer("execution", "inspect", sample(em.Inspected))


def asked(world: World) -> list[tuple[str, Any]]:
    return [(method, request) for method, _, request in (*world.execution.asked, *world.network.asked)]


async def test_each_step_goes_on_with_the_handle_of_the_one_before(client: RestClient, world: World) -> None:
    composed = await client.execution.compose(Caller(), [CREATE, JOIN, BIND, RUN, COMMIT])
    assert asked(world) == [
        ("create", em.Create(image="busybox")),
        ("set_state", em.SetState(handle="h3", state="running")),
        ("commit", em.Commit(handle="h4", strict=True)),
        ("join", nm.JoinNetwork(handle="h1", network="lan", ports=(nm.Port(container_port=80),))),
        ("bind", nm.BindNetwork(handle="h2")),
    ]
    assert composed.handle is None
    assert len(composed.answers) == 5
    assert composed.answers[0] == {"handle": "h1", "id": "i"}


async def test_without_a_commit_the_last_handle_is_answered(client: RestClient) -> None:
    composed = await client.execution.compose(Caller(), [{**RUN, "handle": "h0"}, BIND])
    assert composed.handle == "h3"
    assert (await client.execution.compose(Caller(), [CREATE, DISCARD])).answers[1] is None


@pytest.mark.parametrize(
    ("steps", "pointer"),
    [
        ([], "/steps"),
        ([CREATE, *[RUN] * 64], "/steps"),
        ([RUN], "/steps/0"),
        ([CREATE, CREATE], "/steps/1"),
        ([CREATE, {**RUN, "handle": "h"}], "/steps/1"),
        ([CREATE, COMMIT, RUN], "/steps/1"),
        ([{**CREATE, "handle": "h"}], "/steps/0/handle"),
        ([CREATE, {"call": "network/join"}], "/steps/1/network"),
        ([CREATE, {**RUN, "state": "asleep"}], "/steps/1/state"),
        ([CREATE, {"call": "network/create-network", "name": "x"}], "/steps/1/call"),
        ([CREATE, {"call": "execution/compose", "steps": []}], "/steps/1/call"),
        ([{"image": "busybox"}], "/steps/0/call"),
        ([CREATE, {**COMMIT, "handles": ["a"]}], "/steps/1/handles"),
    ],
)
async def test_wrong_steps_are_refused_before_any_is_run(
    client: RestClient, world: World, steps: list[dict[str, Any]], pointer: str
) -> None:
    with pytest.raises(e.InvalidArgument) as caught:
        await client.execution.compose(Caller(), steps)
    assert caught.value.facts == {"pointer": pointer}
    assert asked(world) == []


async def test_an_error_names_its_step(client: RestClient, world: World) -> None:
    world.answer("network", "join", e.InvalidArgument("No such port.", pointer="/ports/0/containerPort"))
    with pytest.raises(e.InvalidArgument, match=r"step 1 \(network/join\): No such port") as caught:
        await client.execution.compose(Caller(), [CREATE, JOIN, COMMIT])
    assert caught.value.facts == {"pointer": "/steps/1/ports/0/containerPort"}
    world.answer("network", "join", e.HandleInvalid())
    with pytest.raises(e.HandleInvalid):
        await client.execution.compose(Caller(), [CREATE, JOIN, COMMIT])


def discarded(world: World) -> list[str]:
    return [request.handle for _, request in asked(world) if isinstance(request, em.Discard)]


async def test_what_it_leased_is_given_back_when_a_later_step_fails(client: RestClient, world: World) -> None:
    world.answer("execution", "commit", e.Conflict("Changed.", collisions=("name",)))
    with pytest.raises(e.Conflict) as caught:
        await client.execution.compose(Caller(), [CREATE, JOIN, BIND, RUN, COMMIT])
    assert caught.value.facts == {"collisions": ("name",)}
    assert discarded(world) == ["h4"]


async def test_nothing_is_given_back_where_nothing_was_leased(client: RestClient, world: World) -> None:
    world.answer("execution", "commit", e.Conflict("Changed."))
    with pytest.raises(e.Conflict):
        await client.execution.compose(Caller(), [CREATE, JOIN, RUN, COMMIT])
    world.answer("network", "bind", e.ResourceExhausted("Out of addresses."))
    with pytest.raises(e.ResourceExhausted):
        await client.execution.compose(Caller(), [CREATE, JOIN, BIND, RUN, COMMIT])
    assert discarded(world) == []


@pytest.mark.parametrize("own", [True, False], ids=["leases of its own", "no leases"])
async def test_leases_that_the_caller_brought_are_kept(client: RestClient, world: World, own: bool) -> None:
    changes = ({"change": "network.bind"},) if own else ()
    world.answer(
        "execution",
        "inspect",
        em.Inspected(handle="h0", base=1, current=None, proposed=sample(em.Container), changes=changes),
    )
    world.answer("execution", "commit", e.Conflict("Changed."))
    with pytest.raises(e.Conflict):
        await client.execution.compose(Caller(), [{**JOIN, "handle": "h0"}, BIND, COMMIT])
    assert discarded(world) == ([] if own else ["h3"])


async def test_a_discard_that_fails_does_not_hide_the_error(client: RestClient, world: World) -> None:
    world.answer("execution", "commit", e.SubstrateFailed("It broke.", step="start"))
    world.answer("execution", "discard", e.Unavailable("Not now."))
    with pytest.raises(e.SubstrateFailed):
        await client.execution.compose(Caller(), [CREATE, BIND, COMMIT])
