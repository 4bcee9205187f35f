"""The composition root: the one module that knows which concrete parts are wired together.

PORTLAYER_STATE     what lasts: store, layers, volumes, logs, the host's key       /var/lib/portlayer
PORTLAYER_RUN       sockets, and what a reboot may clear                            /run/portlayer
PORTLAYER_RUNTIME   the OCI runtime, crun or runc; by default what proves able to run
PORTLAYER_FAILPOINTS  for tests of the commit protocol (see failpoints)
"""

from __future__ import annotations

import contextlib
import secrets
import tomllib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from portlayer.components.addresses import LEASE_SECONDS, Pool
from portlayer.components.commit.engine import Engine
from portlayer.components.drafts import Drafts
from portlayer.components.execution import LocalExecution
from portlayer.components.handles import Sealer
from portlayer.components.interaction import LocalInteraction
from portlayer.components.network import LocalNetwork
from portlayer.components.observer import Observer
from portlayer.components.ports import Ports
from portlayer.components.records import Records
from portlayer.components.replays import Replays
from portlayer.components.service import LocalService, ensure_vch
from portlayer.components.storage import LocalStorage
from portlayer.failpoints import Failpoints
from portlayer.interfaces.components import Components
from portlayer.interfaces.store import Store
from portlayer.interfaces.substrate import Substrate
from portlayer.model.base import Value, now
from portlayer.model.caller import DEFAULT_VCH
from portlayer.model.errors import InvalidArgument, Unavailable
from portlayer.stores.sqlite import SqliteStore
from portlayer.substrates.linux.host import Check, checks
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.substrate import LinuxSubstrate

host_checks = checks
"""What this host has and lacks for the Linux substrate."""

DEFAULT_STATE, DEFAULT_RUN = "/var/lib/portlayer", "/run/portlayer"
SOCKET = "portlayer.sock"
LOCAL_HOST = "local"


class Settings(Value):
    """What a port layer is made of. Empty strings mean the default. leaseSeconds: how long a bind holds an address."""

    state: str = DEFAULT_STATE
    run: str = DEFAULT_RUN
    runtime: str = ""
    failpoints: str = ""
    lease_seconds: float = LEASE_SECONDS

    @property
    def socket(self) -> Path:
        return Path(self.run) / SOCKET


def read_settings(environment: Mapping[str, str], config: Path | None = None) -> Settings:
    """Settings from a TOML file (keys as in Settings), over which the environment wins.

    Raises:
        InvalidArgument: the file cannot be read, or has unknown keys.
    """
    values: dict[str, object] = {}
    if config is not None:
        try:
            values = tomllib.loads(config.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InvalidArgument(f"{config} cannot be read: {error}.") from None
        known = {"state", "run", "runtime", "leaseSeconds"}
        if values.keys() - known:
            raise InvalidArgument(f"{config} has unknown keys {sorted(values.keys() - known)}; known: {sorted(known)}.")
    for name, key in (("STATE", "state"), ("RUN", "run"), ("RUNTIME", "runtime"), ("FAILPOINTS", "failpoints")):
        if environment.get(f"PORTLAYER_{name}"):
            values[key] = environment[f"PORTLAYER_{name}"]
    lease = values.get("leaseSeconds", LEASE_SECONDS)
    if not isinstance(lease, int | float) or not 1 <= lease <= 86400:
        raise InvalidArgument("leaseSeconds must be between 1 and 86400.")
    texts = {key: str(value) for key, value in values.items() if key != "leaseSeconds"}
    return Settings(**texts, lease_seconds=float(lease))


def make_paths(settings: Settings) -> Paths:
    """The directories of this port layer; made, with the id of the instance kept in the first."""
    state, run = Path(settings.state).absolute(), Path(settings.run).absolute()
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o711)
        run.mkdir(parents=True, exist_ok=True, mode=0o711)
    except OSError as error:
        raise Unavailable(
            f"{error.filename} cannot be made: {error.strerror}; choose PORTLAYER_STATE and _RUN."
        ) from None
    file = state / "instance"
    with contextlib.suppress(FileExistsError), file.open("x") as stream:
        stream.write(secrets.token_hex(4))
    return Paths(state=state, run=run, instance=file.read_text().strip())


@contextlib.asynccontextmanager
async def open_local(settings: Settings) -> AsyncIterator[Components]:
    """All four components in this process: SQLite and the Linux substrate.

    Raises:
        Unavailable: the store or the host is not fit; the reason says how to mend it.
    """
    paths = make_paths(settings)
    store = await SqliteStore.open(paths.state / "portlayer.db")
    try:
        substrate = LinuxSubstrate(paths, runtime=settings.runtime or None)
        features = await substrate.start()
        try:
            async with assemble(store, substrate, features, paths.state, paths.instance, settings) as components:
                yield components
        finally:
            await substrate.close()
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def open_host(settings: Settings) -> AsyncIterator[Substrate]:
    """The substrate of this instance, for looking and removing alone: it is not started, so it makes nothing new."""
    substrate = LinuxSubstrate(make_paths(settings))
    try:
        yield substrate
    finally:
        await substrate.close()


@contextlib.asynccontextmanager
async def assemble(
    store: Store,
    substrate: Substrate,
    features: Mapping[str, str],
    state: Path,
    instance: str,
    settings: Settings,
    failpoints: Failpoints | None = None,
) -> AsyncIterator[Components]:
    """The components over any store and substrate. state: directory for the host's key and for uploads."""
    records = Records(store)
    await ensure_vch(records, DEFAULT_VCH, now())
    sealer = await Sealer.open(store, state / "host.key")
    failpoints = failpoints or Failpoints.from_text(settings.failpoints)
    drafts = Drafts(records, sealer)
    pool = Pool(store, settings.lease_seconds)
    replays = Replays(store, failpoints)
    engine = Engine(records, substrate, LOCAL_HOST, failpoints, settings.lease_seconds)
    execution = LocalExecution(drafts, pool, engine, Observer(records, engine, LOCAL_HOST))
    storage = LocalStorage(drafts, replays, substrate.storage, state / "uploads", failpoints)
    await execution.start()
    await storage.start()
    try:
        yield Components(
            service=LocalService(
                records, instance, {substrate.name: features}, substrate.execution.present, engine.stuck_commits
            ),
            storage=storage,
            execution=execution,
            network=LocalNetwork(drafts, pool, Ports(store, LOCAL_HOST), replays, substrate.network, failpoints),
            interaction=LocalInteraction(drafts, substrate.interaction),
        )
    finally:
        await execution.close()


__all__ = ["Check", "Settings", "assemble", "host_checks", "make_paths", "open_host", "open_local", "read_settings"]
