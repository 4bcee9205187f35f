"""Whether the program of a container can be executed, looked up as execvp(3) does, in the container's own root.

Only for containers with an init: that is what the runtime finds and executes, and it says nothing of the program.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from portlayer.interfaces.substrate import StartFailure
from portlayer.model.execution import ContainerSpec
from portlayer.substrates.linux import kernel
from portlayer.substrates.linux.runtime import start_failure
from portlayer.substrates.linux.spec import environment
from portlayer.substrates.linux.users import User

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


def check_program(container: ContainerSpec, user: User, pid: int) -> StartFailure | None:
    """Why the program of *container*, whose first process is *pid*, cannot be executed; None where it can, or where
    only trying tells."""
    name = container.process.args[0]
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = errno.ENOENT
        for place in _places(name, container, user):
            problem = _problem(root, place, user)
            if problem not in _ABSENT:
                found = problem
            if not problem:
                return None
    finally:
        os.close(root)
    return start_failure(f"{name}: {os.strerror(found)}")


def _places(name: str, container: ContainerSpec, user: User) -> list[str]:
    cwd = container.process.cwd or "/"
    if "/" in name:
        return [posixpath.join(cwd, name)]
    variables = dict(variable.partition("=")[::2] for variable in environment(container, user))
    return [posixpath.join(cwd, directory, name) for directory in variables["PATH"].split(":")]


def _problem(root: int, place: str, user: User) -> int:
    """The errno of executing what is at *place*; 0 for none."""
    try:
        program = kernel.openat2(root, place, os.O_PATH)
    except OSError as error:
        return error.errno if error.errno in _ABSENT else 0
    try:
        status = os.fstat(program)
    finally:
        os.close(program)
    return 0 if stat.S_ISREG(status.st_mode) and status.st_mode & _bits(status, user) else errno.EACCES


def _bits(status: os.stat_result, user: User) -> int:
    if user.uid == 0:
        return 0o111
    if user.uid == status.st_uid:
        return 0o100
    return 0o010 if status.st_gid in (user.gid, *user.groups) else 0o001
