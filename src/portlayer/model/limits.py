"""What values may be: pure checks that raise InvalidArgument with a pointer."""

from __future__ import annotations

import posixpath
import re

from portlayer.model.capabilities import NAMES, full_name
from portlayer.model.errors import InvalidArgument
from portlayer.model.execution import ProcessRequest, Resources, RestartPolicy
from portlayer.model.names import is_id

MIN_MEMORY_BYTES = 6 * 1024 * 1024
MAX_MEMORY_BYTES = 1 << 50
MIN_CPUS, MAX_CPUS = 0.01, 4096.0
MAX_PIDS = 4_194_304
MIN_CAPACITY_BYTES, MAX_CAPACITY_BYTES = 16 << 20, 8 << 40
MAX_TIMEOUT_SECONDS = 366 * 86400.0
MAX_ALIASES = 32
MAX_ALIAS_CHARACTERS = 128
MAX_ARGUMENT_BYTES = 128 * 1024
_HOSTNAME = re.compile(r"(?=.{1,64}$)[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*")

_ALIAS_LABEL = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?")


def check_resources(resources: Resources) -> Resources:
    """*resources* themselves. Source of the least memory: Docker's own limit of 6 MiB."""
    cpus, memory, pids = resources.cpus, resources.memory_bytes, resources.pids
    if cpus is not None and not MIN_CPUS <= cpus <= MAX_CPUS:
        raise InvalidArgument(f"cpus must be between {MIN_CPUS} and {MAX_CPUS:.0f}.", pointer="/resources/cpus")
    if memory is not None and not MIN_MEMORY_BYTES <= memory <= MAX_MEMORY_BYTES:
        raise InvalidArgument(
            f"memoryBytes must be between {MIN_MEMORY_BYTES} (6 MiB) and {MAX_MEMORY_BYTES}.",
            pointer="/resources/memoryBytes",
        )
    if pids is not None and not 1 <= pids <= MAX_PIDS:
        raise InvalidArgument(f"pids must be between 1 and {MAX_PIDS}.", pointer="/resources/pids")
    return resources


def check_capacity(capacity_bytes: int) -> int:
    """*capacity_bytes* itself. Source of the least: below it a file system would keep little but its own order."""
    if not MIN_CAPACITY_BYTES <= capacity_bytes <= MAX_CAPACITY_BYTES:
        raise InvalidArgument(
            f"capacityBytes must be between {MIN_CAPACITY_BYTES} (16 MiB) and {MAX_CAPACITY_BYTES} (8 TiB).",
            pointer="/capacityBytes",
        )
    return capacity_bytes


def check_timeout(seconds: float | None, pointer: str = "/timeoutSeconds") -> float | None:
    """*seconds* itself where it is None or between 0 and a year."""
    if seconds is not None and not 0 <= seconds <= MAX_TIMEOUT_SECONDS:
        raise InvalidArgument("A time must be between 0 seconds and a year.", pointer=pointer)
    return seconds


def check_restart_policy(policy: RestartPolicy, *, remove_on_exit: bool) -> RestartPolicy:
    """*policy* itself where it makes sense."""
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidArgument("Only on-failure counts its retries.", pointer="/restartPolicy/maximumRetryCount")
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("Retries cannot be negative.", pointer="/restartPolicy/maximumRetryCount")
    if remove_on_exit and policy.name != "no":
        raise InvalidArgument("What is removed on exit cannot be restarted; choose one.", pointer="/restartPolicy/name")
    return policy


def check_hostname(hostname: str) -> str:
    """*hostname* itself. Source: RFC 1123, and Linux's limit of 64."""
    if _HOSTNAME.fullmatch(hostname) is None:
        raise InvalidArgument(f"{hostname[:80]!r} is no host name.", pointer="/hostname")
    return hostname


def check_aliases(aliases: tuple[str, ...], pointer: str = "/aliases") -> tuple[str, ...]:
    """*aliases* themselves where each is a name that DNS can ask for, and none comes twice; case does not tell them
    apart. Source: RFC 1035, section 2.3.1; `_` is in use everywhere."""
    if len(aliases) > MAX_ALIASES:
        raise InvalidArgument(f"{len(aliases)} aliases are too many; {MAX_ALIASES} is the most.", pointer=pointer)
    seen: set[str] = set()
    for index, alias in enumerate(aliases):
        labels = alias.split(".")
        whole = len(alias) <= MAX_ALIAS_CHARACTERS and all(_ALIAS_LABEL.fullmatch(label) for label in labels)
        if not whole or is_id(alias) or labels[-1].isdigit():
            raise InvalidArgument(
                f"{alias[:140]!r} is no alias: use labels of up to 63 letters, digits, '-' or '_', joined by dots, "
                f"{MAX_ALIAS_CHARACTERS} characters at most; the last label is no number.",
                pointer=f"{pointer}/{index}",
            )
        if alias.lower() in seen:
            raise InvalidArgument(f"{alias!r} is there twice; case makes no difference.", pointer=f"{pointer}/{index}")
        seen.add(alias.lower())
    return aliases


def check_path(path: str, pointer: str) -> str:
    """*path*, normalized, where it is absolute, has no NUL and is not the root."""
    normal = posixpath.normpath("/" + path.lstrip("/"))
    if not path.startswith("/") or "\x00" in path or len(path) > 4000 or normal == "/":
        raise InvalidArgument(f"{path[:80]!r} must be an absolute path below /.", pointer=pointer)
    return normal


def check_subpath(path: str, pointer: str = "/subpath") -> str:
    """*path* where it is relative and stays below the volume."""
    if path.startswith("/") or "\x00" in path or ".." in path.split("/") or len(path) > 4000:
        raise InvalidArgument(f"{path[:80]!r} must be a relative path without '..'.", pointer=pointer)
    return "" if path in ("", ".") else posixpath.normpath(path)


def check_process(process: ProcessRequest) -> None:
    """Arguments, environment, directory, user and capabilities are what the kernel can take."""
    for field, values in (("args", process.args or ()), ("entrypoint", process.entrypoint or ()), ("env", process.env)):
        for index, value in enumerate(values):
            if "\x00" in value or len(value) > MAX_ARGUMENT_BYTES:
                raise InvalidArgument(
                    "No NUL, and 128 KiB at most, in an argument or variable.", pointer=f"/process/{field}/{index}"
                )
    for index, variable in enumerate(process.env):
        if "=" not in variable or variable.startswith("="):
            raise InvalidArgument("A variable is written NAME=value.", pointer=f"/process/env/{index}")
    if process.cwd is not None and (not process.cwd.startswith("/") or "\x00" in process.cwd):
        raise InvalidArgument("cwd must be an absolute path.", pointer="/process/cwd")
    if (
        process.user is not None
        and re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]*)?", process.user) is None
    ):
        raise InvalidArgument("user is written name|uid[:group|gid].", pointer="/process/user")
    for field, values in (("add", process.capabilities.add), ("drop", process.capabilities.drop)):
        for index, value in enumerate(values):
            if full_name(value) not in ("ALL", *NAMES):
                raise InvalidArgument(
                    f"{value[:100]!r} is no capability; see capabilities(7).",
                    pointer=f"/process/capabilities/{field}/{index}",
                )
