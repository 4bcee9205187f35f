"""Law 9: of a VCH, nothing can be seen, named, guessed or reached from another one."""

from __future__ import annotations

import images
import pytest
from driver import Driver
from vchs.conftest import Whole

from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.model.errors import AlreadyExists, HandleInvalid, InvalidArgument, NotFound, PortlayerError

SECRET = images.tar([images.file("secret", b"of left alone")])
MINE = images.tar([images.file("mine", b"anything")])


async def test_the_same_names_in_every_vch(whole: Whole, left: Driver, right: Driver) -> None:
    ids = set()
    for tenant in (left, right):
        await tenant.pl.storage.create_volume(tenant.me, s.CreateVolume(name="jar"))
        committed = await tenant.run(name="cookie", network="gibson_network", volume="jar")
        ids.add(committed.id)
        assert (await tenant.inspect("cookie")).id == committed.id
    assert len(ids) == 2
    await left.remove("cookie", force=True)
    assert (await right.inspect("cookie")).state == "running"


async def test_subnets_chosen_for_tenants_do_not_meet(whole: Whole, left: Driver, right: Driver) -> None:
    subnets = {
        (await tenant.pl.network.get_network(tenant.me, n.NetworkRef(ref="gibson_network"))).subnets[0].subnet
        for tenant in (left, right)
    }
    assert len(subnets) == 2


async def test_a_subnet_that_is_taken_does_not_tell_by_whom(whole: Whole, left: Driver, right: Driver) -> None:
    await left.network("mine", subnets=(n.Subnet(subnet="10.77.4.0/24"),))
    overlapping = (n.Subnet(subnet="10.77.0.0/16"),)
    with pytest.raises(AlreadyExists) as own:
        await left.network("more", subnets=overlapping)
    assert own.value.facts["id"] == "10.77.4.0/24"
    with pytest.raises(AlreadyExists) as foreign:
        await right.network("mine", subnets=overlapping)
    assert foreign.value.facts["id"] == "10.77.0.0/16"
    assert "10.77.4" not in foreign.value.detail


async def test_a_port_that_is_taken_does_not_tell_by_whom(whole: Whole, left: Driver, right: Driver) -> None:
    problems = []
    port = (n.Port(container_port=80, host_port=8080),)
    for tenant, name in ((left, "first"), (left, "second"), (right, "third")):
        join = n.JoinNetwork(
            handle=await tenant.draft(name=name, host=whole.host), network="gibson_network", ports=port
        )
        handle = (await tenant.pl.network.join(tenant.me, join)).handle
        handle = (await tenant.pl.network.bind(tenant.me, n.BindNetwork(handle=handle))).handle
        try:
            await tenant.commit(handle)
        except PortlayerError as error:
            problems.append((error.code, error.detail, error.facts))
    assert len(problems) == 2
    assert problems[0] == problems[1]


async def test_handles_are_worthless_in_another_vch(whole: Whole, left: Driver, right: Driver) -> None:
    handle = await left.draft()
    with pytest.raises(HandleInvalid):
        await right.commit(handle)
    with pytest.raises(HandleInvalid):
        await right.pl.execution.discard(right.me, e.Discard(handle=handle))
    pin = (await left.pl.network.handle(left.me, n.NetworkRef(ref="gibson_network"))).handle
    with pytest.raises(HandleInvalid):
        await right.pl.network.join(right.me, n.JoinNetwork(handle=await right.draft(), network=pin))


def without_layers(members: dict[str, bytes], built: images.Built) -> dict[str, bytes]:
    """An archive that names its layers and does not hold them."""
    digests = [images.digest(layer)[7:] for layer in built.layers]
    return {name: data for name, data in members.items() if not any(digest in name for digest in digests)}


@pytest.mark.parametrize("kind", ["oci", "docker"])
async def test_naming_a_layer_of_another_vch_is_not_having_it(
    whole: Whole, left: Driver, right: Driver, kind: str
) -> None:
    await left.image("secret", SECRET)
    answers = []
    for tar in (SECRET, MINE):  # one that is on disk, and one that is nowhere
        built = images.Built([tar], "stolen")
        members = images.oci_members(built) if kind == "oci" else images.docker_members(built)
        with pytest.raises(InvalidArgument) as caught:
            await right.archive(images.archive(without_layers(members, built)))
        answers.append(caught.value.detail.replace(images.digest(tar)[7:], "…"))
    assert answers[0] == answers[1]
    assert "lacks" in answers[0]


class Pretended(images.Built):
    """An image whose configuration promises another layer than it has."""

    @property
    def diff_ids(self) -> list[str]:
        return [images.digest(self.promised)]

    promised = SECRET


@pytest.mark.parametrize("pack", [images.oci_archive, images.docker_archive])
async def test_promising_a_layer_of_another_vch_is_not_having_it(
    whole: Whole, left: Driver, right: Driver, pack: object
) -> None:
    await left.image("secret", SECRET)
    with pytest.raises(InvalidArgument) as caught:
        await right.archive(pack(Pretended([MINE], "stolen")))  # type: ignore[operator]
    assert "upload it again" in caught.value.detail
    assert [image.names for image in (await right.pl.storage.list_images(right.me, s.ListImages())).images] == [
        ("busybox:latest",)
    ]


async def test_an_upload_does_not_tell_what_others_have(whole: Whole, left: Driver, right: Driver) -> None:
    await left.image("secret", SECRET)
    told: list[list[tuple[str, int]]] = []
    for tar in (SECRET, images.tar([images.file("secret", b"of rightalone")])):
        progress: list[s.Progress] = []

        async def body(tar: bytes = tar) -> object:
            yield images.oci_archive(images.Built([tar], "mine"))

        await right.pl.storage.import_image(right.me, s.ImportImage(), body(), progress.append)
        told.append([(one.status, one.total) for one in progress if one.status != "reading"])
        await right.pl.storage.delete_image(right.me, s.DeleteImage(ref="mine"))
    assert told[0] == told[1]


async def test_a_layer_that_several_have_stays_for_the_last(whole: Whole, left: Driver, right: Driver) -> None:
    image = await left.image("shared", SECRET)
    await right.image("shared", SECRET)
    (layer,) = image.layers
    await left.pl.storage.delete_image(left.me, s.DeleteImage(ref="shared"))
    assert layer.diff_id in whole.world.layers
    with pytest.raises(NotFound):
        await left.pl.storage.get_image(left.me, s.ImageRef(ref=image.id))
    await right.pl.storage.delete_image(right.me, s.DeleteImage(ref="shared"))
    assert layer.diff_id not in whole.world.layers


async def test_a_blob_of_another_is_as_unknown_as_one_that_is_nowhere(left: Driver, right: Driver) -> None:
    image = await left.image("secret", SECRET)
    told = []
    for digest in (image.layers[0].digest, "sha256:" + "0" * 64):
        with pytest.raises(NotFound) as caught:
            await right.pl.storage.get_layer(right.me, s.LayerRef(digest=digest))
        told.append(str(caught.value).replace(digest, "it"))
    assert told[0] == told[1]
