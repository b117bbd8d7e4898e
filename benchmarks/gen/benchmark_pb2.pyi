# mypy: disable-error-code="type-arg, no-untyped-def"
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("payload", "size", "count")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    size: int
    count: int
    def __init__(self, payload: _Optional[bytes] = ..., size: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("payload", "received")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    received: int
    def __init__(self, payload: _Optional[bytes] = ..., received: _Optional[int] = ...) -> None: ...
