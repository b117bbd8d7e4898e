"""`hvrpc service`: which services of this host its guests may call."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click

from ...windows import export as scripts
from ...windows import privileges, registration
from ...windows.registration import Change, Origin, Service
from .. import output
from ..errors import ExitCode, Failure

Function = TypeVar("Function", bound=Callable[..., Any])

EPILOG = """\b
Examples:
  hvrpc service register agent --port 5000       as administrator, once
  hvrpc service status agent
  hvrpc service export agent --port 5000 --powershell --out register.ps1
"""


@click.group(epilog=EPILOG)
def command() -> None:
    """Register services that this Windows host offers its guests.

    A guest can call its host only on a service that is registered there, which takes an administrator
    once. Nothing has to be registered in a guest, nor for what a guest offers to its host.
    """


def number_options(function: Function) -> Function:
    """How a service is told apart: by a port, which Linux guests need, or by a GUID."""
    guid = click.option("--guid", type=click.UUID, help="Its id, for guests with Windows only.")
    port = click.option("--port", type=int, help="Its port, for guests of every kind.")
    return port(guid(function))


def dry_run_option(function: Function) -> Function:
    return click.option("--dry-run", is_flag=True, help="Only tell what would be done.")(function)


# --- Changing ------------------------------------------------------------------------------------


@command.command(
    epilog="""\b
Examples:
  hvrpc service register agent                   on a port that follows from the name
  hvrpc service register agent --port 5000
  hvrpc service register agent --guid 6e1d2c3b-4a59-4687-9706-f5e4d3c2b1a0 --dry-run
"""
)
@click.argument("name")
@number_options
@dry_run_option
@output.json_option
def register(name: str, port: int | None, guid: UUID | None, dry_run: bool, as_json: bool) -> None:
    """Let guests call a service of this host.

    NAME is what addresses may call it on this host. Without --port and --guid it gets a port that
    follows from its name, the same on every host unless it is taken. What is registered already is no
    error.
    """
    change = registration.register(name, port=port, guid=guid, dry_run=dry_run)
    if as_json:
        output.print_json(
            {**_row(change.service), "was_there": change.was_there, "dry_run": dry_run}
        )
        return
    output.say(_told(change))
    output.say(f"listen on {change.service.address}, and call it from a guest as", "dim")
    output.say(f"  {change.service.address.replace('any', 'parent', 1)}", "dim")


def _told(change: Change) -> str:
    if change.was_there:
        return f"{change.service} is registered already"
    return f"{change.service} {'would be' if change.dry_run else 'is'} registered"


@command.command(
    epilog="""\b
Examples:
  hvrpc service remove agent
  hvrpc service remove 5000 --dry-run
"""
)
@click.argument("which", metavar="NAME|PORT|GUID")
@click.option("--others", is_flag=True, help="Also one that something else has registered.")
@dry_run_option
@output.json_option
def remove(which: str, others: bool, dry_run: bool, as_json: bool) -> None:
    """Remove a service. Those of Windows itself are never removed."""
    _tell_removed([registration.remove(which, others=others, dry_run=dry_run)], dry_run, as_json)


@command.command(
    epilog="""\b
Examples:
  hvrpc service reset --dry-run
  hvrpc service reset
"""
)
@dry_run_option
@output.json_option
def reset(dry_run: bool, as_json: bool) -> None:
    """Remove what hvrpc has registered, and nothing else."""
    _tell_removed(registration.reset(dry_run=dry_run), dry_run, as_json)


def _tell_removed(services: list[Service], dry_run: bool, as_json: bool) -> None:
    if as_json:
        output.print_json({"removed": [_row(service) for service in services], "dry_run": dry_run})
        return
    for service in services:
        output.say(f"{service} {'would be' if dry_run else 'is'} removed")
    if not services:
        output.say("hvrpc has registered nothing here")


# --- Looking -------------------------------------------------------------------------------------


@command.command(
    name="list",
    epilog="""\b
Examples:
  hvrpc service list
  hvrpc service list --json
