"""What the Linux substrate needs of a host, looked at without changing anything: `portlayer doctor`."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from portlayer.model.base import Value
from portlayer.substrates.linux import cgroups, disks, shim, sysctls
from portlayer.substrates.linux.launch import find_init
from portlayer.substrates.linux.runtime import RUNTIMES, find_program

_OLDEST_KERNEL = (5, 6)  # openat2(2) and pidfd_getfd(2)
_CONTROLLERS = {"v1": ("cpu", "devices", "freezer", "memory", "pids"), "v2": ("cpu", "memory", "pids")}
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_SECONDS = 10.0


class Check(Value):
    """One thing that a host has or lacks. ok: it is there; else `found` says what is instead, and `remedy` what to do.

    needed: without it no container runs; the others only add something.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def checks() -> list[Check]:
    """All of them, in the order in which they are worth mending."""
    return [*_kernel(), *_groups(), *_programs(), *_libraries(), _forwarding(), _ipv6()]


def _kernel() -> Iterator[Check]:
    root = os.geteuid() == 0
    yield Check(name="root", ok=root, found=f"uid {os.geteuid()}", remedy="" if root else "run it as root")
    release = platform.release()
    recent = tuple(int(part) for part in re.findall(r"\d+", release)[:2]) >= _OLDEST_KERNEL
    oldest = ".".join(map(str, _OLDEST_KERNEL))
    yield Check(name="kernel", ok=recent, found=release, remedy="" if recent else f"use Linux {oldest} or later")
    overlay = "\toverlay\n" in Path("/proc/filesystems").read_text()
    yield Check(
        name="overlayfs",
        ok=overlay,
        found="in the kernel" if overlay else "not in /proc/filesystems",
        remedy="" if overlay else "modprobe overlay",
    )
    namespaces = [
        name for name in ("pid", "net", "ipc", "uts", "mnt", "cgroup") if not Path("/proc/self/ns", name).exists()
    ]
    yield Check(
        name="namespaces",
        ok=not namespaces,
        found=f"no {', '.join(namespaces)}" if namespaces else "all",
        remedy="use a kernel that has them" if namespaces else "",
    )
    seccomp = Path("/proc/sys/kernel/seccomp/actions_avail").exists()
    yield Check(
        name="seccomp",
        ok=seccomp,
        found="in the kernel" if seccomp else "not in the kernel",
        remedy="" if seccomp else "use a kernel with CONFIG_SECCOMP_FILTER",
    )


def _groups(root: Path = cgroups.ROOT) -> Iterator[Check]:
    unified = root / "cgroup.controllers"
    layout = "v2" if unified.exists() else "v1"
    there = unified.read_text().split() if unified.exists() else [path.name for path in root.glob("*")]
    missing = [name for name in _CONTROLLERS[layout] if name not in there]
    yield Check(
        name="cgroups",
        ok=not missing,
        found=f"{layout} without {', '.join(missing)}" if missing else layout,
        remedy=f"mount cgroup2 at {root}, or enable the controllers" if missing else "",
    )


def _programs() -> Iterator[Check]:
    runtimes = [runtime.name for runtime in RUNTIMES if find_program(runtime.name)]
    yield Check(
        name="OCI runtime",
        ok=bool(runtimes),
        found=", ".join(_version(name) for name in runtimes) or "none",
        remedy="" if runtimes else "apt install crun",
    )
    if "crun" not in runtimes:
        yield Check(
            name="crun", ok=False, found="none", remedy="apt install crun: it starts in half of the time", needed=False
        )
    there = shim.is_there()
    yield Check(name="shim", ok=there, found=shim.PROGRAM if there else "none", remedy="" if there else shim.REMEDY)
    lack = disks.lack()
    yield Check(
        name="disks",
        ok=not lack,
        found=lack.partition(": ")[0] or f"{disks.MKFS} and loop devices",
        remedy=lack and f"{lack.partition(': ')[2]}, for volumes with a capacity",
        needed=False,
    )
    init = find_init()
    yield Check(
        name="init",
        ok=bool(init),
        found=init or "none",
        remedy="" if init else "apt install catatonit or tini, for containers that ask for `init`",
        needed=False,
    )


def _libraries() -> Iterator[Check]:
    yield _library("nftables", "libnftables.so.1", "apt install libnftables1", needed=True)
    yield _library("libseccomp", "libseccomp.so.2", "apt install libseccomp2: filters are compiled once", needed=False)


def _library(name: str, file: str, remedy: str, *, needed: bool) -> Check:
    try:
        ctypes.CDLL(file)
    except OSError as error:
        return Check(name=name, ok=False, found=str(error), remedy=remedy, needed=needed)
    return Check(name=name, ok=True, found=file, needed=needed)


def _forwarding() -> Check:
    on = _FORWARDING.read_text().strip() == "1"
    can = os.access(_FORWARDING, os.W_OK)
    return Check(
        name="forwarding",
        ok=on or can,
        found="on" if on else "off, and switched on with the first network" if can else "off",
        remedy="" if on or can else "sysctl net.ipv4.ip_forward=1",
    )


def _ipv6() -> Check:
    there = sysctls.has_ipv6()
    return Check(
        name="IPv6",
        ok=there,
        found="in the kernel" if there else "off in the kernel: networks with IPv6 are refused",
        remedy="" if there else "boot without ipv6.disable=1, or modprobe ipv6",
        needed=False,
    )


def _version(program: str) -> str:
    """The first number with dots that it says of itself."""
    said = subprocess.run(
        [find_program(program), "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    number = re.search(r"\d+(\.\d+)+", said.stdout)
    return f"{program} {number[0]}" if number else program
