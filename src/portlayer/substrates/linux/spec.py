"""The OCI runtime configuration of an incarnation: pure functions, with Docker's defaults as data.

Sources: OCI runtime-spec, config and config-linux; the defaults of moby's daemon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from portlayer.model.base import Value
from portlayer.model.execution import ContainerSpec, Resources
from portlayer.substrates.linux.cgroups import PERIOD_MICROSECONDS, quota
from portlayer.substrates.linux.users import User

CONFIG = "config.json"
INIT = "/dev/init"  # on a tmpfs that every container has: nothing is written to its root filesystem
SECCOMP_ANNOTATION = "run.oci.seccomp_bpf_data"
CONTAINER_ANNOTATION = "dev.portlayer.container"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Host(Value):
    """What a specification depends on beside the container.

    open_files, processes: our own hard limits (-1: none), which a container cannot exceed. oom_score: our own, below
    which nobody may go without CAP_SYS_RESOURCE. counts_swap: whether the kernel limits swap by control group.
    """

    open_files: int
    processes: int
    oom_score: int
    counts_swap: bool


class Volume(Value):
    """A directory of the host at `destination`."""

    source: str
    destination: str
    read_only: bool


class Filter(Value):
    """The seccomp filter in the one of its two shapes that the runtime takes; base64 in `bpf`."""

    oci: msgspec.Raw | None = None
    bpf: str = ""


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}


_SYSTEM_MOUNTS = (
    _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
    _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    _mount(*("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    _mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
    _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=67108864"),  # noqa: S108
)
_MASKED = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_NAMESPACES = tuple({"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup"))


def _device(major: int, minor: int, *, allow: bool = True) -> dict[str, Any]:
    return {"allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm"}


_FUSE = (10, 229)
_DEVICES = (
    {"allow": False, "access": "rwm"},
    *(_device(1, minor) for minor in (3, 5, 7, 8, 9)),  # null, zero, full, random, urandom
    *(_device(5, minor) for minor in (0, 1)),  # tty, console
    _device(*_FUSE, allow=False),
)


def build(
    container: ContainerSpec,
    user: User,
    capabilities: frozenset[str],
    *,
    host: Host,
    rootfs: str,
    files: Mapping[str, str],
    cgroup: str,
    seccomp: Filter,
    volumes: Sequence[Volume] = (),
    init: str = "",
    network: str = "",
) -> bytes:
    """The text of `config.json`.

    files: our own on the host, by where they are in the container; a volume goes before them.
    init: a program of the host that becomes the first process and starts the others; "" for none.
    network: path of its network namespace; "" for a new one.
    """
    annotations = {CONTAINER_ANNOTATION: container.id}
    if seccomp.bpf:
        annotations[SECCOMP_ANNOTATION] = seccomp.bpf
    linux: dict[str, Any] = {
        "cgroupsPath": cgroup,
        "namespaces": [*_NAMESPACES, {"type": "network", **({"path": network} if network else {})}],
        "resources": {"devices": _DEVICES, **_limits(container.resources, host)},
        "maskedPaths": _MASKED,
        "readonlyPaths": _READ_ONLY,
    }
    if seccomp.oci is not None:
        linux["seccomp"] = seccomp.oci
    return msgspec.json.encode(
        {
            "ociVersion": "1.0.2",
            "process": _process(container, user, capabilities, host, init=bool(init)),
            "root": {"path": rootfs, "readonly": container.read_only_rootfs},
            "hostname": container.hostname,
            "mounts": [*_SYSTEM_MOUNTS, *_binds(container, files, volumes, init)],
            "annotations": annotations,
            "linux": linux,
        }
    )


def _process(
    container: ContainerSpec, user: User, capabilities: frozenset[str], host: Host, *, init: bool
) -> dict[str, Any]:
    process = container.process
    granted = sorted(capabilities)
    return {
        "terminal": container.terminal,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": (INIT, "--", *process.args) if init else process.args,
        "env": environment(container, user),
        "cwd": process.cwd or "/",
        "capabilities": {"bounding": granted, "effective": granted, "permitted": granted},
        "rlimits": list(_rlimits(host)),
        "noNewPrivileges": True,
        "oomScoreAdj": max(0, host.oom_score),
    }


def environment(container: ContainerSpec, user: User) -> list[str]:
    """Docker's defaults, then what the container says; a later value replaces an earlier one in its place."""
    values = {"PATH": f"PATH={_PATH}", "HOSTNAME": f"HOSTNAME={container.hostname}"}
    if container.terminal:
        values["TERM"] = "TERM=xterm"
    for entry in container.process.env:
        values[entry.partition("=")[0]] = entry
    values.setdefault("HOME", f"HOME={user.home}")
    return list(values.values())


def _rlimits(host: Host) -> list[dict[str, Any]]:
    return [
        {"type": kind, "soft": limit, "hard": limit}
        for kind, limit in (("RLIMIT_NOFILE", host.open_files), ("RLIMIT_NPROC", host.processes))
        if limit >= 0
    ]


def _limits(resources: Resources, host: Host) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if resources.cpus is not None:
        limits["cpu"] = {"quota": quota(resources.cpus), "period": PERIOD_MICROSECONDS}
    if resources.memory_bytes is not None:
        limits["memory"] = {"limit": resources.memory_bytes}
        if host.counts_swap:
            limits["memory"]["swap"] = resources.memory_bytes  # memory and swap together
    if resources.pids is not None:
        limits["pids"] = {"limit": resources.pids}
    return limits


def _binds(
    container: ContainerSpec, files: Mapping[str, str], volumes: Sequence[Volume], init: str
) -> list[dict[str, Any]]:
    """Volumes from the outermost in, then our own files where no volume is in their place."""
    taken = {volume.destination for volume in volumes}
    binds = [
        _mount(volume.destination, "bind", volume.source, "rbind", "rprivate", "ro" if volume.read_only else "rw")
        for volume in sorted(volumes, key=lambda volume: volume.destination.count("/"))
    ]
    binds += [
        _mount(destination, "bind", source, "bind", "rprivate", "ro" if container.read_only_rootfs else "rw")
        for destination, source in files.items()
        if destination not in taken
    ]
    if init:
        binds.append(_mount(INIT, "bind", init, "bind", "rprivate", "ro"))
    return binds
