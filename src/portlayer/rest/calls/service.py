"""The calls of the service itself: health, what it is, tenants, events, small values."""

from __future__ import annotations

from typing import Any

from portlayer.model import grants as g
from portlayer.model import service as m
from portlayer.model.events import NumberedEvent
from portlayer.model.storage import Nothing
from portlayer.rest.calls.call import BYTES, TEXT, V1, VCH, Table

EVENT_STREAM = "text/event-stream"
HTML = "text/html"
METRICS = "text/plain; version=0.0.4"

_table = Table("service")

HEALTH = _table.get(
    "health", "/healthz", Nothing, str, method="", produces=TEXT, needs="anyone", summary="The server answers."
)
READY = _table.get("ready", "/readyz", Nothing, m.Readiness, statuses=(503,), needs="viewer")
METRICS_TEXT = _table.get("metrics", "/metrics", Nothing, str, produces=METRICS)
INFO = _table.get("info", f"{V1}/info", Nothing, m.Info, needs="viewer")

PROCESSES = _table.get("list-processes", f"{V1}/processes", Nothing, m.Processes)

DELETE_HOST = _table.delete("delete-host", f"{V1}/hosts/{{ref}}", m.DeleteHost)

OPENAPI = _table.get(
    "openapi",
    f"{V1}/openapi.json",
    Nothing,
    dict[str, Any],
    method="",
    needs="anyone",
    summary="This document (OpenAPI 3.1).",
)
DOCS = _table.get(
    "docs", "/docs", Nothing, str, method="", produces=HTML, needs="anyone", summary="This document, to read."
)

LIST_VCHS = _table.get("list-vchs", f"{V1}/vchs", m.ListVchs, m.Vchs)
GET_VCH = _table.get("get-vch", f"{V1}/vchs/{{ref}}", m.VchRef, m.Vch, needs="viewer")
CREATE_VCH = _table.create("create-vch", f"{V1}/vchs", m.CreateVch, m.Vch)
UPDATE_VCH = _table.patch("update-vch", f"{V1}/vchs/{{ref}}", m.UpdateVch, m.Vch, headers={"if_match": "If-Match"})
DELETE_VCH = _table.delete("delete-vch", f"{V1}/vchs/{{ref}}", m.DeleteVch, headers={"if_match": "If-Match"})

CREATE_TOKEN = _table.create("create-token", f"{V1}/tokens", g.CreateToken, g.NewToken)
LIST_TOKENS = _table.get("list-tokens", f"{V1}/tokens", g.ListGrants, g.Tokens)
DELETE_TOKEN = _table.delete("delete-token", f"{V1}/tokens/{{id}}", g.GrantRef)

CREATE_CERTIFICATE = _table.create("create-certificate", f"{V1}/certificates", g.CreateCertificate, g.NewCertificate)
LIST_CERTIFICATES = _table.get("list-certificates", f"{V1}/certificates", g.ListGrants, g.Certificates)
DELETE_CERTIFICATE = _table.delete("delete-certificate", f"{V1}/certificates/{{id}}", g.GrantRef)
AUTHORITIES = _table.get("authorities", f"{V1}/ca", Nothing, g.Authorities, needs="viewer")
ROTATE_CA = _table.post("rotate-ca", f"{V1}/ca/rotate", g.RotateCa, g.Authorities)

EVENTS = _table.get("events", f"{VCH}/events", m.Subscribe, NumberedEvent, produces=EVENT_STREAM, streams=True)

GET_KV = _table.get("get-kv", f"{VCH}/kv/{{key}}", m.KvRef, bytes, produces=BYTES, needs="user")
PUT_KV = _table.put(
    "put-kv", f"{VCH}/kv/{{key}}", m.PutKv, type(None), consumes=BYTES, headers={"if_match": "If-Match"}
)
DELETE_KV = _table.delete("delete-kv", f"{VCH}/kv/{{key}}", m.DeleteKv, headers={"if_match": "If-Match"})

CALLS = _table.calls
