"""Which store a port layer has, in words, and opening it. What only one kind needs is imported when it is chosen.

sqlite                                                  the file portlayer.db in the state directory; the default
etcd://[user@]host:port[,host:port...]/prefix           etcd
etcds://...?ca=FILE&cert=FILE&key=FILE                  the same over TLS; ca: the system's if left out
...?passwordFile=FILE                                   the password of user
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import msgspec

from portlayer.interfaces.store import Store
from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument
from portlayer.stores import sqlite_copy
from portlayer.stores.snapshot import Snapshot
from portlayer.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from portlayer.stores.etcd_client import Access

FILE = "portlayer.db"
PREFIX = "portlayer"
FILES = ("ca", "cert", "key", "passwordFile")


class StoreChoice(Value):
    """kind: `sqlite` or `etcd`; all else is etcd's. endpoints: `host:port`. prefix: one word, of this port layer.

    tls: also on where ca, cert or key is given; these and passwordFile are files.
    """

    kind: str = "sqlite"
    endpoints: tuple[str, ...] = ()
    prefix: str = PREFIX
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""

    @property
    def where(self) -> str:
        """For people."""
        return f"etcd at {', '.join(self.endpoints)}, prefix {self.prefix}" if self.kind == "etcd" else "sqlite"


def parse_table(table: Mapping[str, object]) -> StoreChoice:
    """From the section [store] of a configuration.

    Raises:
        InvalidArgument: it says what cannot be.
    """
    try:
        return _checked(msgspec.convert(table, StoreChoice))
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"[store] is not as it should be: {error}.") from None


def parse_url(text: str) -> StoreChoice:
    """From one line, as above.

    Raises:
        InvalidArgument: it is none of these.
    """
    if text == "sqlite":
        return StoreChoice()
    parts = urlsplit(text)
    if parts.scheme not in ("etcd", "etcds"):
        raise InvalidArgument(f"{text!r} is no store; say sqlite, or etcd://host:port/prefix.")
    if parts.password is not None:
        raise InvalidArgument("A password does not belong into the store's URL; name its file with ?passwordFile=.")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = options.keys() - set(FILES)
    if unknown:
        raise InvalidArgument(f"The store's URL has unknown options {sorted(unknown)}; known: {', '.join(FILES)}.")
    user, _, hosts = parts.netloc.rpartition("@")
    return parse_table(
        {
            "kind": "etcd",
            "endpoints": hosts.split(","),
            "prefix": parts.path.strip("/") or PREFIX,
            "tls": parts.scheme == "etcds",
            "user": user,
            **options,
        }
    )


def _checked(choice: StoreChoice) -> StoreChoice:
    if choice.kind == "sqlite":
        if choice != StoreChoice():
            raise InvalidArgument("The store sqlite takes no options; its file is in the state directory.")
        return choice
    if choice.kind != "etcd":
        raise InvalidArgument(f"There is no store of kind {choice.kind!r}; say sqlite or etcd.")
    for endpoint in choice.endpoints:
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdecimal() or "/" in host:
            raise InvalidArgument(f"{endpoint!r} is no endpoint of etcd; say host:port.")
    if not choice.endpoints:
        raise InvalidArgument("The store etcd needs endpoints: at least one host:port.")
    if bool(choice.user) != bool(choice.password_file):
        raise InvalidArgument("A user of etcd needs a passwordFile, and a passwordFile a user.")
    return choice


def _access(choice: StoreChoice) -> Access:
    from portlayer.stores.etcd_client import Access  # noqa: PLC0415

    password = ""
    if choice.password_file:
        try:
            password = Path(choice.password_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"The password file {choice.password_file} cannot be read: {error}.") from None
    return Access(
        endpoints=choice.endpoints,
        tls=choice.tls or bool(choice.ca or choice.cert),
        ca=choice.ca,
        cert=choice.cert,
        key=choice.key,
        user=choice.user,
        password=password,
    )


async def open_store(choice: StoreChoice, state: Path) -> Store:
    """The store, made if it is not there. state: the directory of what lasts.

    Raises:
        InvalidArgument, Unavailable: as the store's own `open`.
    """
    if choice.kind == "sqlite":
        return await SqliteStore.open(state / FILE)
    from portlayer.stores.etcd import EtcdStore  # noqa: PLC0415

    return await EtcdStore.open(_access(choice), choice.prefix)


async def dump(choice: StoreChoice, state: Path) -> Snapshot:
    """All that the store holds.

    Raises:
        Unavailable: there is none, or it cannot be read.
    """
    if choice.kind == "sqlite":
        return await asyncio.to_thread(sqlite_copy.dump, state / FILE)
    from portlayer.stores import etcd_copy  # noqa: PLC0415

    return await etcd_copy.dump(_access(choice), choice.prefix)


async def present_revision(choice: StoreChoice, state: Path) -> int:
    """The last revision of the store; 0 where there is none, or a SQLite file that is damaged."""
    if choice.kind == "sqlite":
        return await asyncio.to_thread(sqlite_copy.revision, state / FILE)
    from portlayer.stores import etcd_copy  # noqa: PLC0415

    return await etcd_copy.revision(_access(choice), choice.prefix)


async def load(choice: StoreChoice, state: Path, snapshot: Snapshot, *, replace: bool) -> None:
    """Make a store that holds *snapshot*. No process may have the store open.

    Raises:
        InUse: there is one, and not *replace*. Unavailable: it cannot be written.
    """
    if choice.kind == "sqlite":
        await asyncio.to_thread(sqlite_copy.load, state / FILE, snapshot, replace=replace)
        return
    from portlayer.stores import etcd_copy  # noqa: PLC0415

    await etcd_copy.load(_access(choice), choice.prefix, snapshot, replace=replace)
