"""What is generated for each feature of `.proto` files: compared with golden files, and imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hvrpc import services
from hvrpc_codegen import runner

from ..scripts import ROOT, load
from . import golden

MODULES = sorted(path.relative_to(golden.GOLDEN) for path in golden.GOLDEN.rglob("*_hvrpc.py"))

OFFICIAL_STUBS_ARE_BROKEN = {"keywords_hvrpc"}


def test_golden_files_are_what_is_generated() -> None:
    """To be read as a diff; `run.py protos` writes them."""
    outputs = golden.generated()
    assert sorted(outputs) == [path.as_posix() for path in MODULES]
    for path, text in outputs.items():
        assert text == (golden.GOLDEN / path).read_text(encoding="utf-8"), path


def test_it_comes_out_the_same_every_time() -> None:
    assert golden.generated() == golden.generated()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """All of it in a package of a made-up name, with what protoc writes."""
    folder = tmp_path_factory.mktemp("generated")
    out = folder / "golden_out"
    outputs = runner.generate(runner.Job((golden.PROTOS,), out, (golden.PROTOS,)))
    runner.write(outputs, out)
    sys.path.insert(0, str(folder))
    yield out.name
    sys.path.remove(str(folder))


def imported(package: str, name: str) -> ModuleType:
    return importlib.import_module(f"{package}.{name}")


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_can_be_imported_inside_a_package(package: str, path: Path) -> None:
    name = ".".join(path.with_suffix("").parts)
    module = imported(package, name)
    found = [each for each in vars(module).values() if isinstance(each, services.ServiceDescriptor)]
    assert found
    if name not in OFFICIAL_STUBS_ARE_BROKEN:
        imported(package, name.replace("_hvrpc", "_pb2_grpc"))


def test_names_that_python_keeps_for_itself(package: str) -> None:
    words = imported(package, "words_hvrpc")
    made = words._request(from_="here", class_="first", self="me", str="s", int=1)
    assert (getattr(made, "from"), getattr(made, "class")) == ("here", "first")
    assert (made.self, made.str, made.int) == ("me", "s", 1)
    names = [method.python_name for method in words.WordsDescriptor]
    assert names == ["is_", "descriptor_", "add_to_", "match", "_private"]
    assert words.WordsDescriptor["Is"] is words.WordsDescriptor["is_"]
    keywords = imported(package, "keywords_hvrpc")
    assert [method.python_name for method in keywords.KeywordsDescriptor] == ["import_", "none"]


def test_fields_of_every_kind_can_be_keywords(package: str) -> None:
    shop = imported(package, "shop.v1.shop_hvrpc")
    item = shop._item(
        name="bread",
        sizes=["SMALL", 0],
        price={"currency": "EUR", "units": 3},
        prices=[{"units": 1}, {"units": 2}],
        size_by_year={2020: "SMALL"},
        notes={True: "fresh"},
        extra={"a": [1, None]},
        maker={"value": "me"},
        lost="in the shop",
    )
    assert (item.price.units, item.prices[1].units, item.notes[True]) == (3, 2, "fresh")
    assert item.WhichOneof("whereabouts") == "lost"
    assert not item.HasField("place")
    assert not shop._find_item_request(id="x").HasField("shelf")
    assert shop._find_item_request(shelf=0).HasField("shelf")


def test_what_the_proto_says_of_methods(package: str) -> None:
    shop = imported(package, "shop.v1.shop_hvrpc")
    of = {method.python_name: method for method in shop.ShopDescriptor}
    assert of["find_item"].idempotency is services.Idempotency.NO_SIDE_EFFECTS
    assert of["put_item"].idempotency is services.Idempotency.IDEMPOTENT
    assert of["get_http_code"].deprecated
    assert not of["stock"].is_idempotent
    assert [method.kind.name for method in shop.ShopDescriptor][3:] == [
        "UNARY_STREAM",
        "STREAM_UNARY",
        "STREAM_STREAM",
    ]
    assert (shop.OldShopDescriptor.deprecated, len(shop.NothingDescriptor)) == (True, 0)


def test_comments_become_docstrings_whatever_is_in_them(package: str) -> None:
    shop = imported(package, "shop.v1.shop_hvrpc")
    assert 'Says "so", with """quotes""" and a \\ in it.' in shop.ShopServicer.__doc__
    assert shop.ShopServicer.find_item.__doc__ == "Finds an item."
    assert shop.ShopServicer.put_item.__doc__ == "Behind its line."
    # gRPC's own generator would have written what Python cannot read.
    official = imported(package, "shop.v1.shop_pb2_grpc")
    assert "quotes" in official.ShopServicer.__doc__


def test_a_deprecated_service_warns(package: str) -> None:
    shop = imported(package, "shop.v1.shop_hvrpc")
    with pytest.warns(DeprecationWarning, match=r"shop\.v1\.OldShop is deprecated"):
        shop.OldShopClient(Channel())


def test_a_deprecated_method_warns_when_it_is_called(package: str) -> None:
    shop = imported(package, "shop.v1.shop_hvrpc")
    client = shop.ShopClient(Channel())
    client.find_item(id="x")
    with pytest.warns(DeprecationWarning, match=r"get_http_code\(\) is deprecated") as caught:
        client.get_http_code()
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        client.GetHTTPCode.with_call()


class Channel:
    """Stands for a channel that is never called for real."""

    def unary_unary(self, path: str, **serializers: Any) -> Any:
        class Callee:
            def __call__(self, *args: Any) -> Any: ...
            def with_call(self, *args: Any) -> Any: ...
            def future(self, *args: Any) -> Any: ...

        return Callee()

    unary_stream = stream_unary = stream_stream = unary_unary


def test_abstract_servicers_name_what_is_missing(package: str) -> None:
    shop = imported(package, "shop.v1.shop_hvrpc")

    class Half(shop.ShopServicer):  # type: ignore[misc,name-defined]
        def find_item(self, request: Any, context: Any) -> Any: ...

    with pytest.raises(TypeError, match="put_item"):
        Half()


def test_the_tutorial_shows_the_proto_of_the_example() -> None:
    page = (golden.HERE.parents[1] / "docs/tutorial/generated-code.md").read_text(encoding="utf-8")
    proto = (golden.HERE.parents[1] / "protos/helloworld.proto").read_text(encoding="utf-8")
    assert f"```proto\n{proto}```" in page


@pytest.mark.parametrize(("proto", "out"), load("run.py").GENERATED.items())
def test_what_is_in_git_is_what_is_generated(proto: str, out: str) -> None:
    """`run.py protos --check` compares all of it; what protoc writes depends on its version."""
    protos = ROOT / "protos"
    outputs = runner.generate(runner.Job((protos / proto,), ROOT / out, (protos,)))
    ours = {path: text for path, text in outputs.items() if path.endswith("_hvrpc.py")}
    assert ours
    assert runner.differing(ours, ROOT / out) == [], "write them again: python3 run.py protos"
