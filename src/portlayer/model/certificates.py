"""Certificates: what proves who somebody is over TLS, without a secret that is sent."""

from __future__ import annotations

from portlayer.model.base import Value

PROCESS_NAME = "process.portlayer.internal"
"""The name that the processes of a port layer ask for when they speak to each other: who answers to it with a
certificate of its CA is one of them."""


class Authorities(Value):
    """The private CA. pem: the certificates to trust, the newest last; more than one after a rotation."""

    pem: str
