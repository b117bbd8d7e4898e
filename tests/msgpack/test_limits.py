"""The defaults of what a peer may ask, and that each has its reason."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from hvrpc.msgpack import limits
from hvrpc.msgpack.limits import DEFAULT, Limits


def test_every_limit_has_a_default_that_bounds_something() -> None:
    for field in dataclasses.fields(Limits):
        value = getattr(DEFAULT, field.name)
        assert isinstance(value, int)
        assert 0 < value < 2**31, field.name


def test_every_limit_says_why() -> None:
    source = inspect.getsource(limits)
    for field in dataclasses.fields(Limits):
        _, _, behind = source.partition(f"    {field.name}: int = ")
        assert behind.splitlines()[1].strip().startswith('"""'), field.name


def test_limits_cannot_be_changed_under_a_connection() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.message = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_of_nothing_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        Limits(**{name: value})


def test_a_message_cannot_be_shorter_than_every_peer_may_send() -> None:
    with pytest.raises(ValueError, match=r"'message' is a number from 4096 to .*, not 4095"):
        Limits(message=4095)
    assert Limits(message=4096).message == 4096


def test_a_message_cannot_be_longer_than_the_codec_counts() -> None:
    with pytest.raises(ValueError, match="message"):
        Limits(message=2**31)
