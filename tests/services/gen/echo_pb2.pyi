# mypy: disable-error-code="type-arg, no-untyped-def"
import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Note(_message.Message):
    __slots__ = ("text", "count", "data", "weight", "urgent", "colour", "comment", "at", "lasting", "parts", "tally", "person", "room", "large")
    class Colour(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        COLOUR_UNSPECIFIED: _ClassVar[Note.Colour]
        RED: _ClassVar[Note.Colour]
        BLUE: _ClassVar[Note.Colour]
    COLOUR_UNSPECIFIED: Note.Colour
    RED: Note.Colour
    BLUE: Note.Colour
    class TallyEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TEXT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    URGENT_FIELD_NUMBER: _ClassVar[int]
    COLOUR_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    LASTING_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    TALLY_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    ROOM_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    LARGE_FIELD_NUMBER: _ClassVar[int]
    text: str
    count: int
    data: bytes
    weight: float
    urgent: bool
    colour: Note.Colour
    comment: str
    at: _timestamp_pb2.Timestamp
    lasting: _duration_pb2.Duration
    parts: _containers.RepeatedCompositeFieldContainer[Note]
    tally: _containers.ScalarMap[str, int]
    person: str
    room: int
    large: int
    def __init__(self, text: _Optional[str] = ..., count: _Optional[int] = ..., data: _Optional[bytes] = ..., weight: _Optional[float] = ..., urgent: _Optional[bool] = ..., colour: _Optional[_Union[Note.Colour, str]] = ..., comment: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lasting: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[Note, _Mapping]]] = ..., tally: _Optional[_Mapping[str, int]] = ..., person: _Optional[str] = ..., room: _Optional[int] = ..., large: _Optional[int] = ..., **kwargs) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: str
    details: str
    def __init__(self, code: _Optional[str] = ..., details: _Optional[str] = ...) -> None: ...

class Description(_message.Message):
    __slots__ = ("metadata", "peer", "left")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    metadata: _containers.RepeatedScalarFieldContainer[str]
    peer: str
    left: float
    def __init__(self, metadata: _Optional[_Iterable[str]] = ..., peer: _Optional[str] = ..., left: _Optional[float] = ...) -> None: ...
