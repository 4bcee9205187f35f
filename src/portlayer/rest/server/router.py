"""From a method and a path to a call of the table, by one walk over the path's segments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from portlayer.model.errors import InvalidArgument, NotFound
from portlayer.rest.calls import Call
from portlayer.rest.server.answers import Refused


@dataclass
class _Node:
    literal: dict[str, _Node] = field(default_factory=dict)
    wild: _Node | None = None
    calls: dict[str, Call[Any, Any]] = field(default_factory=dict)


class Router:
    """A tree of path segments. A literal segment goes before a parameter, where both have the method."""

    def __init__(self, calls: Iterable[Call[Any, Any]]) -> None:
        self._root = _Node()
        for call in calls:
            self._add(call)

    def _add(self, call: Call[Any, Any]) -> None:
        node = self._root
        for segment in call.path.split("/")[1:]:
            if segment.startswith("{"):
                node.wild = node = node.wild or _Node()
            else:
                node = node.literal.setdefault(segment, _Node())
        node.calls[call.verb] = call

    def resolve(self, method: str, path: str) -> tuple[Call[Any, Any], dict[str, str]]:
        """The call and the decoded parameters of its path.

        Raises:
            NotFound: no call has this path. InvalidArgument: it is not UTF-8.
            Refused: 405, with what is allowed.
        """
        segments = path.split("/")[1:]
        allowed: set[str] = set()
        for node, wild in _ends(self._root, segments):
            call = node.calls.get("GET" if method == "HEAD" else method)
            if call is not None and not (method == "HEAD" and call.streams):
                return call, dict(zip(call.parameters, map(_decoded, wild), strict=True))
            allowed |= node.calls.keys()
        if not allowed:
            raise NotFound(f"There is no {path[:200]}; /docs lists all calls.", kind="route", id=path[:200])
        allow = ", ".join(sorted(allowed))
        raise Refused(InvalidArgument(f"{method} is not possible here; {allow} is."), 405, {"Allow": allow})


def _ends(root: _Node, segments: list[str]) -> list[tuple[_Node, tuple[str, ...]]]:
    """Where a path may end, with the segments that stand for parameters; literal ones first."""
    ends: list[tuple[_Node, tuple[str, ...]]] = [(root, ())]
    for segment in segments:
        before, ends = ends, []
        for node, wild in before:
            if segment in node.literal:
                ends.append((node.literal[segment], wild))
            if node.wild is not None and segment:
                ends.append((node.wild, (*wild, segment)))
    return [end for end in ends if end[0].calls]


def _decoded(segment: str) -> str:
    if "%" not in segment:
        return segment
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{segment[:200]!r} in the path is not UTF-8.") from error
