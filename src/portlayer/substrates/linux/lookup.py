"""Whether the program of a container can be executed, looked up as execvp(3) does, in the container's own root.

For containers with an init, which is what the runtime finds and executes: it says nothing of the program. And where a
runtime that could not execute the program says too little of why.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from portlayer.interfaces.substrate import StartFailure
from portlayer.model.execution import ContainerSpec, replace
from portlayer.substrates.linux import kernel
from portlayer.substrates.linux.runtime import start_failure
from portlayer.substrates.linux.spec import environment
from portlayer.substrates.linux.users import User

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})


def explained(failure: StartFailure, container: ContainerSpec, user: User, directory: str) -> StartFailure:
    """*failure*, which a runtime has told, with the name of the program and why it is not to be executed. directory:
    the root filesystem, where nothing else is mounted yet: what is wrong in a volume, the runtime alone has seen."""
    if failure.reason.startswith("chdir"):
        return failure
    found = check_program(container, user, directory)
    if found is not None and found.exit_code == failure.exit_code:
        return found
    name = container.process.args[0]
    return failure if name in failure.reason else replace(failure, reason=f"{name}: {failure.reason}")


def check_program(container: ContainerSpec, user: User, directory: str) -> StartFailure | None:
    """Why the program of *container*, whose root is *directory*, cannot be executed; None where it can, or where only
    trying tells."""
    name = container.process.args[0]
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
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
    lacking = found == errno.ENOENT and "/" not in name
    return start_failure(f"{name}: {'not found in $PATH' if lacking else os.strerror(found)}")


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
    if stat.S_ISDIR(status.st_mode):
        return errno.EISDIR
    return 0 if stat.S_ISREG(status.st_mode) and status.st_mode & _bits(status, user) else errno.EACCES


def _bits(status: os.stat_result, user: User) -> int:
    if user.uid == 0:
        return 0o111
    if user.uid == status.st_uid:
        return 0o100
    return 0o010 if status.st_gid in (user.gid, *user.groups) else 0o001
