"""Classes registered as extension types travel whole; mistakes in registering are explained."""

from __future__ import annotations

import dataclasses
import struct
import uuid
from typing import Any

import msgpack
import pytest

from hvrpc.msgpack.extensions import Extensions
from hvrpc.msgpack.values import BadValue
from hvrpc.msgpack.writers import explain


@dataclasses.dataclass
class Vector:
    x: int
    y: int


class Arrow(Vector):
    pass


def _pack(vector: Vector) -> bytes:
    return struct.pack("<ii", vector.x, vector.y)


def _unpack(data: bytes) -> Vector:
    return Vector(*struct.unpack("<ii", data))


@pytest.fixture
def extensions() -> Extensions:
    extensions = Extensions()
    extensions.register(5, Vector, _pack, _unpack)
    return extensions


def _round_trip(extensions: Extensions, value: Any) -> Any:
    packed = msgpack.Packer(default=extensions.default).pack(value)
    unpacker = msgpack.Unpacker(ext_hook=extensions.ext_hook, raw=False)
    unpacker.feed(packed)
    return unpacker.unpack()


def test_a_registered_class_travels_whole(extensions: Extensions) -> None:
    assert _round_trip(extensions, [Vector(1, -2)]) == [Vector(1, -2)]


def test_subclasses_travel_as_their_registered_base(extensions: Extensions) -> None:
    assert _round_trip(extensions, Arrow(1, 2)) == Vector(1, 2)


def test_other_classes_keep_their_usual_form(extensions: Extensions) -> None:
    some = uuid.UUID(int=5)
    assert _round_trip(extensions, {"id": some}) == {"id": str(some)}


def test_a_code_nobody_registered_stays_an_ext_value(extensions: Extensions) -> None:
    assert _round_trip(extensions, msgpack.ExtType(6, b"x")) == msgpack.ExtType(6, b"x")


def test_membership_tells_what_is_registered(extensions: Extensions) -> None:
    assert Vector in extensions
    assert Arrow not in extensions
    assert list(extensions) == [Vector]


def test_an_empty_registry_is_not_false() -> None:
    """`given or Extensions()` must keep the one that was given, to be filled later."""
    assert Extensions()


def test_bytes_that_unpack_refuses_are_a_bad_value(extensions: Extensions) -> None:
    with pytest.raises(
        BadValue, match=r"Vector \(extension code 5\), got 1 bytes.*unpack requires"
    ):
        extensions.ext_hook(5, b"x")


def test_a_pack_function_that_returns_no_bytes_is_named() -> None:
    extensions = Extensions()
    extensions.register(0, Vector, lambda vector: "text", _unpack)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"pack function of Vector.*must return bytes, not str"):
        extensions.default(Vector(1, 2))


def test_explain_uses_the_registry_too(extensions: Extensions) -> None:
    assert explain([Vector(1, 2)], "params", extensions.default) is None
    bad = explain([Vector(1, 2**64)], "params", extensions.default)
    assert bad is not None
    assert bad.path == "params[0]"


@pytest.mark.parametrize("code", [-1, 128, True, "5"])
def test_codes_are_limited_to_those_of_applications(code: Any) -> None:
    with pytest.raises(ValueError, match="expected an int from 0 to 127"):
        Extensions().register(code, Vector, _pack, _unpack)


def test_a_code_stands_for_one_class(extensions: Extensions) -> None:
    with pytest.raises(ValueError, match="code 5 for UUID: it stands for Vector already"):
        extensions.register(5, uuid.UUID, str.encode, uuid.UUID)  # type: ignore[arg-type]


def test_a_class_has_one_code(extensions: Extensions) -> None:
    with pytest.raises(ValueError, match="Vector has the extension code 5 already"):
        extensions.register(6, Vector, _pack, _unpack)


def test_classes_that_msgpack_packs_itself_are_refused() -> None:
    class Celsius(float):
        pass

    with pytest.raises(TypeError, match="Celsius is packed by msgpack itself, as a float"):
        Extensions().register(5, Celsius, _pack, _unpack)
