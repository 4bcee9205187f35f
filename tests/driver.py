"""What tests do all the time with any port layer: in their own process, or behind REST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from builders import layer

from portlayer.interfaces.components import Components
from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.model.caller import Caller

ME = Caller()


class Driver:
    """pl: the components. me: in whose name they are asked."""

    pl: Components
    me: Caller = ME

    def __init__(self, pl: Components) -> None:
        self.pl = pl

    def of(self, vch: str) -> Driver:
        """The same port layer, for another VCH."""
        return Tenant(self.pl, vch)

    async def image(self, name: str = "busybox", tar: bytes = b"", caller: Caller | None = None) -> s.Image:
        """The image *name*, imported: of busybox, or of another root filesystem."""

        async def body() -> AsyncIterator[bytes]:
            yield tar or layer()[1]

        imported = await self.pl.storage.import_image(
            caller or self.me, s.ImportImage(name=name, format="rootfs"), body()
        )
        return imported.images[0]

    async def archive(self, data: bytes) -> tuple[s.Image, ...]:
        """The images of an archive, imported."""

        async def body() -> AsyncIterator[bytes]:
            yield data

        return (await self.pl.storage.import_image(self.me, s.ImportImage(), body())).images

    async def network(self, name: str = "gibson_network", **fields: Any) -> n.Network:
        return await self.pl.network.create_network(self.me, n.CreateNetwork(name=name, **fields))

    async def draft(
        self,
        *args: str,
        network: str | None = None,
        ports: tuple[n.Port, ...] = (),
        volume: str | None = None,
        image: str = "busybox",
        **fields: Any,
    ) -> str:
        """A handle to a container that is not committed."""
        request = e.Create(image=image, process=e.ProcessRequest(args=args or ("sleep", "1000")), **fields)
        handle = (await self.pl.execution.create(self.me, request)).handle
        if network is not None:
            handle = (
                await self.pl.network.join(self.me, n.JoinNetwork(handle=handle, network=network, ports=ports))
            ).handle
            handle = (await self.pl.network.bind(self.me, n.BindNetwork(handle=handle))).handle
        if volume is not None:
            join = s.JoinVolume(handle=handle, volume=volume, destination="/data")
            handle = (await self.pl.storage.join(self.me, join)).handle
        return handle

    async def run(self, *args: str, **fields: Any) -> e.Committed:
        """A container that was created and started in one commit."""
        return await self.commit(await self.set_state(await self.draft(*args, **fields), "running"))

    async def handle(self, ref: str) -> str:
        return (await self.pl.execution.handle(self.me, e.ContainerRef(ref=ref))).handle

    async def set_state(self, handle: str, state: Any, **fields: Any) -> str:
        return (await self.pl.execution.set_state(self.me, e.SetState(handle=handle, state=state, **fields))).handle

    async def set_state_at_once(self, handle: str, state: Any) -> str:
        """As `set_state`; a stop does not wait before it kills."""
        return await self.set_state(handle, state, timeout_seconds=0 if state == "stopped" else None)

    async def set_labels(self, handle: str, **labels: str | None) -> str:
        return (await self.pl.execution.set_labels(self.me, e.SetLabels(handle=handle, labels=labels))).handle

    async def rename(self, handle: str, name: str) -> str:
        return (await self.pl.execution.rename(self.me, e.Rename(handle=handle, name=name))).handle

    async def commit(self, handle: str, **fields: Any) -> e.Committed:
        answer = await self.pl.execution.commit(self.me, e.Commit(handle=handle, **fields))
        assert isinstance(answer, e.Committed)
        return answer

    async def inspect(self, ref: str) -> e.Container:
        return await self.pl.execution.get_container(self.me, e.ContainerRef(ref=ref))

    async def remove(self, ref: str, **fields: Any) -> None:
        await self.pl.execution.delete_container(self.me, e.DeleteContainer(ref=ref, **fields))

    async def wait(self, ref: str, condition: Any = "exited") -> e.Waited:
        return await self.pl.execution.wait(self.me, e.Wait(ref=ref, condition=condition, timeout_seconds=20))


class Tenant(Driver):
    """Speaks for VCH *vch*."""

    def __init__(self, pl: Components, vch: str) -> None:
        super().__init__(pl)
        self.me = Caller(vch=vch)
