"""The private CA of a port layer: what its processes know each other by over TLS, and clients know them by.

Its keys are in the store, wrapped by the host's key, so the one secret that each host is given makes a process of it:
such a process signs its own certificate. A rotation adds a key, which the one before signs too: who trusts that
one goes on trusting whatever the new one signs. The last ones stay trusted.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from portlayer.components import keys
from portlayer.components.handles import unwrap, wrap
from portlayer.components.records import decode, decode_whole, put
from portlayer.interfaces.store import Check, CheckFailed, Record, Store, Transaction
from portlayer.model.base import Value
from portlayer.model.errors import Unavailable
from portlayer.model.grants import Grant
from portlayer.model.names import new_id

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from portlayer.components.x509 import Chained, Pair, PublicKey

KEPT = 3
ROTATE_SECONDS = 5 * 365 * 86400.0
PROCESS_SECONDS = 86400.0
"""How long a process's certificate lasts; it takes a new one long before."""
_REMEMBERED = 1000


class CaKey(Value):
    """certificate: DER, signed by itself. cross: the same, signed by the key before it. wrapped: its private key, under
    the host's key. created: epoch seconds."""

    id: str
    certificate: bytes
    cross: bytes | None = None
    wrapped: bytes
    created: float


class CaRecord(Value):
    """Newest last: that one signs, all are trusted."""

    keys: tuple[CaKey, ...]


class Issued(Value):
    """PEM. chain: the certificate, and what leads from it to older keys of the CA. until: epoch seconds."""

    chain: bytes
    key: bytes
    until: float


class Ca:
    """Opens with *host_key* what the store has, and makes it where it is not there."""

    def __init__(self, store: Store, host_key: bytes) -> None:
        self._store = store
        self._host_key = host_key
        self._trusted: tuple[Certificate, ...] = ()
        self._cross: tuple[Certificate, ...] = ()
        self._pair: Pair
        self._revision = 0
        self._processes: dict[bytes, Certificate | None] = {}

    async def load(self) -> None:
        """Read it as it is now. Raises Unavailable where the store's does not open with this host's key."""
        while True:
            row = await self._store.get(keys.CA)
            if row is not None and time.time() - decode(CaRecord, row.value).keys[-1].created < ROTATE_SECONDS:
                break
            if await self._add(row, forget=False):
                return
        if row.revision != self._revision:
            self._take(decode(CaRecord, row.value), row.revision)

    async def rotate(self, *, forget: bool = False) -> None:
        """Sign with a new key from now on. forget: trust no older one; else the last ones stay trusted."""
        while not await self._add(await self._store.get(keys.CA), forget=forget):
            pass

    async def _add(self, row: Record | None, *, forget: bool) -> bool:
        """Whether there is a new key; not where another process has changed what *row* says."""
        if row is not None:
            self._take(decode(CaRecord, row.value), row.revision)
        held = decode_whole(CaRecord, row.value).keys if row is not None and not forget else ()
        record = CaRecord(keys=(*held, self._fresh(bool(held)))[-KEPT:])
        check = Check(keys.CA, row.revision if row is not None else 0)
        try:
            revision = await self._store.apply(Transaction((check,), (put(keys.CA, record),)))
        except CheckFailed:
            return False
        self._take(record, revision)
        return True

    @property
    def revision(self) -> int:
        """Of what was read last: it changes with a rotation."""
        return self._revision

    @property
    def pem(self) -> str:
        """The certificates to trust, the newest last."""
        from portlayer.components import x509  # noqa: PLC0415

        return x509.pem(*self._trusted).decode()

    def issue_process(self, process: str, names: Iterable[str]) -> Issued:
        """What the process called *process* proves itself with, at *names*."""
        from portlayer.components import x509  # noqa: PLC0415

        made = x509.issue_process(self._pair, process, names, dt.timedelta(seconds=PROCESS_SECONDS))
        until = made.certificate.not_valid_after_utc.timestamp()
        return Issued(chain=x509.pem(made.certificate, *reversed(self._cross)), key=made.key_pem, until=until)

    def issue_client(self, grant: Grant, public: PublicKey, seconds: int) -> Chained:
        """A certificate for the holder of *grant*, who has the key of *public*."""
        from portlayer.components import x509  # noqa: PLC0415

        made = x509.issue_client(self._pair, grant, public, dt.timedelta(seconds=seconds))
        return x509.Chained(x509.der(made), x509.pem(made, *reversed(self._cross)).decode())

    async def vouches(self, certificate: bytes) -> bool:
        """Whether *certificate*, DER, is a process's, and good now."""
        from portlayer.components import x509  # noqa: PLC0415

        if certificate not in self._processes:
            read = x509.read(certificate)
            mine = read is not None and x509.is_process(read) and await self.has_signed(read)
            while len(self._processes) >= _REMEMBERED:
                del self._processes[next(iter(self._processes))]
            self._processes[certificate] = read if mine else None
        known = self._processes[certificate]
        return known is not None and x509.lasts(known, dt.datetime.now(dt.UTC))

    async def has_signed(self, certificate: Certificate) -> bool:
        """Whether *certificate* is of this CA; another process may have rotated it since it was read."""
        from portlayer.components import x509  # noqa: PLC0415

        if any(x509.is_signed_by(certificate, ca) for ca in self._trusted):
            return True
        before = self._revision
        await self.load()
        return before != self._revision and any(x509.is_signed_by(certificate, ca) for ca in self._trusted)

    def _fresh(self, has_older: bool) -> CaKey:
        from portlayer.components import x509  # noqa: PLC0415

        made, ident = x509.make_ca(), new_id()
        return CaKey(
            id=ident,
            certificate=x509.der(made.certificate),
            cross=x509.der(x509.cross_sign(self._pair, made)) if has_older else None,
            wrapped=wrap(self._host_key, _context(ident), made.key_pem),
            created=time.time(),
        )

    def _take(self, record: CaRecord, revision: int) -> None:
        from portlayer.components import x509  # noqa: PLC0415

        newest = record.keys[-1]
        try:
            key = unwrap(self._host_key, _context(newest.id), newest.wrapped)
        except InvalidTag:
            raise Unavailable(
                "The CA's key in the store does not open with this host's key; bring the host key that belongs to "
                "this store, or 'portlayer store rekey', after which certificates have to be issued anew."
            ) from None
        self._pair = x509.pair(newest.certificate, key)
        self._trusted = tuple(x509.known(each.certificate) for each in record.keys)
        self._cross = tuple(x509.known(each.cross) for each in record.keys[1:] if each.cross is not None)
        self._revision = revision
        self._processes.clear()


def _context(ident: str) -> bytes:
    return f"ca {ident}".encode()
