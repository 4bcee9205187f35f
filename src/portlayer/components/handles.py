"""Handles: sealed values.

A handle is `base64url(version, key id, nonce, AES-256-GCM-SIV(draft))`, with version, key id, epoch and VCH as
associated data: only this port layer opens it, only for the VCH it was made for (not for a later one of that name), and
only as it was made. Nothing is kept of it, so it costs nothing, survives restarts and can be branched from.

The sealing keys live in the store, wrapped by the host's key. Any process that finds the newest too old adds another;
the others learn of it by the first handle that it sealed. The epoch changes when a backup is restored.
Source: RFC 8452 (AES-GCM-SIV).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import os
import time
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from portlayer.components import keys
from portlayer.components.records import decode, decode_whole, put
from portlayer.interfaces.store import Check, CheckFailed, Store, Transaction
from portlayer.model.base import Value
from portlayer.model.changes import AnyChange
from portlayer.model.errors import HandleInvalid, InvalidArgument, Unavailable
from portlayer.model.execution import replace
from portlayer.model.names import new_id
from portlayer.model.versions import UPGRADE_SECONDS
from portlayer.stores.clock import boot_clock

HOST_KEY = "host.key"
"""Its file, in the state directory."""
HOST_KEY_BYTES = 32
VERSION = b"\x01"
KEY_ID_BYTES, NONCE_BYTES = 4, 12
MAX_HANDLE_BYTES = 256 * 1024
LIFETIME_SECONDS = 24 * 3600.0
BOOT_DIGITS = 8
ROTATE_SECONDS = 7 * 86400.0
log = logging.getLogger(__name__)


class Stamp(Value, array_like=True):
    """When a handle was taken: epoch seconds, and the boot of the host with the seconds since it, which nobody can set.

    The second tells the age of a handle of this boot, the first that of one from before it, or from another host.
    """

    epoch: float
    boot: str
    up: float

    @classmethod
    def now(cls) -> Stamp:
        boot, up = boot_clock()
        return cls(epoch=time.time(), boot=boot[:BOOT_DIGITS], up=up)

    @property
    def age(self) -> float:
        """In seconds; negative where the clock was set back since, across a boot."""
        now = Stamp.now()
        return now.up - self.up if now.boot == self.boot else now.epoch - self.epoch


NEVER = Stamp(epoch=0, boot="", up=0)
"""Of drafts that are never sealed."""


class Draft(Value):
    """What a container handle carries. vch: the VCH's id. base: the revision it was taken at, 0 before the first
    commit.
    """

    id: str
    issued: Stamp
    vch: str
    container: str
    base: int
    changes: tuple[AnyChange, ...] = ()

    def then(self, *changes: AnyChange, ident: str | None = None) -> Draft:
        """The draft with *changes* added, as a handle of its own."""
        return replace(self, id=ident or new_id(), changes=(*self.changes, *changes))


class NetworkPin(Value):
    """What a network handle carries. vch: the VCH's id."""

    id: str
    issued: Stamp
    vch: str
    network: str


class SealingKey(Value):
    """id: hex of 4 bytes. wrapped: nonce and ciphertext of the key under the host's key. created: epoch seconds."""

    id: str
    wrapped: bytes
    created: float


class KeyRing(Value):
    """Newest last. epoch: changed when a backup is restored."""

    epoch: str
    keys: tuple[SealingKey, ...]


