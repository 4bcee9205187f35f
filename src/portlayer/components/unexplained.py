"""What is on a host and no record explains any more."""

from __future__ import annotations

from portlayer.components import keys
from portlayer.interfaces.store import Store
from portlayer.interfaces.substrate import StorageDriver


async def remove_unknown_volumes(store: Store, driver: StorageDriver) -> int:
    """Remove volumes that are not there any more; how many. The host is read before the records: a volume is made on
    the host once there is a record of it, and no id comes twice."""
    here = await driver.volumes()
    known: set[str] = set()
    for vch in await store.range(keys.VCHS) if here else ():
        prefix = keys.entities(keys.last(vch.key), "volumes")
        known |= {keys.last(row.key) for row in await store.range(prefix)}
    unknown = [volume for volume in here if volume not in known]
    for volume in unknown:
        await driver.remove_volume(volume)
    return len(unknown)
