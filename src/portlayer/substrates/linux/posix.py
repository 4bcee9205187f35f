"""posix_spawn(3) by way of the C library: Python's own holds the interpreter's lock until the child runs its program, a
millisecond or more in which nothing else of ours gets on.

Source: posix_spawn(3), and glibc's spawn.h for the flags. The structures are opaque; the buffers are larger than those
of any C library.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence

_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80
_OPAQUE_BYTES = 1024
_waits = ctypes.CDLL(None)
_quick = ctypes.PyDLL(None)  # keeps the interpreter's lock, which calls that only fill structures need not let go of
_Opaque = ctypes.c_uint64 * (_OPAQUE_BYTES // 8)


def posix_spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    opened: Sequence[tuple[int, str, int]],
    copied: Sequence[tuple[int, int]],
    defaults: Sequence[int],
) -> int:
    """Start *command*, whose first word is a path, in a session of its own; its pid. Raises OSError.

    First each (descriptor, path, flags) of *opened* is opened, then each (from, to) of *copied* is copied, in order.
    defaults: signals that get their default action again; none is blocked.
    """
    actions, attributes = _Opaque(), _Opaque()
    _quick.posix_spawn_file_actions_init(actions)
    _quick.posix_spawnattr_init(attributes)
    try:
        for descriptor, path, flags in opened:
            _checked(_quick.posix_spawn_file_actions_addopen(actions, descriptor, os.fsencode(path), flags, 0))
        for source, target in copied:
            _checked(_quick.posix_spawn_file_actions_adddup2(actions, source, target))
        _set_signals(attributes, defaults)
        pid = ctypes.c_int()
        arguments = _strings(command)
        variables = _strings([f"{name}={value}" for name, value in environment.items()])
        program = os.fsencode(command[0])
        _checked(_waits.posix_spawn(ctypes.byref(pid), program, actions, attributes, arguments, variables), command[0])
        return pid.value
    finally:
        _quick.posix_spawnattr_destroy(attributes)
        _quick.posix_spawn_file_actions_destroy(actions)


def _set_signals(attributes: ctypes.Array[ctypes.c_uint64], defaults: Sequence[int]) -> None:
    signals = _Opaque()
    _quick.sigemptyset(signals)
    _quick.posix_spawnattr_setsigmask(attributes, signals)
    for number in defaults:
        _quick.sigaddset(signals, int(number))
    _quick.posix_spawnattr_setsigdefault(attributes, signals)
    _quick.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF | _SETSIGMASK | _SETSID))


def _strings(words: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(words) + 1))(*(os.fsencode(word) for word in words), None)


def _checked(error: int, path: str | None = None) -> None:
    if error != 0:
        raise OSError(error, os.strerror(error), path)
