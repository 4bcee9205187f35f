"""The Linux substrate's storage beside what the conformance suite asks: looked at from the host, as root."""

from __future__ import annotations

import asyncio
import ctypes
import os
import posixpath
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import builders
import hoststate
import images
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import Entry, directory, file, hard_link, symlink

from portlayer.components.archives import open_layer, read_archive
from portlayer.model.errors import (
    InvalidArgument,
    NotFound,
    PortlayerError,
    ResourceExhausted,
    SubstrateFailed,
    Unavailable,
    Unsupported,
)
from portlayer.model.execution import replace
from portlayer.substrates.linux import disks, mounts
from portlayer.substrates.linux.host import checks
from portlayer.substrates.linux.live import make_directories
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.storage import LinuxStorage

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)
"""security.capability of a file with cap_net_bind_service=ep, revision 2; see capabilities(7)."""


SKELETON = {"dev", "etc", "proc", "sys"}


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run", instance=os.urandom(4).hex())
    yield paths
    for mount in mounts.mounts_under(tmp_path):
        mounts.detach(mount.target)
    shutil.rmtree(tmp_path)


@pytest.fixture
async def storage(paths: Paths) -> AsyncIterator[LinuxStorage]:
    make_directories(paths)
    storage = LinuxStorage(paths)
    await storage.start()
    yield storage
    await storage.close()


async def put(storage: LinuxStorage, *entries: Entry) -> str:
    tar = images.tar(entries)
    await storage.put_layer(images.digest(tar), images.stream(tar))
    return images.digest(tar)


async def mounted(storage: LinuxStorage, paths: Paths, *layers: str) -> Path:
    """The root filesystem of a new container over *layers*."""
    spec = builders.container(layers=layers)
    await storage.make_rootfs(spec)
    return paths.rootfs(spec.id)


def entries_of(area: Path) -> list[str]:
    """What is in *area*, without what the skeleton gives to every root filesystem."""
    return sorted(path.name for path in area.iterdir() if path.name not in SKELETON)


async def test_trees_of_containers_are_spread_where_the_file_system_can(storage: LinuxStorage, paths: Paths) -> None:
    """Else ext4 looks for room among all that was lately removed, and a busy host slows down with every life."""
    asked = await asyncio.create_subprocess_exec("lsattr", "-d", paths.containers, stdout=-1, stderr=-1)
    told, _ = await asked.communicate()
    if asked.returncode:
        pytest.skip("the file system has no such attributes")
    assert b"T" in told.split()[0]


