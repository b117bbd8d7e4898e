"""The commands that call, over gRPC: on grpcio's engine, which proves them right, and on ours."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

import hvrpc.grpc
from hvrpc.addresses import Address
from hvrpc.cli import over_grpc
from hvrpc.cli.errors import ExitCode
from hvrpc.cli.targets import Target

from ..grpc.contract.engines import Engine
from ..sockets.places import short_folder
from .runs import run
from .servers import PROTO, SHOP, Tools, grpc_server

ORDER = f"{SHOP}/Order"


def answer(result: Any) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def request_of(result: Any) -> Any:
    return answer(result)["request"]


@pytest.mark.parametrize(
    "method", [ORDER, f"/{ORDER}", "shop.v1.Shop.Order", "Shop.Order", "Order"]
)
def test_a_method_may_be_named_as_briefly_as_is_clear(shop: str, method: str) -> None:
    assert answer(run("call", shop, method, "name=disk"))["text"] == "0 x disk"


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["name=5"], "name", "5"),
        (["count=5"], "count", 5),
        (["size=LARGE"], "size", "LARGE"),
        (["size=1"], "size", "LARGE"),
        (["picture=hey"], "picture", "aGV5"),
        (["tags=a", "tags=1"], "tags", ["a", "1"]),
        (['tags=["a", "b"]'], "tags", ["a", "b"]),
        (["stock.a=1", "stock.b.c=2"], "stock", {"a": 1, "b.c": 2}),
        (['stock={"a": 3}'], "stock", {"a": 3}),
        (["address.city=Ulm"], "address", {"city": "Ulm"}),
        (['address={"city": "Ulm"}'], "address", {"city": "Ulm"}),
        (["price=1.5"], "price", 1.5),
        (["due=2026-01-02T03:04:05Z"], "due", "2026-01-02T03:04:05Z"),
        (["cash=true"], "cash", True),
        (['{"name": "x", "count": 2}'], "count", 2),
        ([], "name", ""),
    ],
)
def test_fields(shop: str, words: list[str], field: str, value: Any) -> None:
    assert request_of(run("call", shop, ORDER, *words))[field] == value


def test_streams_of_answers_are_lines(shop: str) -> None:
    result = run("call", shop, "Watch", "name=x", "count=3", "--json")
    assert [json.loads(line)["total"] for line in result.stdout.splitlines()] == ["0", "1", "2"]


def test_streams_of_requests(shop: str, tmp_path: Path) -> None:
    assert answer(run("call", shop, "Fill", '{"count": 1}', '{"count": 2}'))["total"] == "3"
    assert answer(run("call", shop, "Fill"))["total"] == "0"
    assert answer(run("call", shop, "Fill", "count=4"))["total"] == "4"
    file = tmp_path / "orders"
    file.write_text('{"count": 1}\n{"count": 5}\n', encoding="utf-8")
    assert answer(run("call", shop, "Fill", f"@{file}"))["total"] == "6"
    result = run("call", shop, "Talk", "@-", "--json", input='{"name": "a"}\n{"name": "b"}\n')
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["a", "b"]


def test_metadata_goes_both_ways(shop: str) -> None:
    result = run("call", shop, ORDER, "-H", "who=me", "--show-metadata")
    assert result.exit_code == 0
    assert "header   seen: me\n" in result.stderr
    assert "trailer  cost-bin: 01\n" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["Refuse", "name=beer"], ExitCode.REFUSED, "no beer today"),
        (["Nothing"], ExitCode.REFUSED, "there is no method Nothing"),
        ([ORDER, "nme=x"], ExitCode.USAGE, "has no field nme; it has: name, count"),
        ([ORDER, "count=many"], ExitCode.USAGE, "this is no shop.v1.OrderRequest"),
        ([ORDER, "count=1", "count=2"], ExitCode.USAGE, "count is given twice"),
        ([ORDER, "name.x=1"], ExitCode.USAGE, "name is no message"),
        ([ORDER, "5"], ExitCode.USAGE, "this is no shop.v1.OrderRequest"),
        ([ORDER, "{}", "{}"], ExitCode.USAGE, "takes one message, not 2"),
        ([ORDER, "{}", "name=x"], ExitCode.USAGE, "not both"),
        (["Fill", "5"], ExitCode.USAGE, "this is no shop.v1.OrderRequest"),
        ([ORDER, "beer"], ExitCode.USAGE, "this is neither NAME=VALUE nor JSON: beer"),
        ([ORDER, "{name: beer}"], ExitCode.USAGE, "this is not JSON (Expecting property name"),
        ([ORDER, '{"nme": 1}'], ExitCode.USAGE, 'has no field named "nme"'),
        ([ORDER, "--notify"], ExitCode.USAGE, "gRPC has no notifications"),
    ],
)
def test_calls_that_fail(shop: str, words: list[str], code: int, told: str) -> None:
    result = run("call", shop, *words)
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert told in result.stderr


def test_an_error_with_details_is_shown_with_them(shop: str) -> None:
    result = run("call", shop, "Refuse", "name=wine")
    assert result.exit_code == ExitCode.REFUSED
    assert result.stderr == (
        "error  the call ended with status FAILED_PRECONDITION\n"
        "  why  no wine\n"
        '       ErrorInfo {"reason": "SOLD_OUT", "domain": "shop"}\n'
        "       shop.Unknown, 3 bytes\n"
    )


def test_details_that_cannot_be_read_are_no_reason_to_fail(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grpc_status", None)
    assert "pip install grpcio-status" in run("call", shop, "Refuse", "name=wine").stderr


def test_what_is_wrong_in_the_midst_of_a_stream_gives_up_the_call(shop: str) -> None:
    result = run("call", shop, "Fill", "@-", input='{"count": 1}\n{"nothing": 2}\n')
    assert (result.exit_code, result.stdout) == (ExitCode.USAGE, "")
    assert "nothing" in result.stderr


def test_nobody_at_the_address(engine: Engine) -> None:
    with short_folder() as folder:
        result = run("call", f"unix://{folder}/nobody", ORDER)
    assert result.exit_code == ExitCode.NO_CONNECTION
    assert result.stderr.startswith("error  ")


def test_waiting_in_vain(engine: Engine) -> None:
    with short_folder() as folder:
        for command in ("list", "health"):
            result = run(command, "--wait", "--timeout", 0.3, f"unix://{folder}/nobody")
            assert result.exit_code == ExitCode.TOO_LATE, result.stderr


def test_a_server_without_reflection_needs_a_file(silent_shop: str, tmp_path: Path) -> None:
    result = run("call", silent_shop, ORDER)
    assert result.exit_code == ExitCode.REFUSED
    assert "--proto" in result.stderr
    assert answer(run("call", silent_shop, ORDER, "name=x", "--proto", PROTO))["text"] == "0 x x"
    elsewhere = tmp_path / "import_it.proto"
    elsewhere.write_text('syntax = "proto3"; import "shop.proto";', encoding="utf-8")
    words = ["--proto", elsewhere, "-I", PROTO.parent]
    assert answer(run("call", silent_shop, ORDER, "name=x", *words))["text"] == "0 x x"
    words = ["--proto", PROTO.name, "-I", PROTO.parent]  # written like an import
    assert answer(run("call", silent_shop, ORDER, "name=x", *words))["text"] == "0 x x"


def test_answers_may_be_as_large_as_over_msgpack_rpc() -> None:
    """Beyond gRPC's 4 MiB, which nobody could change here."""
    size = 5 * 2**20
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: bytes(size))
    server = hvrpc.grpc.server()
    server.add_registered_method_handlers("a.B", {"C": handler})
    server.add_insecure_port("local://loopback/0")
    server.start()
    try:
        target = Target(server.addresses[0], timeout=30)
        with over_grpc.open_channel(target) as channel:
            method: Any = channel.unary_unary("/a.B/C")
            assert len(method(b"", timeout=30)) == size
    finally:
        server.stop(0).wait(30)


