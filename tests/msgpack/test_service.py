"""What is offered: which names, and what is refused when the service is made."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest

from hvrpc.msgpack import Context, Service, method


class Tools:
    def add(self, a: int, b: int) -> int:
        return a + b

    @staticmethod
    def static(a: int) -> int:
        return a

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @property
    def dangerous(self) -> Any:
        raise AssertionError("a property was run")

    def _hidden(self) -> None: ...


class More(Tools):
    def mul(self, a: int, b: int) -> int:
        return a * b


def double(n: int) -> int:
    return 2 * n


def names(service: Service) -> list[str]:
    return sorted(service)


class TestWhatIsOffered:
    def test_public_methods_of_an_object_inherited_ones_included(self) -> None:
        assert names(Service(Tools())) == ["add", "of_class", "static"]
        assert names(Service(More())) == ["add", "mul", "of_class", "static"]

    def test_functions(self) -> None:
        assert names(Service(double, len)) == ["double", "len"]
        assert Service(double)["double"].function(4) == 8

    def test_a_module_of_the_standard_library(self) -> None:
        assert "sqrt" in Service(math)

    def test_a_mapping_gives_names(self) -> None:
        service = Service({"twice": double, "a": {"b": Tools(), "c": double}})
        assert names(service) == ["a.b.add", "a.b.of_class", "a.b.static", "a.c", "twice"]

    def test_a_service_in_a_service(self) -> None:
        inner = Service(double)
        assert names(Service({"in": inner})) == ["in.double"]
        assert names(Service(inner, len)) == ["double", "len"]

    def test_several_at_once(self) -> None:
        assert names(Service.of([double, Tools()])) == ["add", "double", "of_class", "static"]
        service = Service(double)
        assert Service.of(service) is service
        assert names(Service.of(None)) == []

    def test_the_decorator_in_all_its_forms(self) -> None:
        service = Service()

        @service.method
        def one() -> int:
            return 1

        @service.method()
        def two() -> int:
            return 2

        @service.method("a.three")
        def three() -> int:
            return 3

        assert names(service) == ["a.three", "one", "two"]
        assert (one(), two(), three()) == (1, 2, 3)

    def test_marks_choose(self) -> None:
        class Marked:
            @method
            def a(self) -> None: ...

            @method()
            def b(self) -> None: ...

            @method("c.d")
            def c(self) -> None: ...

            def e(self) -> None: ...

        assert names(Service(Marked())) == ["a", "b", "c.d"]

    def test_a_marked_function_keeps_its_name(self) -> None:
        assert names(Service(method("other")(lambda: None))) == ["other"]

    def test_decorated_functions_are_seen_through(self) -> None:
        def logged(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def wrapper(*args: Any) -> Any:
                return function(*args)

            return wrapper

        service = Service(logged(double))
        assert service["double"].description["params"][0]["name"] == "n"

    def test_kinds_of_methods(self) -> None:
        async def waits() -> None: ...
        def yields() -> Any:
            yield 1

        async def yields_async() -> Any:
            yield 1

        def asks(context: Context) -> None: ...

        service = Service(waits, yields, yields_async, asks, double)
        assert service["double"].simple
        assert not any(service[name].simple for name in service if name != "double")
        assert service["waits"].is_async
        assert service["yields"].is_stream
        assert service["yields_async"].is_stream
        assert service["yields_async"].is_async

    def test_descriptions_are_in_order_and_can_be_sent(self) -> None:
        found = Service(Tools()).describe()
        assert [each["name"] for each in found] == ["add", "of_class", "static"]
        assert found[0]["params"][0]["type"] == "int"


class TestWhatIsRefused:
    @pytest.mark.parametrize("name", ["$/hello", "$/x", "$/"])
    def test_reserved_names(self, name: str) -> None:
        with pytest.raises(ValueError, match="belong to hvrpc"):
            Service({name: double})

    def test_a_name_twice(self) -> None:
        with pytest.raises(ValueError, match="'double' is offered already"):
            Service(double, {"double": len})

    def test_a_class_instead_of_an_object(self) -> None:
        with pytest.raises(TypeError, match=r"write Tools\(\)"):
            Service(Tools)

    @pytest.mark.parametrize("nothing", [None, object()])
    def test_things_without_methods(self, nothing: Any) -> None:
        with pytest.raises(TypeError):
            Service(nothing)

    @pytest.mark.parametrize("name", [5, b"bytes", None, ""])
    def test_names_that_are_no_text(self, name: Any) -> None:
        with pytest.raises(TypeError, match="name"):
            Service({name: double})

    def test_hints_that_cannot_be_checked(self) -> None:
        def odd(value: 5) -> None: ...  # type: ignore[valid-type]

        with pytest.raises(TypeError, match="odd"):
            Service(odd)