async def test_everything_special_in_a_tree_is_kept(storage: LinuxStorage, paths: Paths) -> None:
    long = "/".join(["d" * 90] * 4) + "/" + "f" * 200
    layer = await put(
        storage,
        directory("./", mode=0o751, uid=3, gid=4, mtime=1_000_000_000.25),
        directory("sticky", mode=0o3777, uid=1, gid=2, mtime=86_400),
        file("sticky/setuid", b"#!", mode=0o6755, uid=3_000_000, gid=4_000_000, mtime=-1.5),
        file("capable", b"x", mode=0o755, uid=5, xattrs={"security.capability": CAPABILITY.decode("latin-1")}),
        file("labelled", b"x", xattrs={"user.note": "hello", "trusted.note": "root"}),
        directory("acl", xattrs={"user.note": "directory"}),
        hard_link("hard", "sticky/setuid"),
        symlink("soft", "../../outside", uid=9, gid=9, mtime=77),
        Entry("fifo", kind=tarfile.FIFOTYPE, mode=0o640),
        Entry("null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
        Entry("disk", kind=tarfile.BLKTYPE, device=(8, 1), mode=0o660, gid=6),
        file(long, b"long"),
        file("empty"),
    )
    root = await mounted(storage, paths, layer)

    def status(name: str) -> os.stat_result:
        return os.lstat(root / name)

    assert (stat.S_IMODE(status("").st_mode), status("").st_uid, status("").st_gid) == (0o751, 3, 4)
    assert stat.S_IMODE(status("sticky").st_mode) == 0o3777
    assert (status("sticky").st_uid, status("sticky").st_gid, status("sticky").st_mtime) == (1, 2, 86_400)
    setuid = status("sticky/setuid")
    assert (stat.S_IMODE(setuid.st_mode), setuid.st_uid, setuid.st_gid) == (0o6755, 3_000_000, 4_000_000)
    assert (setuid.st_mtime_ns, setuid.st_nlink, setuid.st_ino) == (-1_500_000_000, 2, status("hard").st_ino)
    assert str((root / "soft").readlink()) == "../../outside"
    assert (status("soft").st_uid, status("soft").st_mtime) == (9, 77)
    assert stat.S_ISFIFO(status("fifo").st_mode)
    assert (stat.S_ISCHR(status("null").st_mode), status("null").st_rdev) == (True, os.makedev(1, 3))
    assert (stat.S_ISBLK(status("disk").st_mode), status("disk").st_rdev) == (True, os.makedev(8, 1))
    assert os.getxattr(root / "labelled", "user.note") == b"hello"
    assert os.getxattr(root / "labelled", "trusted.note") == b"root"
    assert os.getxattr(root / "acl", "user.note") == b"directory"
    assert os.getxattr(root / "capable", "security.capability") == CAPABILITY
    assert (root / long).read_bytes() == b"long"
    assert (root / "empty").read_bytes() == b""


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_gnu_tar_and_its_formats_are_read(
    storage: LinuxStorage, paths: Paths, tmp_path: Path, format_: int
) -> None:
    source = tmp_path / "source"
    deep = source / ("n" * 80) / ("m" * 60)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"content")
    name = {tarfile.USTAR_FORMAT: "ustar", tarfile.GNU_FORMAT: "gnu", tarfile.PAX_FORMAT: "pax"}[format_]
    command = ["tar", "-c", f"--format={name}", "-C", str(source), "."]
    made = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    layer = images.digest(made.stdout)
    await storage.put_layer(layer, images.stream(made.stdout, 700))
    root = await mounted(storage, paths, layer)
    assert (root / deep.relative_to(source) / "file").read_bytes() == b"content"
    assert (root / deep.relative_to(source) / "file").stat().st_mtime_ns // 10**9 == int(
        (deep / "file").stat().st_mtime
    )


async def test_whiteouts_work_over_three_layers(storage: LinuxStorage, paths: Paths) -> None:
    bottom = await put(
        storage,
        directory("a"),
        file("a/one", b"1"),
        file("a/two", b"1"),
        directory("b"),
        file("b/old", b"1"),
        file("c", b"1"),
    )
    middle = await put(storage, directory("a"), file("a/.wh.one"), file(".wh.b"), file(".wh.c"))
    top = await put(
        storage, directory("a"), file("a/.wh..wh..opq"), file("a/three", b"3"), directory("b"), file("b/new", b"3")
    )
    assert entries_of(await mounted(storage, paths, bottom, middle)) == ["a"]
    assert entries_of((await mounted(storage, paths, bottom, middle)) / "a") == ["two"]
    root = await mounted(storage, paths, bottom, middle, top)
    assert [entries_of(root), entries_of(root / "a"), entries_of(root / "b")] == [["a", "b"], ["three"], ["new"]]
    assert entries_of((await mounted(storage, paths, bottom, top)) / "b") == ["new", "old"]


@pytest.mark.parametrize("order", [0, 1])
async def test_a_whiteout_hides_only_what_is_below_its_layer(storage: LinuxStorage, paths: Paths, order: int) -> None:
    bottom = await put(storage, directory("d"), file("d/old"), file("f", b"old"))
    own = [[directory("d"), file("d/new"), file("f", b"new")], [file(".wh.d"), file(".wh.f")]]
    top = await put(storage, *own[order], *own[1 - order])
    root = await mounted(storage, paths, bottom, top)
    assert entries_of(root / "d") == ["new"]
    assert (root / "f").read_bytes() == b"new"