def test_imports_start_where_protoc_has_them_start(
    silent_shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-I says where; a file below it is known by its path from there, and imports nothing beside it."""
    folder = tmp_path / "protos" / "acme"
    folder.mkdir(parents=True)
    shutil.copy(PROTO, folder)
    file = folder / "import_it.proto"
    monkeypatch.chdir(tmp_path)

    def exit_code(imported: str, *words: object) -> int:
        file.write_text(f'syntax = "proto3"; import "{imported}";', encoding="utf-8")
        named = file.relative_to(tmp_path)
        return run("call", silent_shop, ORDER, "name=x", "--proto", named, *words).exit_code

    assert exit_code("acme/shop.proto", "-I", "protos") == 0
    assert exit_code("acme/shop.proto", "--proto-path", "protos") == 0
    assert exit_code("shop.proto", "-I", "protos/acme") == 0
    assert exit_code("shop.proto", "-I", "protos") == ExitCode.USAGE
    assert exit_code("shop.proto") == 0
    assert exit_code("protos/acme/shop.proto") == 0  # from where one is, as protoc without -I


def test_a_file_that_is_no_proto(engine: Engine, tmp_path: Path) -> None:
    broken = shutil.copy(PROTO, tmp_path / "broken.proto")
    Path(broken).write_text("this is nothing", encoding="utf-8")
    result = run("call", "unix:///nobody", ORDER, "--proto", broken)
    assert result.exit_code == ExitCode.USAGE
    assert "with -I" in result.stderr
    result = run("call", "unix:///nobody", ORDER, "--proto", "gone.proto", "-I", tmp_path)
    assert result.exit_code == ExitCode.USAGE
    assert f"there is no file gone.proto, nor below {tmp_path}" in result.stderr
    other = tmp_path / "set.bin"
    other.write_bytes(b"\xff\xff")
    result = run("call", "unix:///nobody", ORDER, "--proto", other)
    assert result.exit_code == ExitCode.USAGE
    assert "is neither" in result.stderr


def test_list(shop: str) -> None:
    lines = run("list", shop).stdout.splitlines()
    assert lines[lines.index(SHOP) + 1] == "  Order(OrderRequest) -> OrderReply"
    assert "  Talk(stream of OrderRequest) -> stream of OrderReply" in lines
    assert run("list", shop, "Till").stdout == (
        "shop.v1.Till\n  Open(OrderRequest) -> OrderReply\n"
    )
    rows = json.loads(run("list", shop, SHOP, "--json").stdout)
    assert rows[1] == {
        "service": SHOP,
        "method": "Watch",
        "signature": "Watch(OrderRequest) -> stream of OrderReply",
        "request": "shop.v1.OrderRequest",
        "response": "shop.v1.OrderReply",
        "client_streaming": False,
        "server_streaming": True,
    }


def test_describe_shows_what_the_proto_says(shop: str) -> None:
    told = run("describe", shop, "shop.v1.OrderRequest").stdout
    assert told == PROTO_OF_ORDER_REQUEST
    assert "rpc Order(shop.v1.OrderRequest) returns (shop.v1.OrderReply);" in told_of(shop, "Order")
    assert "message shop.v1.OrderReply {" in told_of(shop, "Order")
    assert told_of(shop, "shop.v1.Size") == "enum shop.v1.Size {\n  SMALL = 0;\n  LARGE = 1;\n}\n"
    assert "service shop.v1.Till {" in told_of(shop)
    assert told_of(shop, "OrderRequest") == told
    assert told_of(shop, "Address").startswith("message shop.v1.OrderRequest.Address {")
    assert told_of(shop, "Size").startswith("enum shop.v1.Size {")
    unknown = run("describe", shop, "shop.v1.Nothing")
    assert unknown.exit_code == ExitCode.REFUSED
    assert "no service, method, message or enum shop.v1.Nothing" in unknown.stderr


def told_of(shop: str, *words: str) -> str:
    return run("describe", shop, *words).stdout


PROTO_OF_ORDER_REQUEST = """\
message shop.v1.OrderRequest {
  string name = 1;
  int32 count = 2;
  shop.v1.Size size = 3;
  bytes picture = 4;
  repeated string tags = 5;
  map<string, int32> stock = 6;
  shop.v1.OrderRequest.Address address = 7;
  optional double price = 8;
  google.protobuf.Timestamp due = 9;
  oneof payment {
    string card = 10;
    bool cash = 11;
  }
  message Address {
    string city = 1;
  }
}
"""


def test_health(engine: Engine) -> None:
    with (
        short_folder() as folder,
        grpc_server(engine.load(), engine.at(f"{folder}/s")) as health,
    ):
        address = f"unix://{folder}/s"
        assert health is not None
        assert run("health", address).stdout == "SERVING\n"
        assert json.loads(run("health", address, "--json").stdout) == {
            "status": "SERVING",
            "service": "",
        }
        health.set(SHOP, 2)
        result = run("health", address, SHOP)
        assert (result.exit_code, result.stdout) == (ExitCode.FAILED, "NOT_SERVING\n")
        unknown = run("health", address, "nothing")
        assert unknown.exit_code == ExitCode.REFUSED
        assert "knows nothing of a service nothing" in unknown.stderr


def test_health_of_a_server_that_does_not_tell(silent_shop: str) -> None:
    result = run("health", silent_shop)
    assert result.exit_code == ExitCode.FAILED
    assert "has no health service" in result.stderr


def test_a_server_of_the_other_protocol(tools: tuple[str, Tools]) -> None:
    for command in ("list", "health", "describe"):
        result = run(command, tools[0])
        assert result.exit_code == ExitCode.NO_CONNECTION
        assert "if it speaks msgpack-RPC, add --msgpack" in result.stderr
    with short_folder() as folder, grpc_server(hvrpc.grpc, f"unix://{folder}/s"):
        result = run("list", "--msgpack", f"unix://{folder}/s")
        assert result.exit_code != 0
        assert "if it speaks gRPC, leave --msgpack out" in result.stderr
        assert "it has closed" not in result.stderr  # it has not: it speaks, only not so


def test_health_is_watched_until_the_server_ends(engine: Engine) -> None:
    with short_folder() as folder:
        address = f"unix://{folder}/s"
        with grpc_server(engine.load(), engine.at(f"{folder}/s")) as health:
            assert health is not None
            target = Target(Address.parse(address))
            watching: Any = over_grpc.watching(target, None)
            assert next(watching) == {"status": "SERVING", "service": ""}
            health.set("", 2)
            assert next(watching) == {"status": "NOT_SERVING", "service": ""}
            watching.close()


def test_ping_and_bench(shop: str, silent_shop: str) -> None:
    for address in (shop, silent_shop):
        assert "2 of 2 answered" in run("ping", address, "-c", 2, "-i", 0).stdout
    assert "3 calls" in run("bench", shop, "-n", 3).stdout
    assert "3 calls" in run("bench", shop, "-n", 3, "Order", "name=x").stdout
    assert "3 calls" in run("bench", shop, "-n", 3, "Watch", "count=2").stdout
    assert "3 calls" in run("bench", shop, "-n", 3, "Talk", "{}").stdout
