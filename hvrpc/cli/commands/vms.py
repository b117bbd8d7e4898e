"""`hvrpc vms`: which VMs there are, and what this one is."""

from __future__ import annotations

import os

import click

from ...errors import HvrpcError
from ...sockets import fabric
from ...windows import guest, virtual_machines
from .. import output
from ..errors import ExitCode, Failure, problem_of

EPILOG = """\b
Examples:
  hvrpc vms
  hvrpc vms --json
  hvrpc vms --self                     in a guest: its own name and id
"""


@click.command(epilog=EPILOG)
@click.option("--self", "itself", is_flag=True, help="Tell what this guest itself is.")
@output.json_option
def command(itself: bool, as_json: bool) -> None:
    """Show the VMs of this host: name, id, state, kind, and how each was found.

    Classic VMs need an administrator or a member of Hyper-V Administrators. Where HVRPC_FABRIC is set,
    these are the VMs of that emulated fabric.
    """
    if itself:
        _tell_self(as_json)
        return
    machines, problems = _emulated() if os.environ.get(fabric.FABRIC_VARIABLE) else _real()
    if problems and not machines:
        raise problems[0]
    if as_json:
        output.print_json(machines)
    elif machines:
        columns = ("NAME", "ID", "STATE", "KIND", "FOUND BY")
        rows = [[each[column] or "-" for column in KEYS] for each in machines]
        output.console().print(output.table(*columns, rows=rows))
    else:
        output.say("there are no VMs")
    for problem in problems:
        _tell_problem(problem)


KEYS = ("name", "id", "state", "kind", "found_by")


def _real() -> tuple[list[dict[str, str | None]], list[HvrpcError]]:
    try:
        listing = virtual_machines.list_all()
    except TimeoutError as error:
        raise Failure(
            "the VMs could not be listed",
            why=str(error),
            do="try again, or Get-VM in PowerShell",
            code=ExitCode.TOO_LATE,
        ) from error
    machines: list[dict[str, str | None]] = [
        {
            "name": vm.name,
            "id": str(vm.id),
            "state": vm.state,
            "kind": vm.kind.value,
            "found_by": vm.found_by,
        }
        for vm in listing.machines
    ]
    return machines, list(listing.problems)


def _emulated() -> tuple[list[dict[str, str | None]], list[HvrpcError]]:
    name = fabric.fabric_name()
    machines: list[dict[str, str | None]] = [
        {
            "name": vm.name,
            "id": str(vm.id),
            "state": "Running" if is_running else "Off",
            "kind": "emulated",
            "found_by": f"fabric {name}",
        }
        for vm, is_running in fabric.guests_of(name)
    ]
    return machines, []


def _emulated_self() -> guest.Identity:
    here = fabric.this_vm()
    name = "the host" if here.is_host else here.name
    return guest.Identity(here.id, name, None, f"fabric {fabric.fabric_name()}")


def _tell_problem(error: HvrpcError) -> None:
    """What could not be asked does not spoil the rest."""
    problem = problem_of(error)
    assert problem is not None
    output.say(f"not everything could be seen: {problem.why}", "yellow", stderr=True)
    output.say(f"  {problem.do}", "dim", stderr=True)


def _tell_self(as_json: bool) -> None:
    on_fabric = bool(os.environ.get(fabric.FABRIC_VARIABLE))
    found = _emulated_self() if on_fabric else guest.identity()
    if found is None:
        raise Failure(
            "it is not known which VM this is",
            why="this machine is no guest of Hyper-V, or its host has not told it",
            do="in the VM's settings, turn on the integration service Data Exchange; a Linux guest also"
            " needs its daemon (hypervkvpd or hv-kvp-daemon). A guest can call its host without that:"
            " hvsock://parent/…",
            code=ExitCode.MISSING,
        )
    if as_json:
        output.print_json(found)
        return
    rows = [
        ("name", found.name or "-"),
        ("id", found.id),
        ("host", found.host or "-"),
        ("found by", found.found_by),
    ]
    output.console().print(output.table("", "", rows=rows))
