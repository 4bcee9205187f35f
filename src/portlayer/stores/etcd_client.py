"""Calls to an etcd cluster: endpoints taken in turn, TLS, password, and what its errors mean.

call ── answered
 ├── certainly not done    no connection, no leader, stale token: tried again for a while, at the next endpoint
 ├── perhaps done          connection lost, no answer in time: tried again if that is harmless, else LostAnswer
 └── refused               Unavailable with the reason, LeaseGone, HistoryGone
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import msgspec

from portlayer.model.errors import InvalidArgument, Unavailable
from portlayer.stores.etcd_messages import CLASSES

PATIENCE_SECONDS = 6.0
"""How long a call is tried again, at one endpoint after the other."""
ATTEMPT_SECONDS = 2.5
WRITE_SECONDS = 5.0
PAUSE_SECONDS = 0.05
SUSPECT_SECONDS = 0.5
"""A call that was given up after so long is a reason to try another endpoint."""
ROOM_SECONDS = 5
"""When to come again where etcd is full, as room is being made."""

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 6_000),  # etcd takes offence below 5 seconds
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),  # a watch has nothing to say
)
METHODS = {
    "range": ("KV/Range", "RangeRequest", "RangeResponse"),
    "txn": ("KV/Txn", "TxnRequest", "TxnResponse"),
    "compact": ("KV/Compact", "CompactionRequest", "CompactionResponse"),
    "grant": ("Lease/LeaseGrant", "LeaseGrantRequest", "LeaseGrantResponse"),
    "time_to_live": ("Lease/LeaseTimeToLive", "LeaseTimeToLiveRequest", "LeaseTimeToLiveResponse"),
    "alarm": ("Maintenance/Alarm", "AlarmRequest", "AlarmResponse"),
    "status": ("Maintenance/Status", "StatusRequest", "StatusResponse"),
    "defragment": ("Maintenance/Defragment", "DefragmentRequest", "DefragmentResponse"),
    "authenticate": ("Auth/Authenticate", "AuthenticateRequest", "AuthenticateResponse"),
}


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a cluster. endpoints: `host:port`. ca, cert, key: PEM files; tls without ca: the system's CAs."""

    endpoints: tuple[str, ...]
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password: str = ""


class LostAnswer(Exception):
    """A write was sent, and its answer did not come: it may have happened, or may yet."""


class LeaseGone(Exception):
    """The lease that a put names has ended; nothing was written."""


class HistoryGone(Exception):
    """The revision asked for has been compacted."""


class _Fault(enum.Enum):
    NOT_DONE = enum.auto()
    STALE_TOKEN = enum.auto()
    LEASE_GONE = enum.auto()
    HISTORY_GONE = enum.auto()
    FULL = enum.auto()
    REFUSED = enum.auto()
    UNKNOWN = enum.auto()


FAULTS = (
    ("failed to connect to all addresses", _Fault.NOT_DONE),
    ("etcdserver: no leader", _Fault.NOT_DONE),
    ("etcdserver: too many requests", _Fault.NOT_DONE),
    ("etcdserver: invalid auth token", _Fault.STALE_TOKEN),
    ("etcdserver: user name is empty", _Fault.STALE_TOKEN),
    ("etcdserver: revision of auth store is old", _Fault.STALE_TOKEN),
    ("requested lease not found", _Fault.LEASE_GONE),
    ("required revision has been compacted", _Fault.HISTORY_GONE),
    ("database space exceeded", _Fault.FULL),
    ("permission denied", _Fault.REFUSED),
    ("authentication failed", _Fault.REFUSED),
    ("authentication is not enabled", _Fault.REFUSED),
    ("request is too large", _Fault.REFUSED),
    ("too many operations", _Fault.REFUSED),
)
"""What etcd and gRPC say -> what it means; anything else may or may not have been done."""
ADVICE = {
    "database space exceeded": "its quota is used up; room is being made, if there is any (see the docs)",
    "permission denied": "the user may not use this prefix; grant it a role with readwrite on the prefix",
    "authentication failed": "it refuses the user and password",
    "authentication is not enabled": "a user is configured, and etcd has authentication off; leave the user out",
    "user name is empty": "it wants a user and a password; configure them",
    "request is too large": "its --max-request-bytes is below etcd's default; raise it to 1.5 MB at least",
    "too many operations": "its --max-txn-ops is below etcd's default; raise it to 128 at least",
}


class _Endpoint(NamedTuple):
    channel: Any
    methods: dict[str, Any]
    watch: Any


