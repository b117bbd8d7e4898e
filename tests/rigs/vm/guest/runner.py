"""Runs in a guest: starts the job, passes on what it prints, reports what became of it.

Argument: base64 of the JSON that `qemu.Job.encoded` makes. The report goes to a serial port of its
own, line by line: `started`, then `exit <code>`. So neither the kernel's messages nor the job's
output can be taken for it.
"""

import base64
import json
import os
import subprocess
import sys
import termios
import threading
import tty
from typing import IO, Any

OUTPUT_PORT = "/dev/ttyS1"
REPORT_PORT = "/dev/ttyS2"
TIME_LIMIT_REACHED = 124


def open_port(path: str) -> int:
    port = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(port)
    return port


def report(port: int, line: str) -> None:
    os.write(port, line.encode() + b"\n")
    termios.tcdrain(port)


def copy(source: IO[bytes], port: int) -> None:
    while chunk := os.read(source.fileno(), 65536):
        while chunk:
            chunk = chunk[os.write(port, chunk) :]


def run(job: dict[str, Any], port: int) -> int:
    # A pipe rather than the port itself, which pytest would take for a terminal.
    process = subprocess.Popen(
        job["command"],
        cwd="/tmp/rig/project",
        env={**os.environ, **job["environment"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    pump = threading.Thread(target=copy, args=(process.stdout, port), daemon=True)
    pump.start()
    code: int
    try:
        code = process.wait(job["limit"])
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = TIME_LIMIT_REACHED
    # A process that the job left behind may still hold the pipe.
    pump.join(2.0)
    return code if code >= 0 else 128 - code


def main() -> None:
    output, reports = open_port(OUTPUT_PORT), open_port(REPORT_PORT)
    job = json.loads(base64.urlsafe_b64decode(sys.argv[1]))
    report(reports, "started")
    code = run(job, output)
    termios.tcdrain(output)
    report(reports, f"exit {code}")


main()
