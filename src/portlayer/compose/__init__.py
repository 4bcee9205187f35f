"""The composition root: the one package that knows which concrete parts are wired together."""

from portlayer.compose.assembly import Assembled, assemble
from portlayer.compose.local import make_paths, open_host, open_local
from portlayer.compose.settings import SETTINGS, Settings, read_settings
from portlayer.compose.tls import Certificates
from portlayer.substrates.linux.host import Check
from portlayer.substrates.linux.host import checks as host_checks

__all__ = [
    "SETTINGS",
    "Assembled",
    "Certificates",
    "Check",
    "Settings",
    "assemble",
    "host_checks",
    "make_paths",
    "open_host",
    "open_local",
    "read_settings",
]
