"""nginx as a front, started from the pages of the documentation: a child of the test, in a folder of it.

``python -m tests.interop.nginx`` gets it, without installing it: Debian's package would start a server.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .peers import CACHE
from .processes import PAUSE, START_SECONDS, STOP_SECONDS

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = CACHE / "nginx"
SECONDS = 300.0
"""To download one package."""

MISSING = "nginx is not there: run `python -m tests.interop.nginx`"

TEMPORARY = "client_body proxy fastcgi uwsgi scgi"
"""Folders that nginx makes when it starts, and by default where only root may."""


def find() -> str | None:
    """nginx' program, if there is one."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", f"{UNPACKED}/usr/sbin"])
    return shutil.which("nginx", path=places)


def download() -> None:
    """Get Debian's package and unpack it."""
    with tempfile.TemporaryDirectory() as folder:
        run = {"cwd": folder, "check": True, "timeout": SECONDS}
        subprocess.run(["apt-get", "download", "nginx"], **run)  # type: ignore[call-overload]
        (package,) = Path(folder).glob("nginx_*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(UNPACKED)], **run)  # type: ignore[call-overload]


def block_of(page: str, language: str) -> str:
    """The first block of that language on a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no block of {language}"
    return found[1]


def with_places(text: str, places: Mapping[str, object]) -> str:
    """The text with other places in it; each of them has to be there."""
    for old, new in places.items():
        assert old in text, f"{old} is not in the configuration"
        text = text.replace(old, str(new))
    return text


@contextmanager
def running(configuration: str, folder: Path) -> Iterator[None]:
    """nginx with a configuration, as this user and in one process."""
    program = find()
    assert program is not None, MISSING
    paths = " ".join(f"{name}_temp_path {folder}/{name};" for name in TEMPORARY.split())
    file = folder / "nginx.conf"
    file.write_text(
        configuration.replace("http {", f"http {{ access_log off; {paths}", 1), encoding="utf-8"
    )
    globally = f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr notice;"
    words = [program, "-p", str(folder), "-c", str(file), "-e", "stderr", "-g", globally]
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process,
    ):
        try:
            _wait_until_it_listens(process, configuration, output)
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_it_listens(
    process: subprocess.Popen[bytes], configuration: str, output: Any
) -> None:
    found = re.search(r"listen 127\.0\.0\.1:(\d+)", configuration)
    assert found is not None
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", int(found[1])), 1).close()
        except ConnectionRefusedError:
            time.sleep(PAUSE)
        else:
            return
    output.seek(0)
    raise RuntimeError(f"nginx did not start:\n{output.read().decode(errors='replace')}")


if __name__ == "__main__":
    if find() is None:
        download()
    sys.exit(None if find() else MISSING)
