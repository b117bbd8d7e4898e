"""Every example in a help text is right: it can be parsed, and where it can run here, it runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from hvrpc.cli.manual import all_commands, examples
from hvrpc.testing import Fabric

from ..sockets.places import short_folder
from . import world
from .processes import WAIT, Served
from .runs import run

RUN_AS_THEY_ARE = ("call", "list", "describe", "health", "ping", "bench", "completion")
UNTIL_STOPPED = ("serve", "ping --count 0")
"""These run until they are stopped. Commands that stand in neither list are parsed only: they look
after Windows, or are tried with what they need by tests of their own."""

APART = re.compile(r"[<>&|$]|//parent/")
"""Examples that need a shell, or play a VM, are run in a process of their own; the others in this one."""

EXAMPLES = sorted({example for context in all_commands() for example in examples(context.command)})


def begins_with(example: str, commands: tuple[str, ...]) -> bool:
    return example.startswith(tuple(f"hvrpc {command} " for command in commands)) or (
        "$(hvrpc completion" in example and "completion" in commands
    )


posix = pytest.mark.skipif(
    os.name != "posix" or shutil.which("bash") is None, reason="needs bash; run it on Linux"
)


def parsed(example: str) -> click.Context:
    """What click makes of an example. Raises click.UsageError for what it does not know."""
    words = shlex.split(example.partition(" &&")[0].partition(" <")[0].partition(" >")[0])
    assert words[0] == "hvrpc"
    return _parsed(next(all_commands()).find_root(), words[1:])


def _parsed(context: click.Context, words: list[str]) -> click.Context:
    command = context.command
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
        context = click.Context(command, context, info_name=name)
    command.parse_args(context, words)
    return context


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_can_be_parsed(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if example.startswith("hvrpc "):  # otherwise it is a line of shell, which is run below
        monkeypatch.chdir(tmp_path)
        for name in re.findall(r"(?<= )[\w-]+\.[a-z]+(?= |$)", example):
            (tmp_path / name).touch()  # a file that it reads
        assert not isinstance(parsed(example).command, click.Group)


# --- Running them ----------------------------------------------------------------------------------


@dataclass
class World:
    folder: Path
    environment: dict[str, str]

    def here(self, example: str) -> str:
        return example.replace("/run/agent.sock", f"{self.folder}/agent.sock")

    def shell(self, example: str) -> list[str]:
        """An example as a command; `hvrpc` is the one of this Python."""
        line = self.here(example)
        function = f'hvrpc() {{ {shlex.quote(sys.executable)} -W error -m hvrpc "$@"; }}'
        return ["bash", "-e", "-o", "pipefail", "-c", f"{function}\n{line}"]

    def variables(self, example: str) -> dict[str, str]:
        """Examples that call the parent, or serve in a VM, run in one."""
        if "//parent/" in example:
            return {**self.environment, "HVRPC_FABRIC_VM": "My VM"}
        if " serve " in example:
            return {**self.environment, "HVRPC_FABRIC_VM": "Another VM"}
        return self.environment


@pytest.fixture(scope="module")
def there() -> Iterator[World]:
    with short_folder() as name, Fabric() as fabric:
        folder = Path(name)
        (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff")
        (folder / "messages.jsonl").write_text('{"name": "a"}\n{"name": "b"}\n', encoding="utf-8")
        (folder / "agent.py").write_text("from tests.cli.world import Agent\n", encoding="utf-8")
        (folder / ".config" / "fish" / "completions").mkdir(parents=True)
        write_servicers(folder)
        path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
        fabric.guest("My VM", world.guest, ready="told")
        environment: dict[str, str] = {
            **os.environ,
            "PYTHONPATH": path,
            "HOME": str(folder),
            "SHELL": "/bin/bash",
        }
        with world.serving(f"unix://{folder}/agent.sock"):
            yield World(folder, environment)


def write_servicers(folder: Path) -> None:
    """Modules `greeter` and `clock` with gRPC servicers, on what grpcio's generator writes."""
    from grpc_tools import protoc

    out = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main(["protoc", f"-I{world.PROTO.parent}", *out, world.PROTO.name]) == 0
    for name in ("Greeter", "Clock"):
        (folder / f"{name.lower()}.py").write_text(
            f"from helloworld_pb2_grpc import {name}Servicer\nclass {name}({name}Servicer): ...\n",
            encoding="utf-8",
        )


@posix
@pytest.mark.parametrize(
    "example",
    [
        each
        for each in EXAMPLES
        if begins_with(each, RUN_AS_THEY_ARE) and not begins_with(each, UNTIL_STOPPED)
    ],
)
def test_an_example_runs(there: World, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not APART.search(example):
        monkeypatch.chdir(there.folder)
        result = run(*shlex.split(there.here(example))[1:])
        assert result.exit_code == 0, result.output
        return
    done = subprocess.run(
        there.shell(example),
        cwd=there.folder,
        env=there.variables(example),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@contextmanager
def running(there: World, example: str) -> Iterator[Served]:
    """An example that runs until it is stopped; `exec`, so that signals reach it."""
    words = shlex.split(example)
    assert words[0] == "hvrpc"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "hvrpc", *words[1:]],
        cwd=there.folder,
        env=there.variables(example),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    served = Served(process)
    try:
        yield served
    finally:
        served.close()


@posix
@pytest.mark.parametrize("example", [each for each in EXAMPLES if begins_with(each, UNTIL_STOPPED)])
def test_an_example_runs_until_it_is_stopped(there: World, example: str) -> None:
    with running(there, example) as served:
        served.wait_for("serving " if "serve" in example else "   2  ")
        assert served.end(signal.SIGTERM if "serve" in example else signal.SIGINT) == 0
