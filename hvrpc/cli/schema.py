"""What a gRPC service looks like: its descriptors, from the server's reflection or from files."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import grpc
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from .errors import ExitCode, Failure, missing

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor as MessageDescriptor
    from google.protobuf.descriptor import (
        EnumDescriptor,
        MethodDescriptor,
        ServiceDescriptor,
    )
    from google.protobuf.message import Message

    Symbol = ServiceDescriptor | MethodDescriptor | MessageDescriptor | EnumDescriptor

REFLECTION: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
"""The same messages under two names; servers have one or both."""


class Schema:
    """Services and messages by name."""

    def __init__(
        self, files: Iterable[descriptor_pb2.FileDescriptorProto], services: Sequence[str]
    ):
        self.pool = DescriptorPool()
        self._files = {file.name: file for file in files}
        _add_all(self.pool, self._files)
        # A server may name a service, its own reflection say, that it cannot describe.
        self.services = sorted(name for name in services if self._knows(name))

    def _knows(self, service: str) -> bool:
        try:
            self.pool.FindServiceByName(service)
        except KeyError:
            return False
        return True

    def service(self, name: str) -> ServiceDescriptor:
        """A service by its full name, or by an end of it that only one has."""
        return self.pool.FindServiceByName(_the_one(name, self.services, "service"))

    def method(self, name: str) -> MethodDescriptor:
        """A method: `pkg.Service/Method`, `Service.Method`, or `Method` if only one is called so."""
        methods = self._methods()
        wanted = name.removeprefix("/").replace("/", ".")
        return methods[_the_one(wanted, [*methods], "method")]

    def _methods(self) -> dict[str, MethodDescriptor]:
        return {
            f"{service}.{method.name}": method
            for service in self.services
            for method in self.pool.FindServiceByName(service).methods
        }

    def symbol(self, name: str) -> Symbol:
        """A service, method, message or enum: by its full name, or by an end that only one has."""
        plain = name.removeprefix("/").replace("/", ".").removeprefix(".")
        services = {each: self.pool.FindServiceByName(each) for each in self.services}
        # What is called before what it takes: a method `Order` before a message `Order`.
        for known in ({**services}, {**self._methods()}, self._types()):
            alike = [each for each in known if f".{each}".endswith(f".{plain}")]
            if alike:
                return known[_the_one(plain, alike, "symbol")]
        raise Failure(
            f"there is no service, method, message or enum {name}",
            why=f"the services are: {', '.join(services) or 'none'}",
            do="hvrpc list shows their methods, hvrpc describe what these take",
            code=ExitCode.REFUSED,
        )

    def _types(self) -> dict[str, Symbol]:
        """Messages and enums of all files, also those within messages."""
        types: dict[str, Symbol] = {}

        def add(scope: str, messages: Iterable[Any], enums: Iterable[Any]) -> None:
            for enum in enums:
                types[f"{scope}{enum.name}"] = self.pool.FindEnumTypeByName(f"{scope}{enum.name}")
            for message in messages:
                name = f"{scope}{message.name}"
                types[name] = self.pool.FindMessageTypeByName(name)
                add(f"{name}.", message.nested_type, message.enum_type)

        for file in self._files.values():
            add(f"{file.package}." if file.package else "", file.message_type, file.enum_type)
        return types


def _the_one(name: str, known: Sequence[str], what: str) -> str:
    if name in known:
        return name
    alike = [each for each in known if each.endswith(f".{name}")]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise Failure(
            f"there are several {what}s {name}",
            do=f"say which one: {', '.join(alike)}",
            code=ExitCode.USAGE,
        )
    raise Failure(
        f"there is no {what} {name}",
        why=f"there are: {', '.join(known) or 'none'}",
        code=ExitCode.REFUSED,
    )


def request_class(method: MethodDescriptor) -> type[Message]:
    return message_factory.GetMessageClass(method.input_type)


def response_class(method: MethodDescriptor) -> type[Message]:
    return message_factory.GetMessageClass(method.output_type)


def _add_all(pool: DescriptorPool, files: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    """Add files after those they import."""
    added: set[str] = set()

    def add(name: str) -> None:
        if name in added or name not in files:
            return
        added.add(name)
        for needed in files[name].dependency:
            add(needed)
        pool.Add(files[name])

    for name in files:
        add(name)


# --- From a server ----------------------------------------------------------------------------------


def of_server(channel: grpc.Channel, address: object, timeout: float | None) -> Schema:
    """Ask a server for everything it serves."""
    try:
        from grpc_reflection.v1alpha import reflection_pb2 as messages
    except ImportError as error:
        raise missing("grpcio-reflection", "grpc") from error

    def ask(name: str, requests: Sequence[Any]) -> list[Any]:
        call: Any = channel.stream_stream(
            f"/{name}/ServerReflectionInfo",
            request_serializer=messages.ServerReflectionRequest.SerializeToString,
            response_deserializer=messages.ServerReflectionResponse.FromString,
        )
        return list(call(iter(requests), timeout=timeout))

    list_services = messages.ServerReflectionRequest(list_services="*")
    for name in REFLECTION:
        try:
            [answer] = ask(name, [list_services])
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            continue
        services = [each.name for each in answer.list_services_response.service]
        return Schema(_files_of(services, functools.partial(ask, name), messages), services)
    raise Failure(
        f"{address} does not tell what it serves",
        why="it has no reflection",
        do="name the .proto file with --proto, or let the server describe itself:"
        " hvrpc.grpc.server(…, reflection=True)",
        code=ExitCode.REFUSED,
    )


def _files_of(
    services: Sequence[str], ask: Any, messages: Any
) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    """The files of some services, with all that these import; servers need not send those at once."""
    request = messages.ServerReflectionRequest
    requests = [request(file_containing_symbol=name) for name in services]
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    while requests:
        for answer in ask(requests):
            for encoded in answer.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(encoded)
                found[file.name] = file
        asked = {each.file_by_filename for each in requests}
        needed = {name for file in found.values() for name in file.dependency} - found.keys()
        requests = [request(file_by_filename=name) for name in sorted(needed - asked)]
    yield from found.values()


# --- From files -------------------------------------------------------------------------------------


def of_files(protos: Sequence[str], include: Sequence[str]) -> Schema:
    """Read .proto files, and descriptor sets as `protoc --descriptor_set_out` writes them."""
    sources = [name for name in protos if name.endswith(".proto")]
    sets = [_descriptor_set(name) for name in protos if name not in sources]
    if sources:
        sets.append(descriptor_pb2.FileDescriptorSet.FromString(_compiled(sources, include)))
    files = [file for each in sets for file in each.file]
    names = [
        f"{file.package}.{service.name}".removeprefix(".")
        for file in files
        for service in file.service
    ]
    return Schema(files, list(dict.fromkeys(names)))


def _descriptor_set(name: str) -> descriptor_pb2.FileDescriptorSet:
    try:
        return descriptor_pb2.FileDescriptorSet.FromString(Path(name).read_bytes())
    except DecodeError as error:
        raise click.UsageError(f"{name} is neither a .proto file nor a descriptor set") from error


def _roots(sources: Sequence[str], include: Sequence[str]) -> list[str]:
    """Where imports start from. As with protoc it is -I that says so; beyond that a file that lies below
    none of those is looked for, and without any -I the folder of each file will do."""
    known = [Path(folder).resolve() for folder in include]
    astray = [
        os.path.dirname(name) or "."
        for name in sources
        if not any(Path(name).resolve().is_relative_to(folder) for folder in known)
    ]
    return list(dict.fromkeys([*include, *astray] if include else [*astray, "."]))


def _compiled(sources: Sequence[str], include: Sequence[str]) -> bytes:
    try:
        import grpc_tools
        from grpc_tools import protoc
    except ImportError as error:
        raise missing("grpcio-tools", "codegen") from error
    own = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    folders = [*_roots(sources, include), own]
    with tempfile.TemporaryDirectory(prefix="hvrpc-") as folder:
        result = os.path.join(folder, "descriptors")
        paths = [f"--proto_path={each}" for each in folders]
        options = ["--include_imports", f"--descriptor_set_out={result}"]
        if protoc.main(["protoc", *paths, *options, *sources]):
            raise Failure(
                "the .proto files cannot be read",
                why="protoc has told the reason above",
                do="correct them; name the folder that their imports start from with -I",
                code=ExitCode.USAGE,
            )
        return Path(result).read_bytes()