async def test_an_opaque_root_hides_everything_below(storage: LinuxStorage, paths: Paths) -> None:
    bottom, top = await put(storage, file("old")), await put(storage, file(".wh..wh..opq"), file("new"))
    assert entries_of(await mounted(storage, paths, bottom, top)) == ["new"]


async def test_an_image_may_have_120_layers_and_one_of_them_twice(storage: LinuxStorage, paths: Paths) -> None:
    layers = [await put(storage, file(f"f{number:03}"), file("last", str(number).encode())) for number in range(120)]
    root = await mounted(storage, paths, *layers, layers[5])
    assert entries_of(root) == [*(f"f{number:03}" for number in range(120)), "last"]
    assert (root / "last").read_bytes() == b"5"


async def test_directories_with_odd_names_are_fine(tmp_path: Path) -> None:
    odd = tmp_path / 'a:b,c\\d "e" f'
    paths = Paths(state=odd / "state", run=odd / "run", instance="0" * 8)
    storage = LinuxStorage(paths)
    await storage.start()
    root = await mounted(storage, paths, await put(storage, file("f", b"x")))
    assert (root / "f").read_bytes() == b"x"
    assert [line.split(" (")[0] for line in await storage.leftovers()] == [f"mount {root}"]
    await storage.purge()
    await storage.close()
    shutil.rmtree(tmp_path)


LINKED = [directory("d"), symlink("d/up", "../.."), symlink("out", "/tmp"), symlink("in", "d")]
HOSTILE: dict[str, list[Entry]] = {
    "name that climbs": [file("d/../../x")],
    "absolute name that climbs": [file("/../x")],
    "hard link that climbs": [hard_link("h", "d/../../etc/passwd")],
    "hard link to a file of the host": [hard_link("h", "/etc/passwd")],
    "hard link to a file of the host through a link": [symlink("l", "/etc"), hard_link("h", "l/passwd")],
    "hard link to a directory": [*LINKED, hard_link("h", "d")],
    "hard link to the root": [*LINKED, hard_link("h", ".")],
    "links without end": [symlink("a", "b"), symlink("b", "a"), file("a/x")],
    "more links than the kernel follows": [*(symlink(f"l{n}", f"l{n + 1}") for n in range(41)), file("l0/x")],
    "too deep through links": [symlink("l", "d/" * 100), file("l/" + "d/" * 29 + "f")],
    "whiteout of dots": [file(".wh...")],
    "whiteout of nothing": [file(".wh.")],
    "below a file": [file("f"), file("f/x")],
    "root is a file": [file("./")],
    "name too long": [file("n" * 256)],
    "too deep": [file("d/" * 129 + "f")],
    "overlay attribute": [directory("d", xattrs={"trusted.overlay.redirect": "/etc"})],
    "unknown attribute": [file("f", xattrs={"nowhere.x": "y"})],
    "owner that is none": [file("f", uid=0xFFFFFFFF)],
    "empty link": [symlink("l", "")],
}


