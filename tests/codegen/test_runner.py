"""The command: which files, what is written, and what is said when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hvrpc_codegen import runner

HELLO = """\
syntax = "proto3";
package hello;
service Greeter { rpc Hello(Name) returns (Name); }
message Name { string name = 1; }
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in a folder of its own; answers exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        code = runner.main("hvrpc codegen", words)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def write(**files: str) -> None:
    for name, text in files.items():
        path = Path(name.replace("__", "/") + ".proto")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def files_in(folder: str) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()
    )


MADE = ["hello_hvrpc.py", "hello_pb2.py", "hello_pb2.pyi", "hello_pb2_grpc.py"]


def test_one_file(run: Run) -> None:
    write(hello=HELLO)
    code, out, err = run("hello.proto", "--out", "gen")
    assert (code, err) == (0, "")
    assert out.startswith("wrote gen/hello_hvrpc.py\n")
    assert files_in("gen") == MADE


def test_what_is_there_already_is_left_alone(run: Run) -> None:
    write(hello=HELLO)
    run("hello.proto", "--out", "gen")
    long_ago = 1_000_000_000
    for name in MADE:
        os.utime(Path("gen", name), (long_ago, long_ago))
    Path("gen/hello_pb2.py").write_text("changed", encoding="utf-8")
    assert run("hello.proto", "--out", "gen")[1] == (
        "wrote gen/hello_pb2.py\n1 files written, 3 were as they should be\n"
    )
    touched = [name for name in MADE if Path("gen", name).stat().st_mtime != long_ago]
    assert touched == ["hello_pb2.py"]


def test_check_compares_and_says_what_mends_it(run: Run) -> None:
    write(protos__hello=HELLO)
    words = ("--out", "gen", "-I", "protos")
    code, _, err = run(*words, "--check")
    assert code == 1
    assert not Path("gen").exists()
    assert "gen/hello_hvrpc.py is missing\n" in err
    command = err.splitlines()[-1].removeprefix("write them again: hvrpc codegen ")
    assert command == "--out gen -I protos"
    assert run(*command.split())[0] == 0
    assert run(*words, "--check")[:2] == (0, "4 files are as they should be\n")
    Path("gen/hello_hvrpc.py").write_text("changed", encoding="utf-8")
    code, _, err = run(*words, "--check", "--imports", "relative", "--init", "--foreign", "x")
    assert code == 1
    assert "gen/hello_hvrpc.py is stale\n" in err
    assert err.endswith("--out gen -I protos --foreign x --imports relative --init\n")


def test_without_names_all_files_below_the_roots_are_meant(run: Run) -> None:
    write(protos__hello=HELLO, protos__deep__other=HELLO.replace("package hello", "package other"))
    write(protos__node_modules__not_ours="nonsense")
    assert run("--out", "gen", "-I", "protos")[0] == 0
    assert "deep/other_hvrpc.py" in files_in("gen")
    assert len(files_in("gen")) == 8


def test_a_folder_is_searched(run: Run) -> None:
    write(protos__deep__hello=HELLO)
    assert run("protos/deep", "--out", "gen", "-I", "protos")[0] == 0
    assert "deep/hello_hvrpc.py" in files_in("gen")


def test_what_is_imported_is_generated_as_well(run: Run) -> None:
    user = 'syntax = "proto3"; import "common/hello.proto"; message User { hello.Name name = 1; }'
    write(protos__common__hello=HELLO, protos__users__user=user)
    assert run("protos/users/user.proto", "--out", "gen", "-I", "protos")[0] == 0
    assert "common/hello_pb2.py" in files_in("gen")
    assert "users/user_hvrpc.py" not in files_in("gen"), "it has no services"
    text = Path("gen/users/user_pb2.py").read_text(encoding="utf-8")
    assert "from ..common import hello_pb2 as" in text


def test_foreign_files_are_not_generated(run: Run) -> None:
    user = (
        'syntax = "proto3"; import "vendor/hello.proto";'
        " service Users { rpc Get(hello.Name) returns (hello.Name); }"
    )
    write(protos__vendor__hello=HELLO, protos__user=user)
    assert run("protos/user.proto", "--out", "gen", "-I", "protos", "--foreign", "vendor")[0] == 0
    assert [name for name in files_in("gen") if name.startswith("vendor")] == []
    for made in ("user_pb2.py", "user_hvrpc.py", "user_pb2_grpc.py"):
        text = Path("gen", made).read_text(encoding="utf-8")
        assert "from vendor import hello_pb2" in text


