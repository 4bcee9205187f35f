"""The calls of interaction: the streams of a task."""

from __future__ import annotations

from portlayer.model import interaction as m
from portlayer.model.storage import HandleAnswer
from portlayer.rest.calls.call import BYTES, TEXT, Table

ATTACH_PROTOCOL = "portlayer.attach.v1"
FRAMES = "application/vnd.portlayer.stream"
_LOGGING = "there is one log driver in this version, and it is always on"

_table = Table("interaction")

JOIN = _table.mutation("join", m.JoinInteraction, HandleAnswer)
BIND = _table.mutation("bind", m.BindInteraction, HandleAnswer)
UNBIND = _table.mutation("unbind", m.BindInteraction, HandleAnswer)
for _verb in ("join", "bind", "unbind"):
    _table.unsupported("POST", f"logging/{_verb}", _LOGGING)

ATTACH = _table.get("attach", "containers/{ref}/attach", m.Attach, type(None), status=101, streams=True, needs="user")
STDOUT = _table.get(
    "stdout", "containers/{ref}/stdout", m.Streams, bytes, method="output", produces=BYTES, streams=True
)
STDERR = _table.get(
    "stderr", "containers/{ref}/stderr", m.Streams, bytes, method="output", produces=BYTES, streams=True
)
WRITE_STDIN = _table.post("write-stdin", "containers/{ref}/stdin", m.Streams, type(None), consumes=BYTES, acts=False)
CLOSE_STDIN = _table.delete("close-stdin", "containers/{ref}/stdin", m.Streams)
RESIZE = _table.post("resize", "containers/{ref}/resize", m.Resize, type(None))
LOGS = _table.get("logs", "containers/{ref}/logs", m.Logs, bytes, produces=TEXT, also_produces=(FRAMES,), streams=True)

CALLS = _table.calls
