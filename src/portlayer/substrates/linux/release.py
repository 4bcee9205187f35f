"""Letting a prepared process go, and finding out whether its program runs."""

from __future__ import annotations

import asyncio
import os

from portlayer.interfaces.substrate import StartFailure
from portlayer.model.interaction import STDERR
from portlayer.substrates.linux import crilog, process, timers
from portlayer.substrates.linux.exits import Exits
from portlayer.substrates.linux.failures import failed
from portlayer.substrates.linux.incarnation import Incarnation, Record
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.runtime import made_by

_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.0003, 0.002
_FAILED_START = 1


class Releaser:
    """Any runtime's processes: the record of each tells which gate it waits at."""

    def __init__(self, paths: Paths, exit_watch: Exits) -> None:
        self._paths = paths
        self._exits = exit_watch

    async def release(self, container: str, incarnation: str) -> StartFailure | None:
        place = Incarnation(self._paths, incarnation)
        record = place.record()
        if record is None:
            raise failed("release", f"container {container} is not prepared any more; start it again.", incarnation)
        if place.exit() is not None and not place.was_released():
            raise failed("release", f"the prepared process of {container} has died; start it again.", incarnation)
        place.mark_released()
        runtime = made_by(record.runtime)
        if not await runtime.open_gate(place.released) and process.executable(record.init.pid) == record.waiting:
            raise failed("release", f"{runtime.name} does not wait for {container} to be started.", incarnation)
        return await self._executed(place, record)

    async def _executed(self, place: Incarnation, record: Record) -> StartFailure | None:
        """Wait until the program runs, or its end is known: a runtime that cannot run it says so and exits with 1."""
        pause = _FIRST_POLL_SECONDS
        while (now := process.executable(record.init.pid)) == record.waiting:
            if not process.is_alive(record.init):
                break  # another process has its pid
            await timers.pause(pause)
            pause = min(2 * pause, _LAST_POLL_SECONDS)
        if now is not None and process.is_alive(record.init):
            return None
        await self._exits.wait(place.id)
        end = place.exit()
        if end is not None and end[0] != _FAILED_START and place.start_failure() is None:
            return None
        return await asyncio.to_thread(self._failed_start, place, record)

    def _failed_start(self, place: Incarnation, record: Record) -> StartFailure | None:
        """The runtime's words are no output of the container: the log is cut back to before them.

        What they say is written down first, so that it is known too where this is done again.
        """
        failure = place.start_failure()
        if failure is None:
            end = place.exit()
            if end is None or end[0] != _FAILED_START:
                return None
            failure = self._complaint(record)
            if failure is None:
                return None
            place.save_start_failure(failure)
        os.truncate(self._paths.log(record.container), record.log_offset)
        place.replace_exit(failure.exit_code)
        return failure

    def _complaint(self, record: Record) -> StartFailure | None:
        with self._paths.log(record.container).open("rb") as file:
            file.seek(record.log_offset)
            chunks, _ = crilog.parse(file.read(crilog.LARGEST), record.log_offset)
        if not chunks or chunks[0].stream != STDERR:
            return None
        return made_by(record.runtime).failed_start(chunks[0].data.decode(errors="replace"))