async def test_a_hard_link_to_nothing_is_refused_as_such(storage: LinuxStorage) -> None:
    with pytest.raises(InvalidArgument, match="The hard link 'h' leads to nothing"):
        await put(storage, file("f"), hard_link("h", "g"))
    with pytest.raises(InvalidArgument, match="The hard link 'h' leads to nothing"):
        await put(storage, file("f"), hard_link("h", "absent/g"))


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_archive_is_refused_by_name_and_leaves_nothing(
    storage: LinuxStorage, paths: Paths, case: str
) -> None:
    with pytest.raises(InvalidArgument, match="archive"):
        await put(storage, *HOSTILE[case])
    assert await storage.layers() == []
    assert entries_of(paths.staging) == []


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that archives of the test would like to write to, and do not."""
    victim = tmp_path / "victim"
    (victim / "sub").mkdir(parents=True)
    (victim / "f").write_bytes(b"ours")
    before = tree_of(victim)
    yield victim
    assert tree_of(victim) == before


def tree_of(area: Path) -> list[tuple[str, int, int, int, int]]:
    found = [(str(path), path.lstat()) for path in (area, *sorted(area.rglob("*")))]
    return [(path, status.st_mode, status.st_nlink, status.st_mtime_ns, status.st_ctime_ns) for path, status in found]


async def test_what_leads_to_the_host_by_links_leads_to_the_same_place_in_the_root(
    storage: LinuxStorage, paths: Paths, victim: Path
) -> None:
    lower = await put(storage, directory(f"{victim}/sub"), file(f"{victim}/old"))
    layer = await put(
        storage,
        symlink("absolute", str(victim)),
        symlink("climbing", "../" * 30 + str(victim)),
        directory("absolute/new", mode=0o701),
        file("climbing/new/x", b"x"),
        file("absolute/f", b"theirs"),
        file("climbing/.wh.sub"),
        hard_link("absolute/g", "climbing/f"),
        directory("climbing/later"),
        symlink("climbing/later", str(victim)),
    )
    root = await mounted(storage, paths, lower, layer)
    contained = root / str(victim).lstrip("/")
    assert entries_of(contained) == ["f", "g", "later", "new", "old"]
    assert [(contained / name).read_bytes() for name in ("f", "g", "new/x")] == [b"theirs", b"theirs", b"x"]
    assert stat.S_IMODE((contained / "new").stat().st_mode) == 0o701


async def test_a_directory_that_a_link_replaced_gives_its_mode_to_no_other(storage: LinuxStorage, paths: Paths) -> None:
    layer = await put(storage, directory("z", mode=0o700, uid=7), directory("a", mode=0o755), symlink("z", "a"))
    root = await mounted(storage, paths, layer)
    assert (stat.S_IMODE((root / "a").stat().st_mode), (root / "a").stat().st_uid) == (0o755, 0)


WAYS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)
NAMES = st.builds("{}{}".format, st.sampled_from(["", "/", "./", "b/../"]), WAYS)
LINKS = st.builds(symlink, NAMES, st.builds("{}{}".format, st.sampled_from(["", "/", "../", "../../../../"]), WAYS))
ENTRIES = st.one_of(
    LINKS,
    LINKS,
    st.builds(directory, NAMES),
    st.builds(file, NAMES, st.just(b"earlier")),
    st.builds(hard_link, NAMES, NAMES),
    st.builds(file, WAYS.map("{}/.wh.b".format)),
)


def read_in(root: Path, name: str) -> bytes:
    """The content of the file that is called *name*, by who has *root* for its root; the kernel's own word."""
    how = struct.pack("=3Q", os.O_RDONLY | os.O_NOFOLLOW, 0, RESOLVE_IN_ROOT)
    area = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        descriptor = ctypes.CDLL(None, use_errno=True).syscall(OPENAT2, area, name.encode(), how, len(how))
        assert descriptor >= 0, (name, os.strerror(ctypes.get_errno()))
        with open(descriptor, "rb") as opened:  # noqa: PTH123
            return opened.read()
    finally:
        os.close(area)


OPENAT2, RESOLVE_IN_ROOT = 437, 16


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(entries=st.lists(ENTRIES, min_size=1, max_size=8), name=WAYS.map("{}/last".format))
async def test_an_entry_is_where_the_kernel_finds_it_in_that_root(
    storage: LinuxStorage, paths: Paths, victim: Path, entries: list[Entry], name: str
) -> None:
    tar = images.tar([symlink("c", str(victim)), symlink("a/b", "/c/b"), *entries, file(name, b"the last")])
    layer = images.digest(tar)
    try:
        await storage.put_layer(layer, images.stream(tar))
    except InvalidArgument:
        return
    assert read_in(paths.layer(layer) / "fs", posixpath.normpath(name)) == b"the last"
    await storage.remove_layer(layer)


