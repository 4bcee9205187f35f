"""The calls of execution: containers, their state, and commit."""

from __future__ import annotations

from portlayer.model import execution as m
from portlayer.model.storage import HandleAnswer
from portlayer.rest.calls.call import Table

_TASKS = "a container has its main task alone in this version; run a container of its own instead"
_STATISTICS = "the substrate is not measured in this version"

_table = Table("execution")

CREATE = _table.mutation("create", m.Create, m.Created)
SET_STATE = _table.mutation("set-state", m.SetState, HandleAnswer)
SET_LABELS = _table.mutation("set-labels", m.SetLabels, HandleAnswer)
SET_RESOURCES = _table.mutation("set-resources", m.SetResources, HandleAnswer)
SET_RESTART_POLICY = _table.mutation("set-restart-policy", m.SetRestartPolicy, HandleAnswer)
RENAME = _table.mutation("rename", m.Rename, HandleAnswer)
INSPECT = _table.mutation("inspect", m.Inspect, m.Inspected)
COMMIT = _table.mutation("commit", m.Commit, m.Committed, also=m.CommittedMany, acts=True, leaves=True)
RECALL = _table.get("recall", "committed", m.Recall, m.Recalled)
DISCARD = _table.mutation("discard", m.Discard, type(None), acts=True)
for _verb in ("join", "bind", "unbind", "remove"):
    _table.unsupported("POST", f"tasks/{_verb}", _TASKS)

LIST_CONTAINERS = _table.get("list-containers", "containers", m.ListContainers, m.Containers)
GET_CONTAINER = _table.get("get-container", "containers/{ref}", m.ContainerRef, m.Container)
HANDLE = _table.post("handle", "containers/{ref}/handle", m.ContainerRef, m.ContainerHandle, acts=False)
DELETE_CONTAINER = _table.delete("delete-container", "containers/{ref}", m.DeleteContainer, leaves=True)
SIGNAL = _table.post("signal", "containers/{ref}/signal", m.Signal, type(None))
WAIT = _table.get("wait", "containers/{ref}/wait", m.Wait, m.Waited)
_table.unsupported("GET", "containers/{ref}/stats", _STATISTICS)
_table.unsupported("GET", "containers/{ref}/processes", _STATISTICS)
_table.unsupported("GET", "containers/{ref}/tasks/{task}", _TASKS)
_table.unsupported("GET", "containers/{ref}/tasks/{task}/wait", _TASKS)

CALLS = _table.calls
