"""Two tenants beside `default`, of one port layer on the memory substrate."""

from __future__ import annotations

import pytest
from driver import ME, Driver

from portlayer.model import service as v


async def make(harness: Driver, name: str, **quota: float) -> Driver:
    """The VCH *name* with a quota, the image busybox and a network."""
    await harness.pl.service.create_vch(ME, v.CreateVch(name=name, quota=v.Quota(**quota)))  # type: ignore[arg-type]
    tenant = harness.of(name)
    await tenant.image()
    await tenant.network()
    return tenant


async def change(harness: Driver, name: str, **limits: float | None) -> v.Vch:
    request = v.UpdateVch(ref=name, quota=v.QuotaChange(**limits))  # type: ignore[arg-type]
    return await harness.pl.service.update_vch(ME, request)


async def look(harness: Driver, name: str) -> v.Vch:
    return await harness.pl.service.get_vch(ME, v.VchRef(ref=name))


async def delete(harness: Driver, name: str, **fields: bool) -> None:
    await harness.pl.service.delete_vch(ME, v.DeleteVch(ref=name, **fields))


@pytest.fixture
async def left(harness: Driver) -> Driver:
    return await make(harness, "left")


@pytest.fixture
async def right(harness: Driver) -> Driver:
    return await make(harness, "right")