async def test_a_symlink_replaced_by_a_directory_is_one(storage: LinuxStorage, paths: Paths) -> None:
    layer = await put(storage, symlink("d", "/tmp"), directory("d", mode=0o700), file("d/x", b"in"))
    root = await mounted(storage, paths, layer)
    assert (root / "d/x").read_bytes() == b"in"
    assert not (root / "d").is_symlink()


async def test_the_last_of_several_entries_of_a_name_wins(storage: LinuxStorage, paths: Paths) -> None:
    layer = await put(
        storage,
        directory("a"),
        file("a/gone"),
        file("a", b"file"),
        file("b", b"first"),
        file("b", b"second"),
        hard_link("b", "b"),
        symlink("c", "x"),
        hard_link("c", "b"),
    )
    root = await mounted(storage, paths, layer)
    assert [(root / name).read_bytes() for name in "abc"] == [b"file", b"second", b"second"]


async def test_a_sparse_entry_is_not_supported(storage: LinuxStorage) -> None:
    with pytest.raises(Unsupported, match="sparse"):
        await put(storage, Entry("f", kind=tarfile.GNUTYPE_SPARSE))


async def test_knowing_a_digest_is_not_having_the_layer(storage: LinuxStorage) -> None:
    layer = await put(storage, file("secret"))
    with pytest.raises(InvalidArgument, match="diffID"):
        await storage.put_layer(layer, images.stream(images.tar([file("guess")])))
    assert await storage.has_layer(layer)


async def test_a_put_that_is_cancelled_leaves_nothing(storage: LinuxStorage, paths: Paths) -> None:
    tar = images.tar([file(f"f{number}", b"x" * 4096) for number in range(500)])
    fed = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        async for chunk in images.stream(tar):
            yield chunk
        fed.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(storage.put_layer(images.digest(tar), body()))
    await fed.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert entries_of(paths.staging) == []
    assert await storage.layers() == []


async def test_a_full_disk_is_said_to_be_full_and_keeps_nothing(paths: Paths) -> None:
    paths.state.mkdir()
    mounts.mount("tmpfs", paths.state, "tmpfs", "size=4m,nr_inodes=60")
    storage = LinuxStorage(paths)
    await storage.start()
    with pytest.raises(ResourceExhausted, match="disk is full"):
        await put(storage, file("large", bytes(8 << 20)))
    with pytest.raises(ResourceExhausted, match="disk is full"):
        await put(storage, *(file(f"f{number}") for number in range(100)))
    assert await storage.layers() == []
    assert entries_of(paths.staging) == []
    await storage.close()
    assert await put_again(paths) != []


async def put_again(paths: Paths) -> list[str]:
    """What is there after a small layer was put, with the trash emptied."""
    storage = LinuxStorage(paths)
    await storage.start()
    await put(storage, file("small"))
    await storage.close()
    return await storage.layers()


async def test_a_new_process_finds_what_is_whole_and_sweeps_the_rest(storage: LinuxStorage, paths: Paths) -> None:
    root = await mounted(storage, paths, await put(storage, file("f")))
    (root / "written").write_text("kept")
    (paths.staging / "half").mkdir()
    (paths.trash / "old").mkdir()
    again = LinuxStorage(paths)
    await again.start()
    assert entries_of(paths.staging) == []
    assert (root / "written").read_text() == "kept"
    await again.close()
    assert entries_of(paths.trash) == []


DIES_WHILE_IT_PROBES = """
import asyncio, os, sys
from pathlib import Path
from portlayer.substrates.linux import overlay
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.storage import LinuxStorage

overlay.unmount = lambda target: os.kill(os.getpid(), 9)
state, run, instance = sys.argv[1:]
asyncio.run(LinuxStorage(Paths(state=Path(state), run=Path(run), instance=instance)).start())
"""