def test_absolute_imports_are_for_a_folder_on_the_path(run: Run) -> None:
    write(protos__deep__hello=HELLO)
    assert run("--out", "gen", "-I", "protos", "--imports", "absolute")[0] == 0
    text = Path("gen/deep/hello_hvrpc.py").read_text(encoding="utf-8")
    assert "from deep import hello_pb2" in text
    imports = "import deep.hello_hvrpc, deep.hello_pb2_grpc"
    subprocess.run([sys.executable, "-c", imports], cwd="gen", check=True, timeout=30)


def test_init_files(run: Run) -> None:
    write(protos__deep__hello=HELLO)
    assert run("--out", "gen", "-I", "protos", "--init")[0] == 0
    assert {"__init__.py", "deep/__init__.py"} <= set(files_in("gen"))


# --- What is wrong, where, and what to do ---


def told(run: Run, *words: str) -> str:
    code, out, err = run(*(words or ("hello.proto", "--out", "gen")))
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert not Path("gen").exists(), "nothing is written when something is wrong"
    return err


def test_a_syntax_error(run: Run) -> None:
    write(hello=HELLO.replace("string name = 1;", "string name = 1"))
    err = told(run)
    assert err.startswith('error: hello.proto:4:32: Expected ";"')
    assert "the mistake is there, or just before" in err
    assert "    message Name { string name = 1 }\n" in err
    assert err.splitlines()[2].index("^") == len("    message Name { string name = 1 ")


def test_an_import_that_is_not_found(run: Run) -> None:
    write(hello=HELLO.replace("package", 'import "other/thing.proto";\npackage'))
    err = told(run)
    assert err.count("error: ") == 1
    assert 'error: hello.proto:2:1: Import "other/thing.proto" was not found' in err
    assert "name the folder that has other/thing.proto below it with -I" in err


def test_a_type_that_is_not_known(run: Run) -> None:
    write(hello=HELLO.replace("returns (Name)", "returns (Nam)"))
    err = told(run)
    assert "hello.proto:3:" in err
    assert '"Nam" is not defined' in err
    assert "import the file that defines Nam, or check its spelling" in err


def test_methods_that_would_be_called_alike(run: Run) -> None:
    methods = "{\n  rpc GetURL(Name) returns (Name);\n  rpc Get_url(Name) returns (Name);\n}"
    write(hello=HELLO.replace("{ rpc Hello(Name) returns (Name); }", methods))
    err = told(run)
    assert err.startswith(
        "error: hello.proto:5:3: Greeter.GetURL and Greeter.Get_url would both be called get_url in"
        " Python; rename one of them\n"
    )


def test_services_that_would_be_called_alike(run: Run) -> None:
    write(hello=HELLO + "service GreeterAsync { rpc Hello(Name) returns (Name); }\n")
    assert (
        "hello.proto:5:1: the services Greeter and GreeterAsync would both have a class"
        " GreeterAsyncClient; rename one of them"
    ) in told(run)


def test_files_that_would_become_the_same_module(run: Run) -> None:
    write(hello_you=HELLO)
    Path("hello-you.proto").write_text(HELLO.replace("package hello", "package b"), "utf-8")
    err = told(run, "--out", "gen")
    assert "it would become the same module as hello-you.proto: hello_you_pb2" in err


def test_a_message_that_python_cannot_name(run: Run) -> None:
    write(hello=HELLO.replace("Name", "None"))
    assert "hello.proto:3:19: the message hello.None cannot be named in Python" in told(run)


def test_a_file_that_is_not_there(run: Run) -> None:
    err = told(run, "nowhere.proto", "--out", "gen")
    assert "nowhere.proto: there is no such file here or below .; check its name" in err


def test_a_file_outside_of_the_roots(run: Run) -> None:
    write(protos__hello=HELLO, other__hello=HELLO)
    err = told(run, "other/hello.proto", "--out", "gen", "-I", "protos")
    assert "does not lie below protos" in err
    assert "-I other" in err


def test_a_folder_without_files(run: Run) -> None:
    Path("empty").mkdir()
    assert "empty: there is no .proto file below" in told(
        run, "empty", "--out", "gen", "-I", "empty"
    )


def test_an_output_folder_that_cannot_be_written(run: Run) -> None:
    write(hello=HELLO)
    Path("file").write_text("", encoding="utf-8")
    code, _, err = run("hello.proto", "--out", "file/gen")
    assert code == 1
    assert err.startswith("error: ")


def test_the_module_is_a_command(tmp_path: Path) -> None:
    (tmp_path / "hello.proto").write_text(HELLO, encoding="utf-8")
    command = [sys.executable, "-W", "error", "-m", "hvrpc_codegen", "hello.proto", "--out", "gen"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "gen/hello_hvrpc.py").exists()
