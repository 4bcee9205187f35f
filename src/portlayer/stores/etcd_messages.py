"""The messages of etcd's gRPC API that we use, as classes; the schema is etcd's published one (rpc.proto, kv.proto).

They are made here from a table instead of by a generator: generated modules are bound to one version of protobuf.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SCHEMA = {
    "KeyValue": "key=1:bytes create_revision=2:int64 mod_revision=3:int64 value=5:bytes lease=6:int64",
    "Event": "type=1:int32 kv=2:KeyValue",
    "Header": "member_id=2:uint64 revision=3:int64",
    "RangeRequest": "key=1:bytes range_end=2:bytes limit=3:int64 revision=4:int64 keys_only=8:bool count_only=9:bool "
    "min_mod_revision=10:int64",
    "RangeResponse": "header=1:Header kvs=2:*KeyValue count=4:int64",
    "PutRequest": "key=1:bytes value=2:bytes lease=3:int64 ignore_value=5:bool",
    "DeleteRangeRequest": "key=1:bytes range_end=2:bytes",
    "RequestOp": "request_range=1:RangeRequest request_put=2:PutRequest request_delete_range=3:DeleteRangeRequest",
    "ResponseOp": "response_range=1:RangeResponse",
    "Compare": "result=1:int32 target=2:int32 key=3:bytes mod_revision=6:int64 range_end=64:bytes",
    "TxnRequest": "compare=1:*Compare success=2:*RequestOp failure=3:*RequestOp",
    "TxnResponse": "header=1:Header succeeded=2:bool responses=3:*ResponseOp",
    "CompactionRequest": "revision=1:int64 physical=2:bool",
    "CompactionResponse": "header=1:Header",
    "WatchCreateRequest": "key=1:bytes range_end=2:bytes start_revision=3:int64 fragment=8:bool",
    "WatchRequest": "create_request=1:WatchCreateRequest",
    "WatchResponse": "header=1:Header created=3:bool canceled=4:bool compact_revision=5:int64 cancel_reason=6:string "
    "fragment=7:bool events=11:*Event",
    "LeaseGrantRequest": "TTL=1:int64 ID=2:int64",
    "LeaseGrantResponse": "header=1:Header ID=2:int64 TTL=3:int64",
    "LeaseTimeToLiveRequest": "ID=1:int64",
    "LeaseTimeToLiveResponse": "header=1:Header ID=2:int64 TTL=3:int64",
    "AlarmRequest": "action=1:int32 memberID=2:uint64 alarm=3:int32",
    "AlarmMember": "memberID=1:uint64 alarm=2:int32",
    "AlarmResponse": "header=1:Header alarms=2:*AlarmMember",
    "StatusRequest": "",
    "StatusResponse": "header=1:Header dbSize=3:int64 leader=4:uint64",
    "DefragmentRequest": "",
    "DefragmentResponse": "header=1:Header",
    "AuthenticateRequest": "name=1:string password=2:string",
    "AuthenticateResponse": "header=1:Header token=2:string",
}
"""Message -> its fields, `name=number:type`; a star before the type: repeated."""

DELETED = 1
"""Event.type of a deletion."""
EQUAL, GREATER = 0, 1
"""Compare.result."""
GET_ALARMS, DISARM = 0, 2
"""AlarmRequest.action."""
NO_SPACE = 1
"""AlarmMember.alarm: a member's quota is used up."""
MODIFIED = 2
"""Compare.target: the revision that wrote the key last, 0 while it is absent."""


def _classes() -> dict[str, Any]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="portlayer/etcd.proto", package="portlayer.etcd", syntax="proto3")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for text in fields.split():
            label, _, kind = text.partition(":")
            field_name, _, number = label.partition("=")
            repeated, kind = kind.startswith("*"), kind.lstrip("*")
            added = message.field.add(name=field_name, number=int(number))
            added.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in SCHEMA:
                added.type, added.type_name = field.TYPE_MESSAGE, f".portlayer.etcd.{kind}"
            else:
                added.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"portlayer.etcd.{name}")) for name in SCHEMA
    }


CLASSES = _classes()
Range, Put, DeleteRange = CLASSES["RangeRequest"], CLASSES["PutRequest"], CLASSES["DeleteRangeRequest"]
Op, Compare, Txn = CLASSES["RequestOp"], CLASSES["Compare"], CLASSES["TxnRequest"]


def read(key: bytes, **options: Any) -> Any:
    """An operation that reads."""
    return Op(request_range=Range(key=key, **options))


def write(key: bytes, value: bytes, lease: int = 0) -> Any:
    """An operation that puts."""
    return Op(request_put=Put(key=key, value=value, lease=lease))


def erase(key: bytes) -> Any:
    """An operation that deletes."""
    return Op(request_delete_range=DeleteRange(key=key))


def written_at(key: bytes, revision: int, *, end: bytes = b"") -> Any:
    """Demand that *key* was last written at *revision* (0: is absent); with *end*, all keys of that range."""
    return Compare(result=EQUAL, target=MODIFIED, key=key, mod_revision=revision, range_end=end)


def present(key: bytes) -> Any:
    """Demand that *key* is there."""
    return Compare(result=GREATER, target=MODIFIED, key=key)