@pytest.fixture
def died_probing(paths: Paths) -> Path:
    """The overlay that a start left which was killed while it tried whether this host can mount one."""
    words = [str(paths.state), str(paths.run), paths.instance]
    ran = subprocess.run([sys.executable, "-c", DIES_WHILE_IT_PROBES, *words], check=False)
    assert ran.returncode == -signal.SIGKILL
    [mount] = mounts.mounts_under(paths.state)
    return mount.target


async def test_a_start_that_is_killed_while_it_probes_leaves_no_mount_to_the_next(
    paths: Paths, died_probing: Path
) -> None:
    again = LinuxStorage(paths)
    await again.start()
    await again.close()
    assert mounts.mounts_under(paths.state) == []
    assert (entries_of(paths.staging), entries_of(paths.trash)) == ([], [])


async def test_a_mount_that_an_earlier_sweep_took_to_the_trash_goes(paths: Paths, died_probing: Path) -> None:
    died_probing.parent.rename(paths.trash / "earlier")
    assert mounts.mounts_under(paths.trash)
    again = LinuxStorage(paths)
    await again.start()
    await again.close()
    assert mounts.mounts_under(paths.state) == []
    assert entries_of(paths.trash) == []


async def test_cleanup_lists_and_removes_what_a_killed_probe_left(paths: Paths, died_probing: Path) -> None:
    looking = LinuxStorage(paths)
    make_directories(paths)
    place = died_probing.parent
    assert await looking.leftovers() == [f"mount {died_probing} (overlay)", f"tree {place}"]
    await looking.purge()
    assert await looking.leftovers() == []


async def test_a_released_rootfs_keeps_what_was_written_and_is_no_mount(storage: LinuxStorage, paths: Paths) -> None:
    spec = builders.container(layers=[await put(storage, file("f"))])
    for number in range(3):
        await storage.make_rootfs(spec)
        await storage.make_rootfs(spec)
        (paths.rootfs(spec.id) / str(number)).write_text("x")
        assert entries_of(paths.rootfs(spec.id)) == [*(str(seen) for seen in range(number + 1)), "f"]
        await storage.release_rootfs(spec.id)
        assert not mounts.is_mounted(paths.rootfs(spec.id))


async def test_a_removed_rootfs_leaves_nothing_even_while_a_file_of_it_is_open(
    storage: LinuxStorage, paths: Paths
) -> None:
    spec = builders.container(layers=[await put(storage, file("f", b"open"))])
    await storage.make_rootfs(spec)
    paths.log(spec.id).write_text("log")
    with (paths.rootfs(spec.id) / "f").open("rb") as opened:
        await storage.remove_rootfs(spec.id)
        assert await storage.rootfs() == []
        assert opened.read() == b"open"
    assert not paths.container(spec.id).exists()
    assert entries_of(paths.mounted) == []
    await storage.close()
    assert await storage.leftovers() == []


async def test_a_host_where_overlays_cannot_be_is_told_so(storage: LinuxStorage, paths: Paths) -> None:
    """An overlay's upper directory cannot be on an overlay, as it would be within most containers."""
    root = await mounted(storage, paths, await put(storage, file("f")))
    with pytest.raises(Unavailable, match="overlay"):
        await LinuxStorage(Paths(state=root / "state", run=root / "run", instance="0" * 8)).start()
    assert entries_of(root / "state" / "staging") == []


async def test_mounts_are_ours_by_name(storage: LinuxStorage, paths: Paths) -> None:
    root = await mounted(storage, paths, await put(storage, file("f")))
    [mount] = mounts.mounts_under(paths.run)
    assert (mount.target, mount.kind, mount.source) == (root, "overlay", f"portlayer-{paths.instance}")
    (paths.staging / "half").mkdir()
    assert await storage.leftovers() == [f"mount {root} (overlay)", f"tree {paths.staging / 'half'}"]
    await storage.purge()
    assert await storage.leftovers() == []
    assert await storage.layers() != []


