"""Links ahead of their process: its network namespace is made by us, and its links while the runtime makes the rest.

A namespace is a descriptor of ours, which the runtime opens by /proc. Nothing else holds it: it ends with its process,
or with ours where no process has it yet, and all links in it end then, too. So nothing is left, whoever is killed.

What was plugged ahead is only an answer that is known sooner: `plug` claims it once, and where it failed or is not
known does it itself. One namespace is ready where a start is expected, for making one takes as long as its links.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from portlayer.model.errors import Unavailable
from portlayer.model.network import EndpointSpec, NetworkSpec
from portlayer.substrates.linux.nft import NftError
from portlayer.substrates.linux.wiring import Inside, Wiring, delete_links

log = logging.getLogger(__name__)
Plug = tuple[EndpointSpec, NetworkSpec]


class Begun:
    """The namespace of a process that is being made, and what is plugged into it."""

    def __init__(self, incarnation: str, wanted: Sequence[Plug], inside: Inside) -> None:
        self.incarnation = incarnation
        self.wanted = wanted
        self.inside = inside
        self.plugged: Future[list[Plug]] | None = None

    @property
    def path(self) -> str:
        """Of the namespace, for as long as it is not settled."""
        return f"/proc/{os.getpid()}/fd/{self.inside.namespace}"


class Ahead:
    """Makes namespaces in a thread of its own, and links in the network driver's, in which all of `wiring` happens.

    wiring: set once it is open.
    """

    def __init__(self, network: ThreadPoolExecutor) -> None:
        self.wiring: Wiring | None = None
        self._network = network
        self._maker = ThreadPoolExecutor(1, "portlayer-netns")
        self._ready: Future[Inside] | None = None
        self._plugged: dict[str, list[Plug]] = {}

    @property
    def _wiring(self) -> Wiring:
        if self.wiring is None:
            raise Unavailable("The network driver is not started.")
        return self.wiring

    def expect(self) -> None:
        """Have a namespace ready."""
        if self._ready is None and self.wiring is not None:
            self._ready = self._maker.submit(self.wiring.make_inside)

    async def begin(self, incarnation: str, wanted: Sequence[Plug]) -> Begun:
        """A new namespace, for *wanted*; to be settled. Raises OSError where the kernel makes none."""
        if self._ready is not None and self._ready.done() and self._ready.exception() is not None:
            self._ready = None  # it was expected some time ago, and may well work now
        making, self._ready = self._ready or self._maker.submit(self._wiring.make_inside), None
        try:
            inside = await asyncio.shield(asyncio.wrap_future(making))
        except asyncio.CancelledError:
            making.add_done_callback(_close)
            raise
        return Begun(incarnation, wanted, inside)

    def plug(self, begun: Begun) -> None:
        """Start to plug: once the runtime is at work, for before that both would wait for one interpreter."""
        begun.plugged = self._network.submit(self._plug, begun)

    def _plug(self, begun: Begun) -> list[Plug]:
        done = []
        for endpoint, network in begun.wanted:
            try:
                self._wiring.plug_inside(begun.incarnation, begun.inside, endpoint, network)
            except (OSError, LookupError, NftError, Unavailable) as error:
                log.info("link of %s ahead of its process failed; it is tried again: %s", begun.incarnation, error)
                break
            done.append((endpoint, network))
        return done

    async def settle(self, begun: Begun, *, made: bool) -> None:
        """Let go of the namespace, which its process has by now. made: there is one; else no link of it is left when
        this returns."""
        if begun.plugged is None or (made and begun.plugged.done()):
            begun.inside.close()
        else:
            # Behind `_plug`, in its thread; whoever is cut off, it is done.
            settling = self._network.submit(begun.inside.close if made else partial(self._drop, begun))
            await asyncio.shield(asyncio.wrap_future(settling))
        if made and begun.plugged is not None:
            self._plugged[begun.incarnation] = begun.plugged.result()

    def _drop(self, begun: Begun) -> None:
        begun.inside.close()
        delete_links(self._wiring.veth_name(begun.incarnation, endpoint.id) for endpoint, _ in begun.wanted)

    def claim(self, incarnation: str, endpoint: EndpointSpec, network: NetworkSpec) -> bool:
        """Whether exactly that is plugged already; says so once."""
        plugged = self._plugged.get(incarnation, [])
        if (endpoint, network) not in plugged:
            return False
        plugged.remove((endpoint, network))
        if not plugged:
            del self._plugged[incarnation]
        return True

    def forget(self, incarnation: str) -> None:
        """It is removed."""
        self._plugged.pop(incarnation, None)

    async def close(self) -> None:
        """Let go of the namespace that is ready."""
        self.wiring = None
        if self._ready is not None:
            self._ready.add_done_callback(_close)
            self._ready = None
        await asyncio.to_thread(self._maker.shutdown)


def _close(made: Future[Inside]) -> None:
    if made.exception() is None:
        made.result().close()
