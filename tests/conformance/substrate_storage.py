"""What every substrate's StorageDriver keeps of interfaces/substrate.py."""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncIterator

import builders
import images
import pytest
from images import Entry, directory, file, hard_link, symlink

from conformance.substrate_bench import Bench, Started
from portlayer.model.errors import InvalidArgument, NotFound, SubstrateFailed
from portlayer.model.execution import replace
from portlayer.model.names import new_id


async def put(bench: Bench, *entries: Entry) -> str:
    """Put *entries* as a layer; its diffID."""
    tar = images.tar(entries)
    await bench.substrate.storage.put_layer(builders.diff_id(tar), images.stream(tar))
    return builders.diff_id(tar)


async def sh(bench: Bench, script: str, *layers: str) -> bytes:
    """What *script* prints on busybox's layer with *layers* over it."""
    ran = await bench.ran("sh", "-c", script, layers=(builders.layer()[0], *layers))
    assert ran.stderr == b""
    return ran.stdout


async def note(bench: Bench, before: Started) -> bytes:
    """What the next start of a container, whose last one was removed, finds in /note."""
    end = await bench.substrate.interaction.log_end(before.spec.id)
    started = await bench.prepare(replace(before.spec, process=builders.container("cat", "/note").process))
    assert isinstance(started, Started)
    await started.release()
    await started.wait()
    return b"".join(chunk.data for chunk in await started.log(end))