async def test_a_failed_rootfs_is_not_there(storage: LinuxStorage, paths: Paths) -> None:
    spec = builders.container(layers=[images.digest(b"missing")])
    with pytest.raises(NotFound):
        await storage.make_rootfs(spec)
    with pytest.raises(InvalidArgument, match="no layers"):
        await storage.make_rootfs(replace(spec, image=replace(spec.image, layers=())))
    assert await storage.rootfs() == []
    layer = await put(storage, file("f"))
    spec = builders.container(layers=[layer])
    paths.container(spec.id).write_text("in the way")
    with pytest.raises(SubstrateFailed):
        await storage.make_rootfs(spec)
    assert mounts.mounts_under(paths.run) == []


async def test_an_archive_becomes_a_filesystem_that_runs(storage: LinuxStorage, paths: Paths, tmp_path: Path) -> None:
    """The whole way: compressed image archive, layers, root filesystem, a program in it."""
    extra = images.tar([directory("etc/"), file("etc/motd", b"from the upper layer\n"), file("bin/.wh.vi")])
    built = images.Built([images.busybox_rootfs(), extra], "busybox:test", compression="gzip")
    staging = tmp_path / "archive"
    staging.mkdir()
    [image] = await read_archive(images.stream(images.oci_archive(built)), staging)
    for layer in image.layers:
        assert await storage.put_layer(layer.diff_id, open_layer(layer)) > 0
    root = await mounted(storage, paths, *(layer.diff_id for layer in image.layers))
    command = ["chroot", str(root), "/bin/sh", "-c", "cat /etc/motd; test -e /bin/vi || echo no vi"]
    ran = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True)
    assert ran.stdout == "from the upper layer\nno vi\n"


SEEDS = [
    images.tar(
        [
            directory("d", mode=0o755),
            file("d/f", b"content" * 100, xattrs={"user.a": "b"}),
            symlink("s", "../.."),
            hard_link("h", "d/f"),
            file("d/.wh.x"),
            file("l" * 150, b"long"),
            Entry("n", kind=tarfile.CHRTYPE, device=(1, 3)),
        ]
    ),
    images.tar([*LINKED, file("x/y/z", b"z")]),
]


def damaged(seed: int, tar: bytes) -> bytes:
    """*tar* with some bytes changed, and its headers' checksums made right again, so that the damage gets through."""
    dice = random.Random(seed)
    body = bytearray(tar)
    for _ in range(dice.randint(1, 5)):
        at = dice.randrange(len(body))
        piece = dice.choice([b"../", b"/", b"\0", b"\xff" * 12, b"7" * 11, bytes([dice.randrange(256)]), b"d/up"])
        body[at : at + len(piece)] = piece
    del body[len(tar) :]
    for start in range(0, len(body) - 511, 512):
        header = body[start : start + 512]
        if header[257:262] == b"ustar":
            total = sum(header) - sum(header[148:156]) + 256
            body[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(body[: dice.choice([len(body), dice.randrange(len(body))])])


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), which=st.integers(0, len(SEEDS) - 1))
async def test_a_damaged_layer_is_put_or_refused_and_nothing_else(
    storage: LinuxStorage, paths: Paths, seed: int, which: int
) -> None:
    body = damaged(seed, SEEDS[which])
    layer = images.digest(body)
    try:
        await storage.put_layer(layer, images.stream(body, 900))
    except PortlayerError:
        assert not await storage.has_layer(layer)
    else:
        await storage.remove_layer(layer)
    assert entries_of(paths.staging) == []
    assert entries_of(paths.state.parent) == ["run", "state"]


