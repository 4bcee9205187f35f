"""A store that says how long its calls take, how many of them fail, and how many watches are open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from time import perf_counter
from types import TracebackType

from portlayer.interfaces.store import Changed, CheckFailed, Record, Store, Transaction, Watch
from portlayer.metrics import Counter, Histogram, Metrics, Read


class _Timed:
    __slots__ = ("_began", "_errors", "_name", "_took")

    def __init__(self, took: Histogram, errors: Counter, name: str) -> None:
        self._took = took
        self._errors = errors
        self._name = name
        self._began = perf_counter()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._took.observe(perf_counter() - self._began, self._name)
        if kind is not None and issubclass(kind, Exception) and kind is not CheckFailed:
            self._errors.add(self._name, kind.__name__)


class MeasuredStore:
    """Implements interfaces.store.Store as *store* does. A transaction whose demands do not hold is no error."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self.name = store.name
        self._store = store
        self._took = metrics.histogram("store_seconds", "Calls of the store.", "call")
        self._errors = metrics.counter("store_errors_total", "Calls of the store that failed.", ("call", "error"))
        self._watches = 0
        metrics.add(Read("portlayer_store_watches", "Open watches.", "gauge", lambda: [((), self._watches)]))

    def _timed(self, name: str) -> _Timed:
        return _Timed(self._took, self._errors, name)

    async def get(self, key: str) -> Record | None:
        with self._timed("get"):
            return await self._store.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[Record | None]:
        with self._timed("get"):
            return await self._store.get_many(keys)

    async def range(self, prefix: str, *, after: str = "", limit: int = 0) -> list[Record]:
        with self._timed("range"):
            return await self._store.range(prefix, after=after, limit=limit)

    async def ranges(self, prefixes: Sequence[str]) -> list[list[Record]]:
        with self._timed("range"):
            return await self._store.ranges(prefixes)

    async def count(self, prefix: str) -> int:
        with self._timed("count"):
            return await self._store.count(prefix)

    async def since(self, prefix: str, revision: int, *, limit: int = 0) -> list[Record]:
        with self._timed("since"):
            return await self._store.since(prefix, revision, limit=limit)

    async def revision(self) -> int:
        with self._timed("revision"):
            return await self._store.revision()

    async def apply(self, transaction: Transaction) -> int:
        with self._timed("apply" if transaction.durable else "apply, not durable"):
            return await self._store.apply(transaction)

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
