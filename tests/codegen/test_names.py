"""How things are called in Python."""

from __future__ import annotations

import pytest

from hvrpc import services
from hvrpc_codegen import names


@pytest.mark.parametrize(
    ("proto", "python"),
    [
        ("SayHello", "say_hello"),
        ("sayHello", "say_hello"),
        ("say_hello", "say_hello"),
        ("GetHTTPCode", "get_http_code"),
        ("GetURL", "get_url"),
        ("HTTP", "http"),
        ("GetV2Item", "get_v2_item"),
        ("Import", "import_"),
        ("Close", "close_"),
        ("None", "none"),
        ("__init__", "__init___"),
    ],
)
def test_methods(proto: str, python: str) -> None:
    assert names.method_name(proto) == python


@pytest.mark.parametrize(
    ("proto", "alias"),
    [
        ("SayHello", "SayHello"),
        ("say_hello", None),
        ("import", None),
        ("None", None),
        ("Close", "Close"),
        ("close", None),
    ],
)
def test_aliases(proto: str, alias: str | None) -> None:
    assert names.alias_of(proto) == alias


@pytest.mark.parametrize(
    "base",
    [services.Client, services.AsyncClient, services.Servicer, services.AsyncServicer],
)
def test_no_method_hides_what_its_class_has_already(base: type) -> None:
    own = {name for name in (*dir(base), *base.__annotations__) if not name.startswith("__")}
    assert own - names.TAKEN - {"_abc_impl"} == set()


def test_modules_are_called_as_protoc_calls_them() -> None:
    assert names.module_of("a/b-c.proto") == "a.b_c_pb2"
    assert names.path_of("a-b/c.proto", "_hvrpc.py") == "a_b/c_hvrpc.py"
    assert names.is_importable("a.b_pb2")
    assert not names.is_importable("a.import.b_pb2")