""",
)
@output.json_option
def list_(as_json: bool) -> None:
    """Show what is registered here, also by Windows itself."""
    found = registration.services()
    if as_json:
        output.print_json([_row(service) for service in found])
        return
    rows = [(s.name or "-", "-" if s.port is None else s.port, s.id, _maker(s)) for s in found]
    output.console().print(output.table("NAME", "PORT", "ID", "REGISTERED BY", rows=rows))


def _maker(service: Service) -> str:
    if service.origin is Origin.WINDOWS:
        return f"Windows ({registration.IN_BOX[service.id]})"
    place = " (in the older place)" if service.is_in_older_place else ""
    return f"{service.registered_by or '-'}{place}"


def _row(service: Service) -> dict[str, object]:
    return {
        "name": service.name,
        "id": str(service.id),
        "port": service.port,
        "address": service.address,
        "origin": service.origin.value,
        "registered_by": service.registered_by,
    }


@command.command(
    epilog="""\b
Examples:
  hvrpc service status                 is anything registered, and may I?
  hvrpc service status agent           for scripts: 0 if it is registered, 1 if not
"""
)
@click.argument("name", required=False, metavar="[NAME|PORT|GUID]")
@output.json_option
def status(name: str | None, as_json: bool) -> None:
    """Tell whether a service is registered. Changes nothing.

    The exit code is 0 if it is, and 1 if it is not; without NAME: if hvrpc has registered any.
    """
    found = registration.services()
    ours = [service for service in found if service.origin is Origin.HVRPC]
    if name is not None:
        ours = [service for service in found if registration.is_meant(name, service)]
    may_write = registration.can_write()
    if as_json:
        output.print_json(
            {"registered": [_row(service) for service in ours], "may_register": may_write}
        )
    else:
        _tell_status(name, ours, may_write)
    if not ours:
        click.get_current_context().exit(ExitCode.FAILED)


def _tell_status(name: str | None, services: list[Service], may_write: bool) -> None:
    for service in services:
        output.say(f"{service} is registered, by {_maker(service)}")
    if not services:
        output.say(
            "hvrpc has registered nothing here" if name is None else f"{name} is not registered"
        )
    words = ["service", "register", "NAME" if name is None else name]
    if may_write:
        output.say("this process may register services:", "dim")
        output.say(f"  {subprocess.list2cmdline(['hvrpc', *words])}", "dim")
    else:
        output.say("only an administrator may register services; this asks for one:", "dim")
        output.say(f"  {privileges.elevated(*words)}", "dim")


# --- Preparing -----------------------------------------------------------------------------------


@command.command(
    epilog="""\b
Examples:
  hvrpc service export agent --port 5000 --powershell
  hvrpc service export agent --port 5000 --reg --out agent.reg
  hvrpc service export --reg --remove              what hvrpc has registered on this host
"""
)
@click.argument("name", required=False)
@number_options
@click.option("--reg", "kind", flag_value="reg", help="A file for regedit.")
@click.option("--powershell", "kind", flag_value="powershell", help="A script for PowerShell.")
@click.option("--remove", is_flag=True, help="One that removes the service instead.")
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write, in the encoding that Windows expects.",
)
def export(
    name: str | None,
    port: int | None,
    guid: UUID | None,
    kind: str | None,
    remove: bool,
    out: Path | None,
) -> None:
    """Print a script for an administrator.

    It registers the service, or removes it. Works on every system. Without NAME it is for what hvrpc has registered on this host.
    """
    if kind is None:
        raise click.UsageError("say which kind of script: --reg or --powershell")
    if name is None and (port is not None or guid is not None):
        raise click.UsageError("a service with a number needs a NAME, too")
    text, encoding = _script(kind, _meant(name, port, guid), remove)
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding=encoding, newline="\r\n")
    except OSError as error:
        raise Failure(
            f"{out} cannot be written", why=error.strerror or str(error), do="name another file"
        ) from error
    output.say(f"{out} is written", stderr=True)


def _meant(name: str | None, port: int | None, guid: UUID | None) -> list[Service]:
    if name is not None:
        return [registration.wanted(name, port=port, guid=guid)]
    ours = [service for service in registration.services() if service.origin is Origin.HVRPC]
    if not ours:
        raise Failure(
            "there is nothing to export",
            why="hvrpc has registered nothing on this host",
            do="name the service: hvrpc service export NAME",
        )
    return ours


def _script(kind: str, services: list[Service], remove: bool) -> tuple[str, str]:
    if kind == "reg":
        return scripts.as_reg(services, remove=remove), scripts.REG_ENCODING
    return scripts.as_powershell(services, remove=remove), scripts.POWERSHELL_ENCODING
