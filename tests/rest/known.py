"""Identities for tests over sockets on which the kernel names nobody, or only root."""

from __future__ import annotations

from aiohttp import web

from portlayer.model.access import ROOT, Identity
from portlayer.rest.server import Peers

HEADER = "X-Test-Who"


class Everyone(Peers):
    """Takes everyone for the operator."""

    def identify(self, http: web.BaseRequest) -> Identity | None:
        return ROOT


class ByHeader(Peers):
    """Takes everyone's word."""

    def __init__(self, known: dict[str, Identity]) -> None:
        super().__init__()
        self._by_name = known

    def identify(self, http: web.BaseRequest) -> Identity | None:
        return self._by_name.get(http.headers.get(HEADER, ""))
