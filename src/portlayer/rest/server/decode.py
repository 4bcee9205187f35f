"""From an HTTP request to a caller and a request of the model, as the table says where each field travels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument, Unsupported
from portlayer.rest.calls import Call, Place
from portlayer.rest.calls.call import JSON
from portlayer.rest.pointers import refusal
from portlayer.rest.query import reader
from portlayer.rest.server.answers import Refused
from portlayer.rest.server.content import check_encoding, read

IDEMPOTENCY_KEY = "Idempotency-Key"
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_ETAG = re.compile(r'"([^"\x00-\x1f]*)"')


class Decoder:
    """Decodes the requests of one call; strict in everything."""

    def __init__(self, call: Call[Any, Any]) -> None:
        self._call = call
        self._readers = {info.encode_name: reader(info.type) for info in call.at(Place.QUERY)}
        self._body = msgspec.json.Decoder(call.body) if call.body else None
        self._whole_body = call.body is call.request
        self._empty_body = call.body is not None and not any(i.required for i in msgspec.structs.fields(call.body))
        self._content = next((info.encode_name for info in call.at(Place.CONTENT)), None)

    async def decode(self, http: web.BaseRequest, parameters: dict[str, str], query: str) -> Value:
        """The request; *parameters* are those of the path, without `vch`.

        Raises:
            InvalidArgument: anything unknown, malformed, missing or of another type.
            Unsupported: a condition that the call does not know.
            Refused: 413 or 415.
        """
        self._check_conditions(http)
        values = self._query(query)
        check_encoding(http)
        if self._body is not None:
            body = _read(self._body, await self._json(http))
            if self._whole_body:
                whole: Value = body
                return whole
            tags = {name: _entity_tag(header, text) for name, header, text in self._conditions(http)}
            request: Value = self._call.request(**parameters, **msgspec.structs.asdict(body), **tags)
            return request
        if self._content:
            values[self._content] = await read(http)
        elif not self._call.consumes and http.body_exists:
            raise InvalidArgument(f"{self._call.verb} here takes no body; leave it out.")
        for name, header, text in self._conditions(http):
            values[self._call.fields[name].encode_name] = _entity_tag(header, text)
        return self._converted({**parameters, **values})

    async def body(self, http: web.BaseRequest) -> bytes | None:
        """The body that `decode` has read, for whoever reads it once more elsewhere; None for a call that has none."""
        return None if self._body is None else await http.read() or b"{}"

    def _check_conditions(self, http: web.BaseRequest) -> None:
        """Nothing is changed on a condition that is not looked at. Reads may answer in full whatever the condition."""
        known = {header.lower() for header in self._call.headers.values()}
        for header in _CONDITIONS:
            if self._call.verb != "GET" and header in http.headers and header.lower() not in known:
                raise Unsupported(f"{header} is not offered for this call; leave it out.", option=header)

    def _conditions(self, http: web.BaseRequest) -> Iterator[tuple[str, str, str]]:
        """Fields that travel in headers, where they were sent: name, header, text."""
        for name, header in self._call.headers.items():
            if header in http.headers:
                yield name, header, http.headers[header]

    def _query(self, query: str) -> dict[str, Any]:
        if not query:
            return {}
        try:
            given = parse_qs(query, keep_blank_values=True, errors="strict", max_num_fields=100)
        except ValueError as error:
            raise InvalidArgument(f"The query cannot be read: {error}.") from error
        unknown = sorted(given.keys() - self._readers.keys())
        if unknown:
            known = ", ".join(self._readers) or "nothing"
            raise InvalidArgument(
                f"The query has {unknown[0][:200]!r}; this call takes {known} there.", pointer=f"?{unknown[0][:200]}"
            )
        return {name: self._readers[name](name, values) for name, values in given.items()}

    def _converted(self, values: Mapping[str, Any]) -> Value:
        try:
            request: Value = msgspec.convert(values, self._call.request)
        except msgspec.ValidationError as error:
            found = refusal(error, "The query")
            pointer = found.facts.get("pointer", "").replace("/", "?", 1)
            raise InvalidArgument(found.detail.replace("at /", "at ?"), pointer=pointer or None) from error
        return request

    async def _json(self, http: web.BaseRequest) -> bytes:
        content = await read(http)
        if not content and self._empty_body:
            return b"{}"
        if "Content-Type" in http.headers and http.content_type != JSON:
            raise Refused(InvalidArgument(f"The body must be {JSON}, not {http.content_type[:100]}."), 415)
        return content


def _read(decoder: msgspec.json.Decoder[Any], content: bytes) -> Any:
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refusal(error) from error


def idempotency_key(http: web.BaseRequest) -> str | None:
    """The header's value. Raises InvalidArgument."""
    key = http.headers.get(IDEMPOTENCY_KEY)
    if key is not None and _KEY.fullmatch(key) is None:
        raise InvalidArgument(f"{IDEMPOTENCY_KEY} must be 1 to 255 printable ASCII characters.")
    return key


def _entity_tag(header: str, text: str) -> str:
    if text == "*":
        return text
    found = _ETAG.fullmatch(text)
    if found is None:
        raise InvalidArgument(f'{header} must be one ETag, such as "12", or *.')
    return found[1]
