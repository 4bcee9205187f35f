"""What this process shows over TLS, and whom it trusts there; kept good while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from portlayer.components.ca import PROCESS_SECONDS, Ca, Issued
from portlayer.compose.users import read_clients
from portlayer.model.access import Identity
from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument, PortlayerError
from portlayer.model.execution import replace
from portlayer.model.topology import Part, place
from portlayer.rest import tls
from portlayer.rest.tls import Chain

log = logging.getLogger(__name__)
LOOK_SECONDS = 5.0
_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  (these are no names)


class TlsChoice(Value):
    """The section [tls] of a configuration. cert, key: files of the certificate that clients are shown; without, one
    of the private CA, made and renewed by us. clientCa: file of CAs, besides the private one, whose clients are known:
    as `clients`, by the subject as RFC 4514 writes it. names: what our own certificates are good for besides the
    address, DNS names and IP addresses.
    """

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    names: tuple[str, ...] = ()
    clients: dict[str, Identity] = {}


def read_tls(table: object) -> TlsChoice:
    """From the table. Raises InvalidArgument for what cannot be."""
    if not isinstance(table, dict):
        raise InvalidArgument("tls is a section of the configuration: [tls].")
    clients = read_clients(table.get("clients", {}))
    try:
        choice = replace(msgspec.convert({**table, "clients": {}}, TlsChoice), clients=clients)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"[tls] is not as it should be: {error}.") from None
    if bool(choice.cert) != bool(choice.key):
        raise InvalidArgument("[tls]: a cert needs its key, and a key its cert.")
    if bool(choice.client_ca) != bool(choice.clients):
        raise InvalidArgument("[tls]: a clientCa needs clients, who they are; and clients their clientCa.")
    for name in choice.names:
        if not _NAME.fullmatch(name) and not _is_address(name):
            raise InvalidArgument(f"[tls]: {name!r} is neither a DNS name nor an IP address.")
    return choice


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Given(NamedTuple):
    """What the files hold. chain: what callers are shown; None: our own. authorities: PEM of CAs of clients."""

    chain: Chain | None
    authorities: tuple[str, ...]


class Certificates:
    """Certificates of the process *part*: of *ca*, renewed well before they end, and those that are given as files,
    read again when they change. Connections that are open go on."""

    def __init__(self, ca: Ca, part: Part, choice: TlsChoice) -> None:
        self._ca = ca
        self._part = part
        self._choice = choice
        self._own: Issued
        self._given: _Given
        self._revision = 0
        self._stamps: tuple[object, ...] = ()
        self._serving: ssl.SSLContext
        self._calling: ssl.SSLContext
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises InvalidArgument where the given files are no good."""
        await self._ca.load()
        self._stamps = self._stamp()
        self._renew(self._read())
        self._keeping = asyncio.create_task(self._keep())

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    def serving(self) -> ssl.SSLContext:
        """What a new connection to this process is met with."""
        return self._serving

    def calling(self) -> ssl.SSLContext:
        """What this process opens connections to others with."""
        return self._calling

    async def refresh(self) -> None:
        """Take what has changed: the CA, the files, the time. What cannot be read leaves all as it was."""
        with contextlib.suppress(PortlayerError):  # the store is away: that is said elsewhere
            await self._ca.load()
        stamps = self._stamp()
        old = time.time() > self._own.until - PROCESS_SECONDS * 2 / 3
        if not old and self._revision == self._ca.revision and stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._renew(self._read())
        except InvalidArgument as error:
            log.error("the given certificates cannot be used; those of before stay: %s", error)  # noqa: TRY400
            self._renew(self._given)  # our own are not the worse for it
        log.info("certificates are renewed")

    def _renew(self, given: _Given) -> None:
        """Take *given*, and a new one of our own. Raises InvalidArgument where *given* is no good; then nothing is."""
        own = self._ca.issue_process(self._part.name, self._names())
        chain = Chain(certificates=own.chain, key=own.key)
        trusted = (self._ca.pem, *given.authorities)
        serving = tls.server_side(chain, given.chain, trusted, times_later=not given.authorities)
        self._calling = tls.client_side(self._ca.pem, chain)
        self._serving = serving
        self._own = own
        self._given = given
        self._revision = self._ca.revision

    def _read(self) -> _Given:
        """What the files hold now."""
        cert, key, authorities = self._choice.cert, self._choice.key, self._choice.client_ca
        chain = Chain(certificates=_read(cert), key=_read(key)) if cert else None
        return _Given(chain, (_read(authorities).decode("ascii", "replace"),) if authorities else ())

    def _names(self) -> Iterable[str]:
        found = (place(address) for address in (self._part.address, self._part.listen))
        hosts = [each[0] for each in found if each is not None]
        return [name for name in (*hosts, *self._choice.names) if name not in _ANYWHERE]

    def _stamp(self) -> tuple[object, ...]:
        files = (self._choice.cert, self._choice.key, self._choice.client_ca)
        return tuple(_stamp(file) for file in files if file)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.refresh()
            except Exception:
                log.exception("certificates could not be looked after; trying again")


def _stamp(file: str) -> object:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{file} cannot be read: {error.strerror}.") from None
