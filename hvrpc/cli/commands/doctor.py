"""`hvrpc doctor`: what is wrong with this machine, and with an address."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import click

from ...addresses import Address
from .. import output
from ..doctor import checks, probe
from ..doctor.farside import DIED, FarSide
from ..doctor.findings import Finding, Status
from ..doctor.machine import Machine, look
from ..doctor.selftest import Battery, Step
from ..errors import AS_IT_IS, ExitCode, Failure
from ..targets import Asked, Seconds, server_options

EPILOG = """\b
Examples:
  hvrpc doctor
  hvrpc doctor hvsock://parent/50051
  hvrpc doctor "hvsock://My VM/50051" --tls-ca ca.pem
  hvrpc doctor --selftest --report report.json         both ends on this machine

\b
Between a guest and its host:
  hvrpc doctor --listen hvsock://any/50099             in the guest
  hvrpc doctor "hvsock://My VM/50099" --selftest --report report.json
"""

STYLES = {Status.OK: "green", Status.NOTE: "yellow", Status.PROBLEM: "bold red"}


@click.command(epilog=EPILOG)
@click.argument("address", required=False)
@click.option(
    "--timeout",
    type=Seconds(least=0.1, most=300),
    default=5,
    show_default=True,
    metavar="SECONDS",
    help="For a connection to ADDRESS.",
)
@server_options
@click.option(
    "--selftest",
    "wants_selftest",
    is_flag=True,
    help="Try what sockets have to do, for about ten seconds.",
)
@click.option(
    "--megabytes",
    type=click.IntRange(1, 1024),
    default=64,
    show_default=True,
    help="The size of the selftest's large transfers.",
)
@click.option(
    "--listen", "offer", metavar="ADDRESS", help="Be the other end of a selftest, until Ctrl-C."
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all of it into a file (JSON).",
)
@output.json_option
def command(
    address: str | None,
    timeout: float,
    asked: Asked,
    wants_selftest: bool,
    megabytes: int,
    offer: str | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Look at this machine and tell what is well, what is not, and what to do about it.

    With ADDRESS also whether it answers, and what speaks there; the options for TLS and --expect-peer
    are those of a call. Nothing is changed, and without an ADDRESS no VM is called. The exit code is 0
    if there is no problem, and 1 if there is one.

    --selftest tries connecting, both kinds of closing, large transfers, timeouts and a kill: with both
    ends on this machine, or with the other end at ADDRESS, where hvrpc doctor --listen runs.
    """
    if asked != Asked() and (address is None or wants_selftest):
        raise click.UsageError(
            "--expect-peer and the --tls options are for a server at ADDRESS; the selftest has no TLS"
        )
    if offer is not None:
        _be_far_side(Address.parse(offer))
        return
    where = None if address is None else Address.parse(address)
    seen = look()
    findings = _examine(seen, where, None if wants_selftest else timeout, asked, as_json)
    steps = _selftest(seen, where, megabytes, as_json) if wants_selftest else None
    told = _report(seen, findings, steps, where)
    if as_json:
        output.print_json(told)
    if report is not None:
        _write(report, told)
    failed = [finding for finding in findings if finding.status is Status.PROBLEM]
    failed_steps = [step for step in steps or () if not step.passed]
    if not as_json:
        _sum_up(len(failed), len(failed_steps), steps)
    if failed or failed_steps:
        click.get_current_context().exit(ExitCode.FAILED)


def _examine(
    seen: Machine, address: Address | None, timeout: float | None, asked: Asked, as_json: bool
) -> list[Finding]:
    """What there is to say; without a timeout the address is not called."""
    findings = checks.judge(seen, address)
    if not as_json:
        for finding in findings:
            _tell(finding)
    if address is not None and timeout is not None:
        findings.append(
            probe.examine(address, timeout, expect_peer=asked.expect_peer, tls=asked.tls)
        )
        if not as_json:
            _tell(findings[-1])
    return findings


def _tell(finding: Finding) -> None:
    from rich.text import Text

    label = Text(finding.status.value.rjust(7), STYLES[finding.status])
    console = output.console()
    console.print(Text.assemble(label, "  ", f"{finding.about}: {finding.text}"), soft_wrap=True)
    for line in finding.do.splitlines():
        text = line if line.startswith(AS_IT_IS) else f"-> {line}"
        console.print(Text(f"{'':9}{text}"), soft_wrap=True)


def _selftest(seen: Machine, address: Address | None, megabytes: int, as_json: bool) -> list[Step]:
    far = FarSide(own_address(seen)) if address is None else None
    try:
        if far is not None:
            _start(far)
        where = address if far is None else far.address
        assert where is not None
        if not as_json:
            output.say(f"\nselftest with {where}", "bold")
        battery = Battery(where, megabytes, far)
        return battery.run((lambda step: None) if as_json else _tell_step)
    finally:
        if far is not None:
            far.kill()


def own_address(seen: Machine) -> str:
    """Where both ends can be on this machine. AF_VSOCK only if somebody asks for it."""
    has_hyperv = seen.windows is not None and seen.windows.hyperv_socket == 0
    return "hvsock://loopback/0" if has_hyperv else "local://loopback/0"


def _start(far: FarSide) -> None:
    try:
        far.start()
    except ValueError as error:
        raise Failure(
            f"nothing can listen on {far.address}",
            why=str(error),
            do="hvrpc doctor, without --selftest, tells what is missing",
        ) from error


def _tell_step(step: Step) -> None:
    """Details are for the report."""
    from rich.text import Text

    status = Status.OK if step.passed else Status.PROBLEM
    label = Text((status.value if step.passed else "failed").rjust(7), STYLES[status])
    told = step.figures if step.error is None else {"": step.error["text"]}
    figures = ", ".join(
        f"{name} {value}".strip()
        for name, value in told.items()
        if value is not None and not isinstance(value, dict)
    )
    line = Text.assemble(label, "  ", f"{step.name:<26}", (f" {figures}", "dim"))
    output.console().print(line, soft_wrap=True)


def _report(
    seen: Machine, findings: list[Finding], steps: list[Step] | None, address: Address | None
) -> dict[str, Any]:
    return {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": seen,
        "address": None if address is None else str(address),
        "findings": findings,
        "selftest": steps,
    }


def _write(file: Path, told: dict[str, Any]) -> None:
    try:
        file.write_text(output.json_text(told), encoding="utf-8")
    except OSError as error:
        raise Failure(
            f"{file} cannot be written", why=error.strerror or str(error), do="name another file"
        ) from error
    output.say(f"the report is in {file}", stderr=True)


def _sum_up(problems: int, failed: int, steps: list[Step] | None) -> None:
    told = ["no problem" if not problems else f"{problems} problem{'s'[: problems > 1]}"]
    if steps is not None:
        told.append(f"selftest {'passed' if not failed else 'failed'}")
    output.say(f"\n{', '.join(told)}", "bold" if not (problems or failed) else "bold red")


def _be_far_side(address: Address) -> None:
    """Serve until Ctrl-C, and start again whenever a caller has asked for a death."""
    far = FarSide(address, tells=True)
    try:
        while True:
            _start(far)
            output.say(f"listening on {far.address}, until Ctrl-C")
            for caller in far.callers():
                output.say(f"called by {caller}", "dim")
            code = far.wait()
            if code != DIED:
                raise Failure(f"the other end of the selftest has ended with exit code {code}")
            output.say("ended as asked for, and starts again", "dim")
    except KeyboardInterrupt:
        pass  # how one ends it
    finally:
        far.kill()
