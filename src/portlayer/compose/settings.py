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
from portlayer.components.reconciler import PERIOD_SECONDS
from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument
from portlayer.substrates.linux.execution import RUNTIME_SECONDS

DEFAULT_STATE, DEFAULT_RUN = "/var/lib/portlayer", "/run/portlayer"
SOCKET = "portlayer.sock"
MOST_SECONDS = 86400
TIMES = {
    "leaseSeconds": "lease_seconds",
    "runtimeSeconds": "runtime_seconds",
    "reconcileSeconds": "reconcile_seconds",
}
"""Settings in seconds: the name in the file, and the field."""
SETTINGS = ("state", "run", "runtime", *TIMES)
"""The keys of a configuration file."""


class Settings(Value):
    """What a port layer is made of. Empty strings mean the default. leaseSeconds: how long a bind holds an address.

    runtimeSeconds: how long a call of the OCI runtime may take before its step fails. reconcileSeconds: the pause
    between two sweeps of the reconciler.
    """

    state: str = DEFAULT_STATE
    run: str = DEFAULT_RUN
    runtime: str = ""
    failpoints: str = ""
    lease_seconds: float = LEASE_SECONDS
    runtime_seconds: float = RUNTIME_SECONDS
    reconcile_seconds: float = PERIOD_SECONDS

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
        unknown = sorted(values.keys() - set(SETTINGS))
        if unknown:
            raise InvalidArgument(f"{config} has unknown keys {unknown}; known: {sorted(SETTINGS)}.")
    for name, key in (("STATE", "state"), ("RUN", "run"), ("RUNTIME", "runtime"), ("FAILPOINTS", "failpoints")):
        if environment.get(f"PORTLAYER_{name}"):
            values[key] = environment[f"PORTLAYER_{name}"]
    times = {}
    for key, field in TIMES.items():
        seconds = values.pop(key, None)
        if seconds is None:
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= MOST_SECONDS:
            raise InvalidArgument(f"{key} must be between 1 and {MOST_SECONDS}.")
        times[field] = float(seconds)
    return Settings(**{key: str(value) for key, value in values.items()}, **times)  # type: ignore[arg-type]
