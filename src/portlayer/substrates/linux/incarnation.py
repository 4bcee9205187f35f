"""The directory of one incarnation: all that is known of it, for whichever process of ours comes next.

incarnations/<incarnation>/
├── config.json         OCI configuration; written first, and names the container
├── runtime/<incarnation>/   the runtime's own state; exec.fifo is the gate that the process waits at
├── pid                 of the first process, decimal
├── record              `Record`; it is there once the process is prepared
├── failure             `StartFailure`, where the program could not be executed after all
└── released            exec.fifo, moved here just before it is opened to let the process go
exits/<incarnation>     exit code, decimal; the shim renames it into place as the last thing it does
names/incarnations/<incarnation>   what it is called in which network, where it is in any (see names.records)
"""

# Paths are strings here: a Path would cost more than the system call that it is for.
# ruff: noqa: PTH102, PTH104, PTH108, PTH106, PTH110, PTH112
from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from portlayer.interfaces.substrate import StartFailure
from portlayer.model.base import Value
from portlayer.substrates.linux import files
from portlayer.substrates.linux.names import records
from portlayer.substrates.linux.paths import Paths, component
from portlayer.substrates.linux.process import Process
from portlayer.substrates.linux.spec import CONFIG, CONTAINER_ANNOTATION


class Record(Value):
    """A prepared process.

    runtime: name of the one that made it, for each has its own gate. init: the first process of the container; shim:
    what holds its streams. waiting: device and inode of the program that init runs while it waits; it runs another once
    it is released. stdin: whether it takes input. log_offset: where its output begins in the container's log.
    """

    container: str
    runtime: str
    init: Process
    shim: Process
    waiting: tuple[int, int]
    terminal: bool
    stdin: bool
    log_offset: int


class _Annotated(msgspec.Struct):
    annotations: dict[str, str]


_LONGEST_CODE = 16
_records = msgspec.json.Decoder(Record)
_failures = msgspec.json.Decoder(StartFailure)
_annotated = msgspec.json.Decoder(_Annotated)


class Incarnation:
    """Names and contents of the files above. Every reader takes a file that is not there as nothing known."""

    def __init__(self, paths: Paths, incarnation: str) -> None:
        self.id = incarnation
        self.directory = f"{paths.incarnations}/{component(incarnation)}"
        self.exits = str(paths.exits)
        self.exit_file = f"{paths.exits}/{incarnation}"
        self._names = str(paths.names)
        self.runtime_root = f"{self.directory}/runtime"
        self.released = f"{self.directory}/released"

    def file(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def exists(self) -> bool:
        return os.path.isdir(self.directory)

    def make(self, config: bytes) -> None:
        """The directory, with config.json, which names the container."""
        os.mkdir(self.directory, 0o700)
        self._write(CONFIG, config)

    def container(self) -> str | None:
        """The container that it is one of; None where the directory was hardly begun, and nothing was started."""
        try:
            return _annotated.decode(Path(self.file(CONFIG)).read_bytes()).annotations[CONTAINER_ANNOTATION]
        except (FileNotFoundError, msgspec.DecodeError, KeyError):
            return None

    def name(self, places: records.Incarnation) -> None:
        """It is found at *places*, and nowhere else."""
        if places:
            records.write(self._names, records.INCARNATIONS, self.id, records.incarnation_text(places))
        else:
            records.remove(self._names, records.INCARNATIONS, self.id)

    def save(self, record: Record) -> None:
        """Half of it is as good as none."""
        self._write("record", msgspec.json.encode(record))

    def record(self) -> Record | None:
        try:
            return _records.decode(files.content(self.file("record")))
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def save_start_failure(self, failure: StartFailure) -> None:
        """Half of it is as good as none."""
        self._write("failure", msgspec.json.encode(failure))

    def start_failure(self) -> StartFailure | None:
        """Why the program could not be executed, once that is known."""
        try:
            return _failures.decode(files.content(self.file("failure")))
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def mark_released(self) -> None:
        """From here on it counts as started; doing it again is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{self.runtime_root}/{self.id}/exec.fifo", self.released)

    def was_released(self) -> bool:
        return os.path.exists(self.released)

    def exit(self) -> tuple[int, int] | None:
        """Exit code and when it ended, in nanoseconds since the epoch."""
        try:
            descriptor = os.open(self.exit_file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return int(os.read(descriptor, _LONGEST_CODE)), os.fstat(descriptor).st_mtime_ns
        finally:
            os.close(descriptor)

    def replace_exit(self, code: int) -> None:
        """The exit code is *code* and not the one that is there."""
        Path(f"{self.exit_file}.new").write_text(str(code))
        os.rename(f"{self.exit_file}.new", self.exit_file)

    def delete(self) -> None:
        """All of it, the exit file last."""
        with contextlib.suppress(FileNotFoundError):
            _delete_tree(self.directory)
        records.remove(self._names, records.INCARNATIONS, self.id)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.exit_file)

    def _write(self, name: str, content: bytes) -> None:
        files.write(self.file(name), content, os.O_CREAT | os.O_TRUNC)


def _delete_tree(directory: str) -> None:
    """No one but us writes here, so unlike shutil's this need not watch out for links that change meanwhile."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _delete_tree(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(directory)
