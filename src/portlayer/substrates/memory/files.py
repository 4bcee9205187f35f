"""Files in memory: layers parsed from tars, trees over them, and what a container sees of it all."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from portlayer import tarstream
from portlayer.model.errors import InvalidArgument

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_MAX_LINKS = 40


@dataclass(slots=True)
class Node:
    """A file of any kind. Hard links are one Node under several paths."""

    kind: Literal["file", "dir", "symlink", "device"]
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    data: bytes = b""
    target: str = ""
    links: int = 1
    xattrs: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Layer:
    """What one tar says. Paths have no leading slash; removed and opaque name what it hides of lower layers."""

    nodes: dict[str, Node] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    size: int = 0


def parse_layer(data: bytes) -> Layer:
    """The layer in an uncompressed tar.

    Raises InvalidArgument: no tar, truncated, or an entry that escapes.
    """
    layer = Layer()
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for entry in tar:
                _add(layer, tar, entry)
            after = data[tar.offset : tar.offset + tarfile.BLOCKSIZE]
    except tarfile.TarError as error:
        raise InvalidArgument(f"This is no whole tar archive ({error}); upload it again.") from error
    if after.strip(b"\0"):
        raise InvalidArgument("The tar archive is damaged in the middle; upload it again.")
    layer.size = len(data)
    return layer


def _add(layer: Layer, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
    path = _inside(layer, entry.name)
    folder, name = posixpath.split(path)
    if name == _OPAQUE:
        layer.opaque.add(folder)
    elif name.startswith(_WHITEOUT):
        layer.removed.add(posixpath.join(folder, name.removeprefix(_WHITEOUT)))
    elif path:
        _add_parents(layer, folder)
        layer.nodes[path] = _node(layer, tar, entry)


def _node(layer: Layer, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> Node:
    if entry.islnk():
        target = layer.nodes.get(_inside(layer, entry.linkname))
        if target is None:
            raise InvalidArgument(f"{entry.name[:200]!r} is a hard link to nothing in this layer; build it again.")
        target.links += 1
        return target
    xattrs = {key.removeprefix(_XATTR): value for key, value in entry.pax_headers.items() if key.startswith(_XATTR)}
    node = Node("device", entry.mode, entry.uid, entry.gid, xattrs=xattrs)
    if entry.isfile():
        content = tar.extractfile(entry)
        node.kind = "file"
        node.data = content.read() if content else b""
    elif entry.isdir():
        node.kind = "dir"
    elif entry.issym():
        node.kind = "symlink"
        node.target = entry.linkname
    return node


def _add_parents(layer: Layer, folder: str) -> None:
    while folder and folder not in layer.nodes:
        layer.nodes[folder] = Node("dir")
        folder = posixpath.dirname(folder)


def _inside(layer: Layer, name: str) -> str:
    """*name* as a path of the layer; links on the way to it lead where they would in a container."""
    parts = [os.fsdecode(part) for part in tarstream.split(os.fsencode(name))]
    last = parts[-1:]
    pending, place = parts[:-1][::-1], ""
    hops = 0
    while pending:
        here = posixpath.normpath(posixpath.join("/", place, pending.pop())).strip("/")
        node = layer.nodes.get(here)
        if node is None or node.kind == "dir":
            place = here
            continue
        hops += 1
        if node.kind != "symlink" or hops > _MAX_LINKS:
            raise InvalidArgument(f"The way to entry {name[:200]!r} is none of directories; build the layer again.")
        place = "" if node.target.startswith("/") else place
        pending.extend(node.target.split("/")[::-1])
    return posixpath.join(place, *last)


def merge(layers: Iterable[Layer]) -> dict[str, Node]:
    """*layers* from the lowest up as one tree."""
    tree: dict[str, Node] = {}
    for layer in layers:
        for path in layer.opaque:
            _drop(tree, path, itself=False)
        for path in layer.removed:
            _drop(tree, path)
        for path, node in layer.nodes.items():
            if path in tree and node.kind != "dir":
                _drop(tree, path)
            tree[path] = node
    return tree


def _drop(tree: dict[str, Node], path: str, *, itself: bool = True) -> None:
    below = f"{path}/" if path else ""
    for other in [other for other in tree if other.startswith(below)]:
        del tree[other]
    if itself:
        tree.pop(path, None)


class Files:
    """A tree that can be written to, over one that cannot. Paths have no leading slash; the root is there always."""

    def __init__(self, base: Mapping[str, Node] | None = None, *, capacity_bytes: int | None = None) -> None:
        self._base = base or {}
        self._upper: dict[str, Node | None] = {"": Node("dir")}
        self._capacity_bytes = capacity_bytes

    def get(self, path: str) -> Node | None:
        return self._upper[path] if path in self._upper else self._base.get(path)

    def put(self, path: str, node: Node) -> None:
        self._upper[path] = node

    def drop(self, path: str) -> None:
        self._upper[path] = None

    def names(self, folder: str) -> list[str]:
        """The names in *folder*, sorted."""
        start = f"{folder}/" if folder else ""
        paths = {path for path in (*self._base, *self._upper) if path.startswith(start) and path != folder}
        return sorted({path.removeprefix(start).split("/")[0] for path in paths if self.get(path) is not None})

    def room(self, path: str) -> int | None:
        """How many bytes the file at *path* can have; None for any number."""
        if self._capacity_bytes is None:
            return None
        old = self._upper.get(path)
        return self._capacity_bytes - self.written + (len(old.data) if old else 0)

    @property
    def written(self) -> int:
        """Bytes written over the base."""
        return sum(len(node.data) for node in self._upper.values() if node)


@dataclass(frozen=True)
class Mounted:
    """A tree at a place of a container's root; subpath is the part of it that is shown."""

    files: Files
    subpath: str = ""
    read_only: bool = False


