"""Reach into the network namespace of another process, and make one for a process to come.

A namespace belongs to a thread, and a socket keeps the one that it was made in: so a thread goes in, makes a socket
and comes back. Only a worker thread may do this, never the one of the event loop.

Source: setns(2).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from portlayer.substrates.linux import kernel


class HomeNamespace:
    """The network namespace of the thread that makes this: where it always comes back to."""

    def __init__(self) -> None:
        self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._identity = _identity(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def open(self, pid: int) -> int:
        """A descriptor of the network namespace of process *pid*.

        Raises ProcessLookupError where it is gone, or where *pid* is in our own namespace: then the number was given
        to another process since.
        """
        try:
            descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ProcessLookupError(f"process {pid} is gone") from None
        if _identity(descriptor) == self._identity:
            os.close(descriptor)
            raise ProcessLookupError(f"process {pid} is not in a network namespace of its own")
        return descriptor

    @contextmanager
    def make(self) -> Iterator[int]:
        """A descriptor of a new network namespace, in which the calling thread is within the block. The namespace ends
        with the last descriptor and process that has it, also where that is a kill of ours."""
        kernel.unshare(kernel.CLONE_NEWNET)
        try:
            yield os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            kernel.setns(self._descriptor, kernel.CLONE_NEWNET)

    @contextmanager
    def visit(self, descriptor: int) -> Iterator[None]:
        """The calling thread is in the namespace of *descriptor* within the block."""
        kernel.setns(descriptor, kernel.CLONE_NEWNET)
        try:
            yield
        finally:
            kernel.setns(self._descriptor, kernel.CLONE_NEWNET)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
