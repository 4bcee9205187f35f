"""What a commit may change of a container that is there, for the matrices: a new edit is one line of EDITS.

`setting` has made network `gibson_network` and volume `jar`, which the container has; there are network `second` and
volume `shelf`, which it has not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from driver import ME, Driver

from portlayer.model import execution as e
from portlayer.model import interaction as i
from portlayer.model import network as n
from portlayer.model import storage as s

Edit = Callable[[Driver, str], Awaitable[str]]
"""From a handle to the next one."""
PORTS = (n.Port(container_port=80, host_port=18099),)
MORE_PORTS = (n.Port(container_port=81, host_port=18098),)


async def rename(driver: Driver, handle: str) -> str:
    return await driver.rename(handle, "biscuit")


async def labels(driver: Driver, handle: str) -> str:
    return await driver.set_labels(handle, colour="red")


async def resources(driver: Driver, handle: str) -> str:
    change = e.SetResources(handle=handle, resources=e.Resources(pids=50, cpus=0.5))
    return (await driver.pl.execution.set_resources(ME, change)).handle


async def restart_policy(driver: Driver, handle: str) -> str:
    change = e.SetRestartPolicy(handle=handle, restart_policy=e.RestartPolicy(name="on-failure"))
    return (await driver.pl.execution.set_restart_policy(ME, change)).handle


async def join(driver: Driver, handle: str) -> str:
    """Without an address."""
    return (await driver.pl.network.join(ME, n.JoinNetwork(handle=handle, network="second"))).handle


async def bind(driver: Driver, handle: str) -> str:
    return (await driver.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle


async def join_and_bind(driver: Driver, handle: str) -> str:
    return await bind(driver, await join(driver, handle))


async def publish(driver: Driver, handle: str) -> str:
    joining = n.JoinNetwork(handle=handle, network="second", ports=MORE_PORTS)
    return await bind(driver, (await driver.pl.network.join(ME, joining)).handle)


async def unbind(driver: Driver, handle: str) -> str:
    return (await driver.pl.network.unbind(ME, n.BindNetwork(handle=handle))).handle


async def leave(driver: Driver, handle: str) -> str:
    return (await driver.pl.network.leave(ME, n.LeaveNetwork(handle=handle, network="gibson_network"))).handle


async def rejoin(driver: Driver, handle: str) -> str:
    """Out of the network and in again, with the address and the port that it had."""
    had = (await driver.inspect("cookie")).endpoints[0]
    joining = n.JoinNetwork(handle=await leave(driver, handle), network=had.network, address=had.address, ports=PORTS)
    return await bind(driver, (await driver.pl.network.join(ME, joining)).handle)


async def join_volume(driver: Driver, handle: str) -> str:
    joining = s.JoinVolume(handle=handle, volume="shelf", destination="/shelf")
    return (await driver.pl.storage.join(ME, joining)).handle


async def leave_volume(driver: Driver, handle: str) -> str:
    return (await driver.pl.storage.leave(ME, s.LeaveVolume(handle=handle, volume="jar"))).handle


async def bind_interaction(driver: Driver, handle: str) -> str:
    joined = await driver.pl.interaction.join(ME, i.JoinInteraction(handle=handle, stdin=True))
    return (await driver.pl.interaction.bind(ME, i.BindInteraction(handle=joined.handle))).handle


async def unbind_interaction(driver: Driver, handle: str) -> str:
    return (await driver.pl.interaction.unbind(ME, i.BindInteraction(handle=handle))).handle


EDITS: dict[str, Edit | tuple[Edit, Edit]] = {
    "rename": rename,
    "labels": labels,
    "resources": resources,
    "restart policy": restart_policy,
    "join": join,
    "bind": (join, bind),
    "join and bind": join_and_bind,
    "publish": publish,
    "unbind": unbind,
    "leave": leave,
    "rejoin": rejoin,
    "interaction": bind_interaction,
    "unbind interaction": (bind_interaction, unbind_interaction),
}
"""Of two, the first has been committed before."""
EDITS_OF_STOPPED: dict[str, Edit | tuple[Edit, Edit]] = {"join volume": join_volume, "leave volume": leave_volume}