class Client:
    """Calls one cluster, from one event loop. full: set when it has said that its quota is used up."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._endpoints = [_connect(access, address) for address in access.endpoints]
        self._current = 0
        self._token = ""
        self._login = asyncio.Lock()
        self.full = asyncio.Event()
        self.closed = False

    async def call(self, method: str, request: Any, *, repeat: bool = True) -> Any:
        """The answer to *request*. repeat: doing it twice is as doing it once.

        Raises:
            LostAnswer: not repeat, and whether it was done is not known.
            LeaseGone, HistoryGone: as they say.
            Unavailable: etcd cannot be reached in time, or refuses.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_SECONDS
        seconds = ATTEMPT_SECONDS if repeat else WRITE_SECONDS
        while True:
            if self.closed:
                raise Unavailable("The store is closed; open it again.")
            at, token, began = self._current, self._token, loop.time()
            try:
                call = self._endpoints[at].methods[method]
                return await call(request, timeout=seconds, metadata=self._metadata(), wait_for_ready=False)
            except grpc.aio.UsageError:
                continue  # closed while it was called
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self.closed or (task is not None and task.cancelling()):
                    if loop.time() > began + SUSPECT_SECONDS:
                        self._turn(at)
                    raise
                continue  # closing the channel cancels its calls, not their callers
            except grpc.aio.AioRpcError as error:
                fault = _classify(error)
                if fault is _Fault.LEASE_GONE:
                    raise LeaseGone from None
                if fault is _Fault.HISTORY_GONE:
                    raise HistoryGone from None
                if fault is _Fault.STALE_TOKEN and self._access.user and method != "authenticate":
                    await self._authenticate(token)
                    if loop.time() < until:
                        continue
                if fault is _Fault.FULL:
                    self.full.set()
                    raise _unavailable(self._access, error, retry=ROOM_SECONDS) from None
                if fault in (_Fault.REFUSED, _Fault.STALE_TOKEN):
                    raise _unavailable(self._access, error, retry=None) from None
                self._turn(at)
                if fault is _Fault.UNKNOWN and not repeat:
                    raise LostAnswer(str(error.details())) from None
                if loop.time() > until:
                    raise _unavailable(self._access, error, retry=1) from None
            await asyncio.sleep(PAUSE_SECONDS)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self._access.endpoints

    async def ask(self, at: int, method: str, request: Any, seconds: float) -> Any:
        """The answer of endpoint number *at*, and of no other. Raises Unavailable where there is none."""
        try:
            return await self._endpoints[at].methods[method](request, timeout=seconds, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise _unavailable(self._access, error, retry=1) from None

    async def watch(self, request: Any) -> AsyncGenerator[Any, None]:
        """The answers to one watch, until it breaks (Unavailable)."""
        at = self._current
        token = self._token
        # A member that has lost its leader must say so instead of keeping silent.
        metadata = (*self._metadata(), ("hasleader", "true"))
        stream = self._endpoints[at].watch(metadata=metadata)
        try:
            await stream.write(request)
            async for answer in stream:
                yield answer
        except grpc.aio.AioRpcError as error:
            if _classify(error) is _Fault.STALE_TOKEN and self._access.user:
                await self._authenticate(token)
            else:
                self._turn(at)
            raise _unavailable(self._access, error, retry=1) from None
        except (asyncio.InvalidStateError, grpc.aio.UsageError):
            self._turn(at)
        finally:
            stream.cancel()
        raise Unavailable("etcd ended a watch.", retry_after_seconds=1)

    async def authenticate(self) -> None:
        """Get a token, where a user is configured."""
        if self._access.user:
            await self._authenticate(self._token)

    async def close(self) -> None:
        self.closed = True
        for endpoint in self._endpoints:
            await endpoint.channel.close()

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self._token),) if self._token else ()

    async def _authenticate(self, stale: str) -> None:
        async with self._login:
            if self._token == stale:
                self._token = ""
                request = CLASSES["AuthenticateRequest"](name=self._access.user, password=self._access.password)
                self._token = (await self.call("authenticate", request)).token

    def _turn(self, at: int) -> None:
        """The next call goes to another endpoint than *at*."""
        if self._current == at:
            self._current = (at + 1) % len(self._endpoints)


def _connect(access: Access, address: str) -> _Endpoint:
    if access.tls:
        channel = grpc.aio.secure_channel(address, _credentials(access), options=OPTIONS)
    else:
        channel = grpc.aio.insecure_channel(address, options=OPTIONS)
    methods = {
        name: channel.unary_unary(
            f"/etcdserverpb.{path}",
            request_serializer=CLASSES[asked].SerializeToString,
            response_deserializer=CLASSES[answered].FromString,
        )
        for name, (path, asked, answered) in METHODS.items()
    }
    watch = channel.stream_stream(
        "/etcdserverpb.Watch/Watch",
        request_serializer=CLASSES["WatchRequest"].SerializeToString,
        response_deserializer=CLASSES["WatchResponse"].FromString,
    )
    return _Endpoint(channel, methods, watch)


def _credentials(access: Access) -> Any:
    if bool(access.cert) != bool(access.key):
        raise InvalidArgument("etcd wants a client certificate with its key: give both cert and key, or neither.")
    try:
        ca, key, cert = (Path(name).read_bytes() if name else None for name in (access.ca, access.key, access.cert))
    except OSError as error:
        raise InvalidArgument(f"{error.filename} cannot be read: {error.strerror}.") from None
    return grpc.ssl_channel_credentials(ca, key, cert)


def _classify(error: grpc.aio.AioRpcError) -> _Fault:
    details = error.details() or ""
    return next((fault for words, fault in FAULTS if words in details), _Fault.UNKNOWN)


def _unavailable(access: Access, error: grpc.aio.AioRpcError, retry: int | None) -> Unavailable:
    details = error.details() or error.code().name
    advice = next((advice for words, advice in ADVICE.items() if words in details), "see that it runs and is reachable")
    where = ", ".join(access.endpoints)
    return Unavailable(f"etcd at {where} cannot be used: {advice} ({details}).", retry_after_seconds=retry)
