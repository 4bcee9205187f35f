"""What happens in the spawner's thread for one start: resolve the user, write the bundle, start the shim."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import NamedTuple

from portlayer.model.errors import InvalidArgument, Unsupported
from portlayer.model.execution import ContainerSpec
from portlayer.model.storage import MountSpec
from portlayer.substrates.linux import capabilities, disks, files, hostfiles, kernel, shim, users
from portlayer.substrates.linux.cgroups import Cgroups
from portlayer.substrates.linux.incarnation import Incarnation
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.runtime import Runtime
from portlayer.substrates.linux.spawn import spawn
from portlayer.substrates.linux.spec import Host, Volume, build

# Those that need no shared libraries, which an image may not have; by package: docker.io or tini, catatonit, podman.
_INITS = ("/usr/bin/docker-init", "/usr/bin/tini-static", "/usr/bin/catatonit", "/usr/libexec/podman/catatonit")
_OPEN_FILES = 1_048_576


class Launched(NamedTuple):
    """shim: a child of ours. report: the read end of its report. log_offset: where the output of this start begins."""

    shim: int
    report: int
    log_offset: int

    def close(self) -> None:
        """Our descriptor."""
        os.close(self.report)

    def abandon(self) -> None:
        """End the shim, with the runtime where that is still at work."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.shim, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.shim, 0)


