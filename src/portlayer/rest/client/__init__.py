"""The client of the REST API."""

from portlayer.rest.client.client import RestClient

__all__ = ["RestClient"]
