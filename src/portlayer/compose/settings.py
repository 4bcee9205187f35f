"""Settings: what a port layer is made of, from one TOML file and the environment.

PORTLAYER_STATE     what lasts: store, layers, volumes, logs, the host's key       /var/lib/portlayer
PORTLAYER_RUN       sockets, and what a reboot may clear                            /run/portlayer
PORTLAYER_RUNTIME   the OCI runtime, crun or runc; by default what proves able to run
PORTLAYER_FAILPOINTS  for tests of the commit protocol (see failpoints)
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from portlayer.components.addresses import LEASE_SECONDS
from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument

DEFAULT_STATE, DEFAULT_RUN = "/var/lib/portlayer", "/run/portlayer"
SOCKET = "portlayer.sock"


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