class View:
    """What a container sees: mounts, longest destination first, over its root.

    Methods take absolute paths and raise OSError as system calls would; programs print them.
    """

    def __init__(self, mounts: Mapping[str, Mounted]) -> None:
        self._mounts = sorted(mounts.items(), key=lambda item: -len(item[0]))

    def _place(self, path: str) -> tuple[Mounted, str]:
        for destination, mounted in self._mounts:
            inside = destination.rstrip("/")
            if path == inside or path.startswith(f"{inside}/"):
                return mounted, posixpath.join(mounted.subpath, path[len(inside) :].strip("/")).rstrip("/")
        raise _error(errno.ENOENT, path)

    def _lookup(self, path: str) -> Node | None:
        mounted, key = self._place(path)
        return mounted.files.get(key)

    def resolve(self, path: str, *, follow: bool = True) -> str:
        """*path* without links and dots; the last part's own link stays with follow off."""
        pending = path.split("/")[::-1]
        place = "/"
        hops = 0
        while pending:
            part = pending.pop()
            here = posixpath.normpath(posixpath.join(place, part))
            node = self._lookup(here)
            if node is None or node.kind != "symlink" or not (pending or follow):
                place = here
                continue
            hops += 1
            if hops > _MAX_LINKS:
                raise _error(errno.ELOOP, path)
            if node.target.startswith("/"):
                place = "/"
            pending.extend(node.target.split("/")[::-1])
        return place

    def find(self, path: str, *, follow: bool = True) -> Node:
        node = self._lookup(self.resolve(path, follow=follow))
        if node is None:
            raise _error(errno.ENOENT, path)
        return node

    def read(self, path: str) -> bytes:
        node = self.find(path)
        if node.kind == "dir":
            raise _error(errno.EISDIR, path)
        return node.data

    def names(self, path: str) -> list[str]:
        """The names in folder *path*, mount points included."""
        place = self.resolve(path)
        if self.find(place).kind != "dir":
            raise _error(errno.ENOTDIR, path)
        mounted, key = self._place(place)
        own = {destination for destination, _ in self._mounts if destination != "/"}
        points = {posixpath.basename(point) for point in own if posixpath.dirname(point) == place}
        return sorted({*mounted.files.names(key), *points})

    def write(self, path: str, data: bytes, *, append: bool = False) -> None:
        place = self.resolve(path)
        old = self._lookup(place)
        if old is not None and old.kind == "dir":
            raise _error(errno.EISDIR, path)
        if old is not None and old.kind == "device":
            return
        node = replace(old) if old else Node("file", 0o644)
        node.data = node.data + data if append else data
        self._put(place, node)

    def make_folder(self, path: str) -> None:
        place = self.resolve(path)
        if self._lookup(place) is not None:
            raise _error(errno.EEXIST, path)
        self._put(place, Node("dir"))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with its content."""
        place = self.resolve(path, follow=False)
        if self.find(place, follow=False).kind == "dir":
            for name in self.names(place):
                self.remove(posixpath.join(place, name))
        mounted, key = self._writable(place)
        mounted.files.drop(key)

    def _put(self, place: str, node: Node) -> None:
        if self.find(posixpath.dirname(place)).kind != "dir":
            raise _error(errno.ENOTDIR, place)
        mounted, key = self._writable(place)
        room = mounted.files.room(key)
        if room is not None and len(node.data) > room:
            mounted.files.put(key, replace(node, data=node.data[:room]))
            raise _error(errno.ENOSPC, place)
        mounted.files.put(key, node)

    def _writable(self, place: str) -> tuple[Mounted, str]:
        mounted, key = self._place(place)
        if mounted.read_only:
            raise _error(errno.EROFS, place)
        return mounted, key


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