class Launcher:
    """Everything that stays the same from one start to the next."""

    def __init__(self, paths: Paths, cgroups: Cgroups) -> None:
        self._paths = paths
        self._cgroups = cgroups
        self._host = host_limits(cgroups)
        self._held: dict[str, list[int]] = {}

    def launch(self, container: ContainerSpec, incarnation: str, runtime: Runtime, network: str) -> Launched:
        """Only in the spawner's thread. network: see `spec.build`.

        Raises InvalidArgument, Unsupported, and OSError where the host fails.
        """
        place = Incarnation(self._paths, incarnation)
        rootfs = str(self._paths.rootfs(container.id))
        user = users.resolve(rootfs, container.process.user)
        if container.process.cwd not in {"", "/"}:
            users.make_directory(rootfs, container.process.cwd, user)
        granted = capabilities.resolve(container.process.capabilities, capabilities.of_host())
        config = build(
            *(container, user, granted),
            host=self._host,
            rootfs=rootfs,
            files=self._files(container, incarnation),
            cgroup=self._cgroups.path(incarnation),
            seccomp=runtime.filter(granted),
            volumes=[self._volume(place, number, mount) for number, mount in enumerate(container.mounts.values())],
            init=_init() if container.process.init else "",
            network=network,
        )
        place.make(config)
        self._write_files(container, place)
        place.name(hostfiles.places(container))
        self._mount_disks(place, container)
        self._bind_subpaths(place, container)
        return self._start(container, place, runtime)

    def _files(self, container: ContainerSpec, incarnation: str) -> dict[str, str]:
        """Where they are on the host, by where they are in the container."""
        return {f"/etc/{name}": str(self._paths.host_file(container.id, incarnation, name)) for name in hostfiles.NAMES}

    def _write_files(self, container: ContainerSpec, place: Incarnation) -> None:
        """Those of incarnations that are gone go, too: they may be large by now."""
        directory = self._paths.container(container.id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in directory.iterdir():
            name, _, incarnation = path.name.rpartition(".")
            if name in hostfiles.NAMES and not Incarnation(self._paths, incarnation).exists():
                path.unlink(missing_ok=True)
        contents = {
            hostfiles.HOSTS: hostfiles.hosts_file(container),
            hostfiles.RESOLV: hostfiles.resolv_file(container, hostfiles.host_resolv_conf()),
            hostfiles.HOSTNAME: f"{container.hostname}\n",
        }
        for name, content in contents.items():
            path = self._paths.host_file(container.id, place.id, name)
            files.write(str(path), content.encode(), os.O_CREAT | os.O_TRUNC)

    def _start(self, container: ContainerSpec, place: Incarnation, runtime: Runtime) -> Launched:
        log = self._paths.log(container.id)
        try:
            log_offset = log.stat().st_size
        except FileNotFoundError:
            log_offset = 0
        command = shim.command(runtime, place, log, stdin=container.stdin, terminal=container.terminal)
        read, write = os.pipe()
        try:
            pid = spawn(command, shim.ENVIRONMENT, directory=place.directory, inherited=write)
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        return Launched(pid, read, log_offset)

    def _volume(self, place: Incarnation, number: int, mount: MountSpec) -> Volume:
        source = f"{place.directory}/volumes/{number}" if mount.subpath else self._content(place, mount)
        return Volume(source=source, destination=mount.destination, read_only=mount.read_only)

    def _content(self, place: Incarnation, mount: MountSpec) -> str:
        """The directory of the whole volume; that of a disk is there in the spawner's namespace alone."""
        if mount.capacity_bytes is None:
            return str(self._paths.volume(mount.volume))
        return f"{place.directory}/disks/{mount.volume}/{disks.CONTENT}"

    def _mount_disks(self, place: Incarnation, container: ContainerSpec) -> None:
        wanted = {mount.volume for mount in container.mounts.values() if mount.capacity_bytes is not None}
        for volume in wanted:
            held = disks.mount(self._paths.disk(volume), Path(place.directory, "disks", volume))
            self._held.setdefault(place.id, []).append(held)

    def _bind_subpaths(self, place: Incarnation, container: ContainerSpec) -> None:
        """Bring each subpath to a path that nothing in the volume can move or replace meanwhile."""
        for number, mount in enumerate(container.mounts.values()):
            if mount.subpath:
                target = Path(place.directory, "volumes", str(number))
                descriptor = self._open_subpath(place, mount)
                try:
                    if Path(f"/proc/self/fd/{descriptor}").is_dir():
                        target.mkdir(parents=True)
                    else:
                        target.parent.mkdir(exist_ok=True)
                        target.touch()
                    kernel.mount(f"/proc/self/fd/{descriptor}", str(target), kernel.MS_BIND | kernel.MS_REC)
                finally:
                    os.close(descriptor)

    def _open_subpath(self, place: Incarnation, mount: MountSpec) -> int:
        volume = os.open(self._content(place, mount), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return kernel.openat2(volume, mount.subpath, os.O_PATH, kernel.RESOLVE_BENEATH)
        except OSError as error:
            raise InvalidArgument(
                f"Volume {mount.volume_name} has no {mount.subpath[:200]!r} in it ({error.strerror}); "
                "make it first, or choose another subpath.",
                pointer="/subpath",
            ) from error
        finally:
            os.close(volume)

    def release_mounts(self, incarnation: str) -> None:
        """The container has its own mounts by now. Only in the spawner's thread."""
        for kind in ("volumes", "disks"):
            directory = Path(self._paths.incarnation(incarnation), kind)
            if directory.is_dir():
                for target in directory.iterdir():
                    with contextlib.suppress(OSError):
                        kernel.umount(str(target), kernel.MNT_DETACH)

    def has_disks(self, incarnation: str) -> bool:
        """Whether `release_disks` has anything to do."""
        return incarnation in self._held

    def release_disks(self, incarnation: str) -> None:
        """Let go of the disks of an incarnation that has ended, which may take as long as writing does."""
        for held in self._held.pop(incarnation, ()):
            os.close(held)

    def close(self) -> None:
        """Let go of all disks; containers keep their own mounts."""
        for incarnation in list(self._held):
            self.release_disks(incarnation)


def host_limits(cgroups: Cgroups) -> Host:
    """Of this process, which nothing that it starts can exceed."""
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return Host(
        open_files=_OPEN_FILES if open_files == resource.RLIM_INFINITY else min(open_files, _OPEN_FILES),
        processes=resource.getrlimit(resource.RLIMIT_NPROC)[1],
        oom_score=int(Path("/proc/self/oom_score_adj").read_text()),
        counts_swap=cgroups.counts_swap,
    )


def find_init() -> str:
    """The program that `init` puts first in a container; "" where this host has none."""
    return next((os.path.realpath(path) for path in _INITS if os.access(path, os.X_OK)), "")


def _init() -> str:
    found = find_init()
    if not found:
        raise Unsupported(
            "This host has no init for containers; install catatonit or tini, or leave `init` out.",
            option="init",
            pointer="/process/init",
        )
    return found