async def test_a_host_that_has_no_disks_says_why(
    storage: LinuxStorage, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.check_capacity()
    monkeypatch.setattr(disks, "_CONTROL", "/dev/no-loop-control")
    with pytest.raises(Unsupported, match="modprobe loop"):
        await storage.check_capacity()
    (told,) = [check for check in checks() if check.name == "disks"]
    assert (told.ok, told.needed) == (False, False)
    assert "modprobe loop" in told.remedy
    monkeypatch.setattr(disks, "MKFS", "mkfs.of-no-kind")
    with pytest.raises(Unsupported, match="apt install e2fsprogs"):
        await storage.check_capacity()


async def test_a_disk_takes_no_space_before_it_is_used(storage: LinuxStorage, paths: Paths) -> None:
    await storage.make_volume("cask", 100 << 30)
    status = paths.disk("cask").stat()
    assert status.st_size == 100 << 30
    assert status.st_blocks * 512 < 16 << 20
    assert list(paths.staging.iterdir()) == []


async def test_a_disk_that_cannot_be_made_leaves_nothing(storage: LinuxStorage, paths: Paths) -> None:
    with pytest.raises(ResourceExhausted):
        await storage.make_volume("cask", 1 << 62)
    assert (await storage.volumes(), list(paths.staging.iterdir())) == ([], [])


async def test_a_process_that_starts_lets_the_disk_be_that_another_makes(
    storage: LinuxStorage, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, slow = tmp_path / "gate", tmp_path / "slow-mkfs"
    os.mkfifo(gate)
    slow.write_text(f'#!/bin/sh\n: > {gate}\n: < {gate}\nexec {disks.MKFS} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(disks, "MKFS", str(slow))
    making = asyncio.create_task(storage.make_volume("cask", 16 << 20))
    await asyncio.to_thread(gate.read_text)
    starting = LinuxStorage(paths)
    await starting.start()
    await asyncio.to_thread(gate.write_text, "")
    await making
    assert await storage.volumes() == ["cask"]
    await starting.close()


async def test_a_disk_is_on_one_loop_device_however_often_it_is_mounted(storage: LinuxStorage, paths: Paths) -> None:
    """Two over one file would destroy what is on it."""
    await storage.make_volume("cask", 16 << 20)
    targets = [paths.run / "first", paths.run / "second"]
    held = [disks.mount(paths.disk("cask"), target) for target in targets]
    (targets[0] / "data" / "a").write_text("a")
    sources = {mount.source for mount in mounts.mounts_under(paths.run) if mount.target in targets}
    assert (len(sources), (targets[1] / "data" / "a").read_text()) == (1, "a")
    for target, descriptor in zip(targets, held, strict=True):
        mounts.detach(target)
        os.close(descriptor)
    async with asyncio.timeout(20):
        while any(path.startswith(str(paths.state)) for path in hoststate.disks()):
            await asyncio.sleep(0.01)


def test_what_another_has_unmounted_meanwhile_is_none(tmp_path: Path) -> None:
    target = tmp_path / "rootfs"
    assert not mounts.detach(target), "not there"
    target.mkdir()
    assert not mounts.detach(target), "there, and not mounted"
    mounts.mount("portlayer-test", target, "tmpfs", "")
    assert mounts.detach(target)
    assert not mounts.detach(target)


async def test_a_server_that_stops_does_not_mind_what_goes_meanwhile(
    storage: LinuxStorage, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mounted(storage, paths, await put(storage, file("a")))
    listed = mounts.mounts_under

    def late(under: Path, source: str) -> Iterator[mounts.Mount]:
        found = list(listed(under, source))
        for mount in found:
            mounts.detach(mount.target)
            mount.target.rmdir()
        return iter(found)

    monkeypatch.setattr(mounts, "mounts_under", late)
    await storage.let_go()


async def test_processes_that_start_at_once_sweep_no_probe_of_another(paths: Paths) -> None:
    several = [LinuxStorage(paths) for _ in range(4)]
    for _ in range(20):
        await asyncio.gather(*(one.start() for one in several))
        await asyncio.gather(*(one._trash.close() for one in several))
        await asyncio.gather(*(one._leaving.close() for one in several))
    assert mounts.mounts_under(paths.state) == []
