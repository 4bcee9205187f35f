"""The server of the REST API."""

from portlayer.rest.server.app import Server
from portlayer.rest.server.audit import Audit
from portlayer.rest.server.identity import Peers

__all__ = ["Audit", "Peers", "Server"]
