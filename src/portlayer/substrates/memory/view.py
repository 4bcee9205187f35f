"""What a container in memory sees: root filesystem, volumes, devices, and the files that name its network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from portlayer.model.errors import InvalidArgument, SubstrateFailed
from portlayer.model.execution import ContainerSpec
from portlayer.substrates.memory.files import Files, Mounted, Node, View
from portlayer.substrates.memory.programs import PATH
from portlayer.substrates.memory.world import World

NETWORK_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


def container_view(world: World, container: ContainerSpec, root: Files) -> View:
    """The view of a new incarnation; raises SubstrateFailed without a volume, InvalidArgument without its subpath."""
    mounts = {"/": Mounted(root, read_only=container.read_only_rootfs), "/dev": Mounted(_devices())}
    mounts |= {path: Mounted(_tree(Node("file", 0o644))) for path in NETWORK_FILES}
    mounts |= {path: Mounted(Files()) for path in ("/proc", "/sys")}
    for destination, mount in container.mounts.items():
        files = world.volumes.get(mount.volume)
        if files is None:
            raise SubstrateFailed(
                f"Volume {mount.volume_name} is not on this host; make it first.",
                step="execution.prepare",
                id=container.id,
            )
        subpath = mount.subpath.strip("/")
        if files.get(subpath) is None:
            raise InvalidArgument(
                f"Volume {mount.volume_name} has no {subpath[:200]!r}; make it first, or choose another subpath.",
                pointer="/subpath",
            )
        mounts[destination] = Mounted(files, subpath, mount.read_only)
        make_folders(root, destination)
    return View(mounts)


def write_network_files(view: View, container: ContainerSpec) -> None:
    """Bring hosts, hostname and resolv.conf in line with the bound endpoints of *container*."""
    bound = [endpoint for endpoint in container.endpoints.values() if endpoint.bound]
    names = " ".join(dict.fromkeys((container.hostname, container.name)))
    hosts = ["127.0.0.1\tlocalhost", *(f"{each}\t{names}" for one in bound for each in one.addresses)]
    view.write("/etc/hosts", "".join(f"{line}\n" for line in hosts).encode())
    view.write("/etc/hostname", f"{container.hostname}\n".encode())
    view.write("/etc/resolv.conf", "".join(f"nameserver {one.gateway}\n" for one in bound).encode())


@dataclass(frozen=True)
class User:
    """Who a process runs as."""

    uid: int = 0
    gid: int = 0
    home: str = "/"


def find_user(view: View, user: str) -> User:
    """*user*, `name|uid[:group|gid]` or "" for root; raises InvalidArgument where the image has no such name."""
    name, _, group = user.partition(":")
    entry = _entry(view, "/etc/passwd", name or "0")
    found = User(int(entry[2]), int(entry[3]), entry[5]) if entry else User(_number(name, "user"))
    if not group:
        return found
    entry = _entry(view, "/etc/group", group)
    return replace(found, gid=int(entry[2]) if entry else _number(group, "group"))


def environment(container: ContainerSpec, user: User) -> dict[str, str]:
    """The variables of the main process: what every container has, then what *container* says."""
    terminal = {"TERM": "xterm"} if container.terminal else {}
    given = dict(entry.partition("=")[::2] for entry in container.process.env)
    return {"PATH": PATH, "HOSTNAME": container.hostname, **terminal, "HOME": user.home, **given}


def _entry(view: View, path: str, name: str) -> list[str] | None:
    """The fields of the line for *name*, a name or a number."""
    try:
        lines = view.read(path).decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    entries = (line.split(":") for line in lines)
    return next((fields for fields in entries if len(fields) > 3 and name in {fields[0], fields[2]}), None)


def _number(text: str, kind: str) -> int:
    if text and not text.isdecimal():
        raise InvalidArgument(
            f"The image has no {kind} {text[:100]!r}; use one that it has, or a number.", pointer="/process/user"
        )
    return int(text or 0)


def _devices() -> Files:
    files = Files()
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        files.put(name, Node("device", 0o666))
    return files


def _tree(root: Node) -> Files:
    files = Files()
    files.put("", root)
    return files


def make_folders(root: Files, destination: str) -> None:
    """Make *destination* and what leads to it in *root*, as runtimes do for mounts and for the working directory."""
    path = ""
    for part in destination.strip("/").split("/"):
        path = f"{path}/{part}".strip("/")
        if root.get(path) is None:
            root.put(path, Node("dir"))
