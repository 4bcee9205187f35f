"""The server of the REST API."""

from portlayer.rest.server.app import Server

__all__ = ["Server"]