class Sealer:
    """Seals and opens, with what *store* has and *host_key* opens. One instance a process."""

    def __init__(self, store: Store, host_key: bytes) -> None:
        self._store = store
        self._host_key = host_key
        self._epoch = b""
        self._newest = b""
        self._rotates_at = 0.0
        self._ciphers: dict[bytes, AESGCMSIV] = {}
        self._pack = msgspec.msgpack.Encoder().encode
        self._drafts = msgspec.msgpack.Decoder(Draft)
        self._pins = msgspec.msgpack.Decoder(NetworkPin)

    @classmethod
    async def open(cls, store: Store, host_key_file: Path) -> Sealer:
        """With the key ring in *store* and the host's key (made with mode 0600)."""
        sealer = cls(store, host_key(host_key_file))
        await sealer._read()
        return sealer

    async def _read(self) -> None:
        """Take the key ring as it is now, which is made or rotated where that is due."""
        while True:
            record = await self._store.get(keys.KEY_RING)
            ring = decode(KeyRing, record.value) if record else KeyRing(epoch=new_id(), keys=())
            if ring.keys and time.time() - ring.keys[-1].created < ROTATE_SECONDS:
                break
            ring = decode_whole(KeyRing, record.value) if record else ring
            ring = replace(ring, keys=(*ring.keys[-2:], _new_key(self._host_key)))
            check = Check(keys.KEY_RING, record.revision if record else 0)
            with contextlib.suppress(CheckFailed):  # another process was faster
                await self._store.apply(Transaction((check,), (put(keys.KEY_RING, ring),)))
                break
        self._take(ring)

    def _take(self, ring: KeyRing) -> None:
        try:
            plain = {key.id: unwrap(self._host_key, key.id.encode(), key.wrapped) for key in ring.keys}
        except InvalidTag:
            raise Unavailable(
                "The sealing keys in the store do not open with this host's key; bring the host key that belongs "
                "to this store, or 'portlayer store rekey', which refuses all handles made before."
            ) from None
        self._epoch = ring.epoch.encode()
        self._ciphers = {bytes.fromhex(ident): AESGCMSIV(key) for ident, key in plain.items()}
        self._newest = bytes.fromhex(ring.keys[-1].id)
        self._rotates_at = ring.keys[-1].created + ROTATE_SECONDS

    async def _keep_up(self, key: bytes = b"") -> None:
        """Have the newest key, and, if there is such a one, *key*, which another process may have made."""
        if time.time() >= self._rotates_at or (key and key not in self._ciphers):
            await self._read()

    def _seal(self, kind: bytes, vch: str, value: Draft | NetworkPin) -> str:
        head = VERSION + self._newest
        nonce = os.urandom(NONCE_BYTES)
        cipher = self._ciphers[self._newest]
        sealed = cipher.encrypt(nonce, self._pack(value), self._context(head, kind, vch))
        return base64.urlsafe_b64encode(head + nonce + sealed).rstrip(b"=").decode()

    async def _open(self, kind: bytes, vch: str, handle: str) -> bytes:
        try:
            raw = base64.urlsafe_b64decode(handle + "=" * (-len(handle) % 4))
            if base64.urlsafe_b64encode(raw).rstrip(b"=") != handle.encode() or raw[:1] != VERSION:
                raise HandleInvalid
            head, rest = raw[: 1 + KEY_ID_BYTES], raw[1 + KEY_ID_BYTES :]
            await self._keep_up(head[1:])
            cipher = self._ciphers.get(head[1:])
            if cipher is None:
                raise HandleInvalid
            return cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], self._context(head, kind, vch))
        except (binascii.Error, UnicodeError, ValueError, InvalidTag):
            raise HandleInvalid from None

    def _context(self, head: bytes, kind: bytes, vch: str) -> bytes:
        return b"\0".join((head, kind, self._epoch, vch.encode()))

    async def mint(self, draft: Draft) -> str:
        """As `seal`, for who has not opened a handle just before."""
        await self._keep_up()
        return self.seal(draft)

    def seal(self, draft: Draft) -> str:
        """The handle of *draft*. Raises InvalidArgument where it would be larger than a handle may be."""
        handle = self._seal(b"container", draft.vch, draft)
        if len(handle) > MAX_HANDLE_BYTES:
            raise InvalidArgument(
                f"The handle would have {len(handle)} bytes, {MAX_HANDLE_BYTES} at most; commit what it carries first."
            )
        return handle

    async def open_draft(self, vch: str, handle: str) -> Draft:
        """What *handle* carries, for the VCH with id *vch*.

        Raises HandleInvalid, always alike: tampered, foreign, truncated, too old.
        """
        try:
            draft = self._drafts.decode(await self._open(b"container", vch, handle))
        except msgspec.DecodeError as error:
            raise _newer(error) from error
        _check_age(draft.issued)
        return draft

    async def mint_network(self, pin: NetworkPin) -> str:
        """The handle of *pin*."""
        await self._keep_up()
        return self._seal(b"network", pin.vch, pin)

    async def open_network(self, vch: str, handle: str) -> NetworkPin:
        """What a network handle carries; raises as open_draft."""
        try:
            pin = self._pins.decode(await self._open(b"network", vch, handle))
        except msgspec.DecodeError as error:
            raise _newer(error) from error
        _check_age(pin.issued)
        return pin


def _newer(error: Exception) -> Unavailable:
    """The refusal of a handle that we have sealed, and that this process does not understand: nothing of what was
    composed may be left out."""
    return Unavailable(
        f"A newer process has made this handle, and this one does not know all of it ({error}); upgrade it.",
        retry_after_seconds=UPGRADE_SECONDS,
    )


def _check_age(issued: Stamp) -> None:
    if not -60.0 < issued.age < LIFETIME_SECONDS:
        raise HandleInvalid


def host_key(file: Path) -> bytes:
    """The secret that all processes of one port layer have in *file*; made, with mode 0600, where it is not there.

    Raises:
        Unavailable: the file is no such key.
    """
    if not file.exists():
        _make_host_key(file)
    secret = file.read_bytes()
    if len(secret) != HOST_KEY_BYTES:
        raise Unavailable(f"{file} is no host key, which has {HOST_KEY_BYTES} bytes; bring the one of this port layer.")
    if file.stat().st_mode & 0o077:
        log.warning("%s can be read by others than root, who may pose as this port layer; set its mode to 0600", file)
    return secret


def _make_host_key(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(os.urandom(HOST_KEY_BYTES))
        stream.flush()
        os.fsync(stream.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(fresh, file)  # whoever links first wins; all read the winner's key
    fresh.unlink()


def _new_key(host_key: bytes) -> SealingKey:
    ident = os.urandom(KEY_ID_BYTES).hex()
    return SealingKey(id=ident, wrapped=wrap(host_key, ident.encode(), os.urandom(32)), created=time.time())


def wrap(host_key: bytes, context: bytes, plain: bytes) -> bytes:
    """*plain* for the store, which only who has the host's key can read. context: tells it from others."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCMSIV(host_key).encrypt(nonce, plain, context)


def unwrap(host_key: bytes, context: bytes, wrapped: bytes) -> bytes:
    """What was wrapped. Raises InvalidTag where it was with another key, or in another context."""
    return AESGCMSIV(host_key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], context)