class StorageSuite:
    async def test_a_layer_is_here_once_it_was_put(self, bench: Bench) -> None:
        storage = bench.substrate.storage
        ident, tar = builders.layer()
        assert await storage.has_layer(ident)
        assert await storage.layers() == [ident]
        again = await storage.put_layer(ident, images.stream(tar))
        assert again > 1_000_000
        assert await storage.layers() == [ident]

    async def test_a_removed_layer_is_gone(self, bench: Bench) -> None:
        storage = bench.substrate.storage
        ident = await put(bench, file("a"))
        await storage.remove_layer(ident)
        await storage.remove_layer(ident)
        assert not await storage.has_layer(ident)
        assert ident not in await storage.layers()
        assert await put(bench, file("a")) == ident
        assert await storage.has_layer(ident)

    async def test_two_puts_of_one_layer_at_once_give_one_layer(self, bench: Bench) -> None:
        entries = [file(f"f{number}", b"x" * number) for number in range(50)]
        first, second = await asyncio.gather(put(bench, *entries), put(bench, *entries))
        assert first == second
        assert (await bench.substrate.storage.layers()).count(first) == 1
        assert await sh(bench, "stat -c %s /f49", first) == b"49\n"

    async def test_a_layer_survives_a_restart(self, bench: Bench) -> None:
        await bench.restart()
        assert await bench.substrate.storage.has_layer(builders.layer()[0])
        assert await sh(bench, "echo here") == b"here\n"

    @pytest.mark.parametrize(
        "tar",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"no tar at all, " * 100, id="no tar"),
            pytest.param(images.tar([file("a", b"x" * 5000)])[:3000], id="truncated"),
            pytest.param(images.tar([file("../a")]), id="dots"),
            pytest.param(images.tar([file("a/../../b")]), id="inner dots"),
            pytest.param(images.tar([file("/../a")]), id="absolute dots"),
            pytest.param(images.tar([symlink("a", "b"), symlink("b", "a"), file("a/b")]), id="links without end"),
            pytest.param(images.tar([symlink("a", "b"), file("b"), file("a/c")]), id="below a file by link"),
            pytest.param(images.tar([hard_link("a", "../../etc/passwd")]), id="hard link by dots"),
            pytest.param(images.tar([hard_link("a", "/etc/passwd")]), id="absolute hard link"),
            pytest.param(images.tar([symlink("a", "/etc"), hard_link("b", "a/passwd")]), id="hard link by link"),
            pytest.param(images.tar([hard_link("a", "nothing")]), id="hard link to nothing"),
        ],
    )
    async def test_a_bad_archive_is_refused_and_nothing_kept(self, bench: Bench, tar: bytes) -> None:
        storage = bench.substrate.storage
        before = await storage.layers()
        with pytest.raises(InvalidArgument):
            await storage.put_layer(builders.diff_id(tar), images.stream(tar))
        assert await storage.layers() == before

    @pytest.mark.parametrize(
        ("entries", "place"),
        [
            pytest.param([file("/a/b", b"x")], "/a/b", id="absolute"),
            pytest.param([file("a/../b", b"x")], "/b", id="dots inside"),
            pytest.param([directory("d"), symlink("a", "d"), file("a/b", b"x")], "/d/b", id="link"),
            pytest.param([symlink("a", "/d/e"), file("a/b", b"x")], "/d/e/b", id="absolute link to what is not yet"),
            pytest.param([symlink("e/a", "/d"), file("e/a/b", b"x")], "/d/b", id="absolute link in a folder"),
            pytest.param([symlink("a", "../../d"), file("a/b", b"x")], "/d/b", id="link that climbs"),
            pytest.param(
                [symlink("one", "two"), symlink("two", "/e/three"), symlink("e/three", "../d"), file("one/b", b"x")],
                "/d/b",
                id="links over links",
            ),
            pytest.param([symlink("a", "/d"), directory("a/b"), file("d/b/c", b"x")], "/d/b/c", id="folder by link"),
            pytest.param([file("d/f", b"x"), hard_link("a", "/d/f")], "/a", id="absolute hard link"),
            pytest.param([file("d/f", b"x"), symlink("l", "/d"), hard_link("a", "l/f")], "/a", id="hard link by link"),
        ],
    )
    async def test_names_are_found_where_a_container_finds_them(
        self, bench: Bench, entries: list[Entry], place: str
    ) -> None:
        """As Docker and containerd do: archives with such names are about."""
        assert await sh(bench, f"cat {place}", await put(bench, *entries)) == b"x"

    async def test_a_whiteout_by_a_link_hides_what_the_link_leads_to(self, bench: Bench) -> None:
        lower = await put(bench, file("d/gone"), file("d/kept"))
        upper = await put(bench, symlink("a", "/d"), file("/a/.wh.gone"))
        assert await sh(bench, "ls /d", lower, upper) == b"kept\n"

    async def test_a_layer_whose_digest_differs_is_refused(self, bench: Bench) -> None:
        tar = images.tar([file("a")])
        other = builders.diff_id(b"other")
        with pytest.raises(InvalidArgument):
            await bench.substrate.storage.put_layer(other, images.stream(tar))
        assert not await bench.substrate.storage.has_layer(other)

    async def test_a_body_that_breaks_off_leaves_nothing(self, bench: Bench) -> None:
        ident, tar = builders.layer()

        async def broken() -> AsyncIterator[bytes]:
            yield tar[:100_000]
            raise ConnectionResetError

        await bench.substrate.storage.remove_layer(ident)
        with pytest.raises(ConnectionResetError):
            await bench.substrate.storage.put_layer(ident, broken())
        assert await bench.substrate.storage.layers() == []
        await bench.substrate.storage.put_layer(ident, images.stream(tar))
        assert await bench.substrate.storage.has_layer(ident)

    async def test_modes_owners_and_links_are_kept(self, bench: Bench) -> None:
        ident = await put(
            bench,
            directory("d", mode=0o1770, uid=7, gid=8),
            file("d/f", b"hello", mode=0o4711, uid=1234, gid=5678),
            hard_link("d/h", "d/f"),
            symlink("d/s", "f"),
            symlink("d/dangling", "/no/where"),
            file("späte ñame", b"utf-8"),
            Entry("n", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
        )
        script = "stat -c '%a %u %g %h' /d/f /d/h; stat -c '%a %u %g %F' /d /n"
        assert await sh(bench, script, ident) == (
            b"4711 1234 5678 2\n4711 1234 5678 2\n1770 7 8 directory\n666 0 0 character special file\n"
        )
        script = "cat /d/h; cat /d/s; readlink /d/dangling; cat '/späte ñame'"
        assert await sh(bench, script, ident) == b"hellohello/no/where\nutf-8"

    async def test_folders_that_no_entry_names_are_made(self, bench: Bench) -> None:
        ident = await put(bench, file("x/y/z", b"deep"))
        assert await sh(bench, "cat /x/y/z; stat -c %a /x/y", ident) == b"deep755\n"

    async def test_upper_layers_hide_lower_ones(self, bench: Bench) -> None:
        lower = await put(
            bench,
            *(directory(name) for name in ("gone", "opaque", "kept")),
            *(file(name, b"lower") for name in ("gone/a", "opaque/a", "kept/a", "kept/b", "single", "changed")),
        )
        upper = await put(
            bench,
            file(".wh.gone"),
            file(".wh.single"),
            directory("opaque"),
            file("opaque/.wh..wh..opq"),
            file("opaque/c", b"upper"),
            directory("kept"),
            file("kept/.wh.a"),
            file("changed", b"upper"),
        )
        script = "ls /opaque; ls /kept; cat /changed; [ -e /gone ] || [ -e /single ] || echo hidden"
        assert await sh(bench, script, lower, upper) == b"c\nb\nupperhidden\n"
        assert await sh(bench, "ls /opaque; cat /gone/a /single", lower) == b"a\nlowerlower"

    async def test_a_file_may_take_a_folders_place_and_the_other_way_round(self, bench: Bench) -> None:
        lower = await put(bench, directory("a"), file("a/x"), file("b"), symlink("c", "etc"))
        upper = await put(bench, file("a", b"file"), directory("b"), file("b/y"), directory("c"), file("c/z"))
        assert await sh(bench, "cat /a; ls /b; ls /c", lower, upper) == b"filey\nz\n"

    async def test_a_rootfs_needs_its_layers(self, bench: Bench) -> None:
        missing = builders.diff_id(b"missing")
        spec = builders.container(layers=(builders.layer()[0], missing))
        with pytest.raises(NotFound) as caught:
            await bench.substrate.storage.make_rootfs(spec)
        assert caught.value.facts == {"kind": "layer", "id": missing}
        assert await bench.substrate.storage.rootfs() == []

    async def test_a_rootfs_needs_a_layer(self, bench: Bench) -> None:
        spec = builders.container()
        with pytest.raises(InvalidArgument):
            await bench.substrate.storage.make_rootfs(replace(spec, image=replace(spec.image, layers=())))

    async def test_the_life_of_a_rootfs(self, bench: Bench) -> None:
        storage = bench.substrate.storage
        spec = builders.container()
        for _ in range(2):
            await storage.make_rootfs(spec)
        assert await storage.rootfs() == [spec.id]
        for _ in range(2):
            await storage.release_rootfs(spec.id)
        assert await storage.rootfs() == [spec.id]
        for _ in range(2):
            await storage.remove_rootfs(spec.id)
        assert await storage.rootfs() == []
        await storage.release_rootfs(spec.id)

    async def test_what_was_written_is_kept_until_the_rootfs_is_removed(self, bench: Bench) -> None:
        count = "echo x >> /count; cat /count"
        started = await bench.started("sh", "-c", count)
        await started.wait()
        for restart in (False, True):
            await started.remove()
            await bench.substrate.storage.release_rootfs(started.spec.id)
            if restart:
                await bench.restart()
            started = await bench.again(started)
            await started.wait()
        lines = b"".join(chunk.data for chunk in await started.log())
        assert lines == b"x\n" + b"x\n" * 2 + b"x\n" * 3
        await started.remove()
        await bench.substrate.storage.remove_rootfs(started.spec.id)
        assert await bench.substrate.interaction.log_end(started.spec.id) == 0
        assert (await bench.ended(await bench.again(started))).stdout == b"x\n"

    @pytest.mark.parametrize("waits", [True, False])
    async def test_a_lost_mount_is_missed_and_comes_back_from_who_has_it(self, bench: Bench, waits: bool) -> None:
        """From a process that waits, or one that runs; it goes on writing where its next start reads."""
        storage = bench.substrate.storage
        script = "echo ready; read x; echo $x > /note; cat /note"
        started = await bench.prepared("sh", "-c", script, stdin=True)
        if not waits:
            await started.release()
            await started.printed(b"ready\n")
        other = await bench.prepared("true")
        both = [started.spec.id, other.spec.id]
        assert await storage.missing(both) == []
        await bench.lose_mount(started)
        assert await storage.missing(both) == [started.spec.id]
        for _ in range(2):
            await storage.make_rootfs(started.spec, started.incarnation)
        assert await storage.missing(both) == []
        if waits:
            await started.release()
        await started.write(b"hello\n")
        await started.close_stdin()
        assert (await bench.ended(started)).stdout == b"ready\nhello\n"
        await started.remove()
        assert await note(bench, started) == b"hello\n"

    async def test_a_lost_mount_of_a_process_that_has_ended_is_made_anew(self, bench: Bench) -> None:
        storage = bench.substrate.storage
        started = await bench.started("sh", "-c", "echo hello > /note")
        await started.wait()
        await bench.lose_mount(started)
        assert await storage.missing([started.spec.id]) == [started.spec.id]
        await storage.make_rootfs(started.spec, started.incarnation)
        assert await storage.missing([started.spec.id]) == []
        await started.remove()
        assert await note(bench, started) == b"hello\n"

    async def test_what_never_was_is_not_missed(self, bench: Bench) -> None:
        started = await bench.prepared("true")
        await started.remove()
        await bench.substrate.storage.remove_rootfs(started.spec.id)
        assert await bench.substrate.storage.missing([new_id(), started.spec.id]) == []

    async def test_containers_do_not_see_each_others_files(self, bench: Bench) -> None:
        assert await sh(bench, "echo secret > /etc/passwd; cat /etc/passwd") == b"secret\n"
        assert await sh(bench, "cat /etc/passwd") == builders.PASSWD

    async def test_a_read_only_rootfs_refuses_writing(self, bench: Bench) -> None:
        ran = await bench.ran("sh", "-c", "touch /x || echo refused", read_only_rootfs=True)
        assert ran.stdout == b"refused\n"
        assert b"Read-only file system" in ran.stderr

    async def test_the_life_of_a_volume(self, bench: Bench) -> None:
        storage = bench.substrate.storage
        volume = new_id()
        for _ in range(2):
            await storage.make_volume(volume)
        assert await storage.volumes() == [volume]
        for _ in range(2):
            await storage.remove_volume(volume)
        assert await storage.volumes() == []

    async def test_a_volume_keeps_its_content_and_is_shared(self, bench: Bench) -> None:
        storage = bench.substrate.storage
        volume = new_id()
        await storage.make_volume(volume)
        writer = await bench.started(
            "sh", "-c", "mkdir /data/sub; echo hello > /data/sub/f", mounts=[builders.mount(volume, "/data")]
        )
        assert (await writer.wait()).exit_code == 0
        await writer.remove()
        await storage.remove_rootfs(writer.spec.id)
        await bench.restart()
        await bench.substrate.storage.make_volume(volume)
        mounts = [builders.mount(volume, "/a/new/place"), builders.mount(volume, "/part", subpath="sub")]
        ran = await bench.ran("sh", "-c", "cat /a/new/place/sub/f; cat /part/f", mounts=mounts)
        assert ran.stdout == b"hello\nhello\n"

    async def test_a_read_only_volume_refuses_writing(self, bench: Bench) -> None:
        volume = new_id()
        await bench.substrate.storage.make_volume(volume)
        ran = await bench.ran(
            "sh", "-c", "touch /data/x || echo refused", mounts=[builders.mount(volume, "/data", read_only=True)]
        )
        assert ran.stdout == b"refused\n"

    async def test_a_volume_and_its_subpath_have_to_be_there(self, bench: Bench) -> None:
        volume = new_id()
        with pytest.raises(SubstrateFailed):
            await bench.prepared("true", mounts=[builders.mount(volume, "/data")])
        await bench.substrate.storage.make_volume(volume)
        for subpath in ("nothing", "../..", "nothing/at/all"):
            with pytest.raises(InvalidArgument):
                await bench.prepared("true", mounts=[builders.mount(volume, "/data", subpath=subpath)])
        assert await bench.substrate.execution.present() == []

    async def test_a_removed_volume_comes_back_empty(self, bench: Bench) -> None:
        storage = bench.substrate.storage
        volume = new_id()
        mounts = [builders.mount(volume, "/data")]
        await storage.make_volume(volume)
        await bench.ran("touch", "/data/x", mounts=mounts)
        for name in await storage.rootfs():
            for one in await bench.substrate.execution.present():
                await bench.substrate.execution.remove(one.container, one.incarnation)
            await storage.remove_rootfs(name)
        await storage.remove_volume(volume)
        await storage.make_volume(volume)
        assert (await bench.ran("ls", "/data", mounts=mounts)).stdout == b""

    async def test_what_is_written_is_measured(self, bench: Bench) -> None:
        storage = bench.substrate.storage
        volume, empty = new_id(), new_id()
        for each in (volume, empty):
            await storage.make_volume(each)
        write = "seq 200000 > /root/f; mkdir /data/d; seq 400000 > /data/d/f; seq 100000"
        writer = await bench.started("sh", "-c", write, mounts=[builders.mount(volume, "/data")])
        assert (await writer.wait()).exit_code == 0
        measured = await storage.written([writer.spec.id, new_id()], [volume, empty, new_id()])
        assert measured.keys() == {writer.spec.id, volume, empty}
        assert 1_280_000 + 580_000 < measured[writer.spec.id] < 8_000_000, "its files, and its log"
        assert 2_680_000 < measured[volume] < 2_800_000
        assert measured[empty] < 10_000
        assert await storage.written([], []) == {}
        await writer.remove()
        await storage.remove_rootfs(writer.spec.id)
        assert await storage.written([writer.spec.id], []) == {}

    async def test_a_volume_holds_as_much_as_its_capacity(self, bench: Bench) -> None:
        volume, other = new_id(), new_id()
        capacity = 16 << 20
        many = " ".join(["/bin/busybox"] * (10_000_000 // len(images.BUSYBOX.read_bytes())))
        await bench.substrate.storage.check_capacity()
        for _ in range(2):
            await bench.substrate.storage.make_volume(volume, capacity)
        await bench.substrate.storage.make_volume(other, capacity)
        assert await bench.substrate.storage.volumes() == sorted([volume, other])
        mounts = [
            builders.mount(volume, "/data", capacity_bytes=capacity),
            builders.mount(other, "/other", capacity_bytes=capacity),
        ]
        script = f"ls /data; cat {many} > /data/one && echo fits; cat {many} > /data/two || echo full"
        filler = await bench.started("sh", "-c", script, mounts=mounts)
        ran = await bench.ended(filler)
        assert ran.stdout == b"fits\nfull\n"
        assert b"No space left on device" in ran.stderr
        script = f"cat {many} > /other/one && echo room; rm /data/two; cat {many} > /data/one && echo again"
        assert (await bench.ran("sh", "-c", script, mounts=mounts)).stdout == b"room\nagain\n"

    async def test_a_volume_with_a_capacity_is_shared_and_kept(self, bench: Bench) -> None:
        volume = new_id()
        mount = builders.mount(volume, "/data", capacity_bytes=16 << 20)
        await bench.substrate.storage.make_volume(volume, 16 << 20)
        script = "mkdir /twice/sub; echo hello > /data/sub/f; echo ready; sleep 1000"
        writer = await bench.started("sh", "-c", script, mounts=[mount, replace(mount, destination="/twice")])
        await writer.printed(b"ready\n")
        assert (await bench.ran("cat", "/data/sub/f", mounts=[mount])).stdout == b"hello\n"
        await bench.restart()
        await bench.substrate.storage.make_volume(volume, 16 << 20)
        part = replace(mount, destination="/part", subpath="sub", read_only=True)
        script = "cat /part/f; touch /part/g || echo refused"
        assert (await bench.ran("sh", "-c", script, mounts=[part])).stdout == b"hello\nrefused\n"
        await bench.substrate.execution.remove(*writer.ids)
        mounts = [replace(mount, read_only=True)]
        assert (await bench.ran("ls", "/data", mounts=mounts)).stdout == b"sub\n"

    async def test_a_volume_with_a_capacity_and_its_subpath_have_to_be_there(self, bench: Bench) -> None:
        volume = new_id()
        mount = builders.mount(volume, "/data", capacity_bytes=16 << 20)
        with pytest.raises(SubstrateFailed):
            await bench.prepared("true", mounts=[mount])
        await bench.substrate.storage.make_volume(volume, 16 << 20)
        for subpath in ("nothing", "../lost+found", ".."):
            with pytest.raises(InvalidArgument):
                await bench.prepared("true", mounts=[replace(mount, subpath=subpath)])
        assert await bench.substrate.execution.present() == []
        await bench.ran("touch", "/data/x", mounts=[mount])
        for one in await bench.substrate.execution.present():
            await bench.substrate.execution.remove(one.container, one.incarnation)
        await bench.substrate.storage.remove_volume(volume)
        await bench.substrate.storage.make_volume(volume, 16 << 20)
        assert (await bench.ran("ls", "/data", mounts=[mount])).stdout == b""
