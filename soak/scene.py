"""What one cycle works with: a patient client, names and chances of its own, and checks."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from portlayer.client import ContainerHandle, PortLayer, Steps
from portlayer.model.errors import Conflict, InUse, NotFound, PortlayerError
from portlayer.model.execution import Committed
from portlayer.model.interaction import STDOUT
from portlayer.model.network import Endpoint
from soak import kernel
from soak.patience import Patience

T = TypeVar("T")
E = TypeVar("E", bound=PortlayerError)
SECONDS = 60.0
_PAUSE_SECONDS = 0.02
_LEASE_TRIES = 5


class Wrong(Exception):
    """Something was answered, or is so, that must not be."""


def same(what: str, got: object, wanted: object) -> None:
    """Raises Wrong unless they are equal."""
    if got != wanted:
        raise Wrong(f"{what}: {got!r}, where {wanted!r} was due")


class Ledger:
    """What all cycles know together: which addresses are held, which containers were created and removed.

    standing: the networks that are there all the time. subnets: of those and others, by name.
    """

    def __init__(self, image: str) -> None:
        self.image = image
        self.standing: list[str] = []
        self.subnets: dict[str, str] = {}
        self.addresses: dict[str, str] = {}
        self.created: set[str] = set()
        self.removed: set[str] = set()

    def stand(self, network: str, subnet: str) -> None:
        """Add a network that is there all the time."""
        self.standing.append(network)
        self.subnets[network] = subnet

    def hold(self, endpoint: Endpoint) -> None:
        """Raises Wrong where another container holds the address."""
        holder = self.addresses.setdefault(endpoint.address, endpoint.container_id)
        same(f"the holder of {endpoint.address}", holder, endpoint.container_id)

    def let_go(self, container: str) -> None:
        """Before the port layer may give its addresses to another."""
        for address in [address for address, holder in self.addresses.items() if holder == container]:
            del self.addresses[address]


class Scene:
    """rng: decides what the cycle does, and nothing else may. pl: its calls go through `again` or `sure`."""

    def __init__(
        self, number: int, rng: random.Random, pl: PortLayer, patience: Patience, ledger: Ledger, mark: str
    ) -> None:
        self.number = number
        self.rng = rng
        self.pl = pl
        self.ledger = ledger
        self.again = patience.again
        self._patience = patience
        self._env = {kernel.MARK: mark}
        self._containers: set[str] = set()

    def name(self, what: str) -> str:
        """A name that no other cycle has."""
        return f"{what}-{self.number}"

    @property
    def repeated(self) -> int:
        """Grows whenever any call of any cycle had to be repeated: what was done then may have been done twice."""
        return self._patience.repeated

    def networks(self, most: int = 3) -> list[str]:
        """Some of those that stand all the time."""
        return self.rng.sample(self.ledger.standing, self.rng.randint(1, most))

    def container(self, *args: str, image: str | None = None, **options: object) -> Steps:
        """A container of this cycle, which has its name unless options say otherwise."""
        options.setdefault("name", self.name("c"))
        return Steps().create(image or self.ledger.image, *args, env=self._env, **options)  # type: ignore[arg-type]

    async def staged(self, steps: Steps) -> ContainerHandle:
        """The handle that *steps* lead to."""
        return await self.sure(lambda: self.pl.execution.compose(steps))

    async def handle(self, ref: str) -> ContainerHandle:
        """A handle to a committed container."""
        return await self.sure(lambda: self.pl.execution.get_container(ref))

    async def sure(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What *ask* gives, which may be asked as often as one likes."""
        answer = await self.again(ask)
        assert answer is not None
        return answer

    async def commit(self, steps: Steps) -> Committed:
        """Commit *steps*; where a lease has run out meanwhile, they are made anew, as a caller would."""
        for _ in range(_LEASE_TRIES):
            try:
                return await self.commit_handle(await self.staged(steps))
            except Conflict as error:
                if "has run out" not in error.detail:
                    raise
        raise Wrong("its leases run out again and again")

    async def commit_handle(self, handle: ContainerHandle, *, strict: bool = False) -> Committed:
        """Commit one handle, as often as it takes."""
        committed = await self.sure(lambda: self.pl.execution.commit(handle, strict=strict))
        same("the committed container", committed.id, handle.id)
        self.took(committed)
        return committed

    def took(self, committed: Committed) -> None:
        """Note what was committed; its addresses have to be in range and its own."""
        self._containers.add(committed.id)
        self.ledger.created.add(committed.id)
        self.ledger.let_go(committed.id)
        for endpoint in committed.endpoints:
            if endpoint.state == "bound":
                self.in_range(endpoint)
                self.ledger.hold(endpoint)

    def in_range(self, endpoint: Endpoint) -> None:
        """Raises Wrong where the address is none that the network has for containers."""
        subnet = ipaddress.ip_network(self.ledger.subnets[endpoint.network])
        address = ipaddress.ip_address(endpoint.address)
        edges = {str(subnet.network_address), str(subnet.broadcast_address), endpoint.gateway}
        if address not in subnet or endpoint.address in edges or endpoint.prefix_length != subnet.prefixlen:
            raise Wrong(f"{endpoint.address}/{endpoint.prefix_length} is no address of {subnet}")

    async def ended(self, ref: str) -> int | None:
        """The exit code of a container, once it has ended."""
        waited = await self.sure(lambda: self.pl.execution.wait(ref, timeout_seconds=SECONDS))
        same(f"the state of {ref} after its end", waited.state, "stopped")
        return waited.exit_code

    async def log(self, ref: str, *, follow: bool = False) -> tuple[str, str]:
        """What a container wrote to stdout, and to stderr."""

        async def read() -> tuple[str, str]:
            out, err = b"", b""
            async with asyncio.timeout(SECONDS):
                async for chunk in self.pl.interaction.logs(ref, follow=follow):
                    out, err = (out + chunk.data, err) if chunk.stream == STDOUT else (out, err + chunk.data)
            return out.decode(), err.decode()

        return await self.sure(read)

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until *holds*; Wrong after a minute."""
        for _ in range(int(SECONDS / _PAUSE_SECONDS)):
            if await self.sure(holds):
                return
            await asyncio.sleep(_PAUSE_SECONDS)
        raise Wrong(f"it never came to this: {what}")

    async def said(self, ref: str, words: str) -> None:
        """Wait until a container has written *words*."""

        async def has() -> bool:
            return words in "".join(await self.log(ref))

        await self.until(f"{ref} says {words!r}", has)

    async def refused(self, error: type[E], ask: Callable[[], Awaitable[object]]) -> E:
        """The error that *ask* is refused with; Wrong where it is not."""
        try:
            await self.again(ask)
        except error as refusal:
            return refusal
        raise Wrong(f"{error.__name__} was due")

    async def remove(self, *refs: str, force: bool = False, volumes: bool = False) -> None:
        """Remove containers, which are gone afterwards."""
        for ref in refs:
            self.ledger.let_go(ref)
            await self.again(partial(self.pl.execution.remove, ref, force=force, volumes=volumes), happened=NotFound)
            self.went(ref)
            await self.refused(NotFound, partial(self.pl.execution.inspect_container, ref))

    def went(self, container: str) -> None:
        """Note that a container is no more."""
        self.ledger.let_go(container)
        self._containers.discard(container)
        self.ledger.removed.add(container)

    async def unused(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Delete something that leases of lost answers may still be using: as soon as they have ended."""

        async def deleted() -> bool:
            try:
                await self.again(ask, happened=NotFound)
            except InUse:
                if not self.repeated:
                    raise
                return False
            return True

        await self.until("what is not used can be deleted", deleted)

    async def clear(self) -> None:
        """After a failure: remove what the cycle has left."""
        for ref in list(self._containers):
            self.went(ref)
            await self.again(partial(self.pl.execution.remove, ref, force=True), happened=NotFound)
        storage, network = self.pl.storage, self.pl.network
        for made in await self.sure(network.list):
            if self._made(made.name):
                await self.unused(partial(network.remove, made.id))
        for volume in await self.sure(storage.list_volumes):
            if self._made(volume.name):
                await self.again(partial(storage.remove_volume, volume.id), happened=NotFound)
        for image in await self.sure(storage.list_images):
            if any(self._made(name.removesuffix(":latest")) for name in image.names):
                await self.again(partial(storage.remove_image, image.id), happened=NotFound)

    def _made(self, name: str) -> bool:
        return name.endswith(f"-{self.number}")
