"""A store that says how long its calls take, how many of them fail, and how many watches are open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Sequence
from time import perf_counter
from typing import Any, TypeVar

from portlayer.interfaces.store import Changed, CheckFailed, Record, Store, Transaction, Watch
from portlayer.metrics import UNSORTED, Metrics, Read, Series

T = TypeVar("T")


class MeasuredStore:
    """Implements interfaces.store.Store as *store* does. A transaction whose demands do not hold is no error.

    It stands in everybody's way, so it does no more than it must.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self.name = store.name
        self._store = store
        took = metrics.histogram("store_seconds", "Calls of the store.", "call")
        self._get, self._range, self._count = took.of("get"), took.of("range"), took.of("count")
        self._since, self._revision = took.of("since"), took.of("revision")
        self._sync = took.of("sync")
        self._apply, self._apply_volatile = took.of("apply"), took.of("apply, not durable")
        self._errors = metrics.counter("store_errors_total", "Calls of the store that failed.", ("call", "error"))
        self._watches = 0
        metrics.add(Read("portlayer_store_watches", "Open watches.", "gauge", lambda: [((), self._watches)]))

    async def _timed(self, call: str, series: Series, work: Coroutine[Any, Any, T]) -> T:
        began = perf_counter()
        try:
            return await work
        except CheckFailed:
            raise
        except Exception as error:
            self._errors.add(call, type(error).__name__)
            raise
        finally:
            new = series.new
            new.append(perf_counter() - began)
            if len(new) >= UNSORTED:
                series.sort()

    def get(self, key: str) -> Coroutine[Any, Any, Record | None]:
        return self._timed("get", self._get, self._store.get(key))

    def get_many(self, keys: Sequence[str]) -> Coroutine[Any, Any, list[Record | None]]:
        return self._timed("get", self._get, self._store.get_many(keys))

    def range(self, prefix: str, *, after: str = "", limit: int = 0) -> Coroutine[Any, Any, list[Record]]:
        return self._timed("range", self._range, self._store.range(prefix, after=after, limit=limit))

    def ranges(self, prefixes: Sequence[str]) -> Coroutine[Any, Any, list[list[Record]]]:
        return self._timed("range", self._range, self._store.ranges(prefixes))

    def count(self, prefix: str) -> Coroutine[Any, Any, int]:
        return self._timed("count", self._count, self._store.count(prefix))

    def since(self, prefix: str, revision: int, *, limit: int = 0) -> Coroutine[Any, Any, list[Record]]:
        return self._timed("since", self._since, self._store.since(prefix, revision, limit=limit))

    def revision(self) -> Coroutine[Any, Any, int]:
        return self._timed("revision", self._revision, self._store.revision())

    def apply(self, transaction: Transaction) -> Coroutine[Any, Any, int]:
        work = self._store.apply(transaction)
        if transaction.durable:
            return self._timed("apply", self._apply, work)
        return self._timed("apply, not durable", self._apply_volatile, work)

    def sync(self) -> Coroutine[Any, Any, None]:
        return self._timed("sync", self._sync, self._store.sync())

    def watch(self, prefix: str, revision: int | None = None) -> Watch:
        watch = self._store.watch(prefix, revision)
        self._watches += 1
        return _Counted(watch, self)

    def watch_ended(self) -> None:
        """One of its watches is no more."""
        self._watches -= 1

    async def close(self) -> None:
        await self._store.close()


class _Counted:
    """A watch that is counted until it ends or is closed."""

    def __init__(self, watch: Watch, store: MeasuredStore) -> None:
        self._watch = watch
        self._store: MeasuredStore | None = store

    def __aiter__(self) -> AsyncIterator[Changed]:
        return self

    async def __anext__(self) -> Changed:
        try:
            return await anext(self._watch)
        except Exception:
            self._end()
            raise

    async def aclose(self) -> None:
        self._end()
        await self._watch.aclose()

    def _end(self) -> None:
        if self._store is not None:
            self._store.watch_ended()
            self._store = None
