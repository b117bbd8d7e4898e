"""`hvrpc credentials`: certificates of one's own for TLS inside VM sockets."""

from __future__ import annotations

import datetime
from pathlib import Path
from uuid import UUID

import click

from ...authority import CA_FILE, CA_KEY_FILE, DAYS, Authority, Pair, Shown
from ...tls import HOST_NAME
from .. import output
from ..errors import ExitCode, Failure

LOCAL_NAMES = ("loopback", "localhost", "127.0.0.1")
"""Under which a host calls itself, in tests for instance."""
MOST_DAYS = 36_500
"""A certificate has no room for a year above 9999."""
SOON = 30
"""Days before the end that are worth a colour."""

EPILOG = """\b
Examples:
  hvrpc credentials new certificates --guest web --guest db
  hvrpc credentials new certificates --guest backup=2e5c1f0a-7d0b-4b6e-9a67-3b8f1f6f9c11
  hvrpc credentials show certificates
"""


@click.group(epilog=EPILOG)
def command() -> None:
    """Make certificates for TLS between a host and its guests.

    The hypervisor vouches for machines, not for programs in them. Where that matters, both sides get
    a certificate that is signed by a CA of your own: nobody else has to be trusted, and nothing has to be
    reached over a network.
    """


Guest = tuple[str, tuple[str, ...]]
"""What a guest is called, and by which names it can be called."""


def guests_of(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[Guest]:
    """NAME, or NAME=VM-ID."""
    found: list[Guest] = []
    for value in values:
        name, equals, vm_id = value.partition("=")
        if not name:
            raise click.BadParameter("a guest has a name", ctx, option)
        if _means_other_files(name):
            problem = (
                f"the files of {name!r} would be called like those of the CA, or of another key"
            )
            raise click.BadParameter(problem, ctx, option)
        try:
            found.append((name, (name, str(UUID(vm_id))) if equals else (name,)))
        except ValueError as error:
            problem = f"{vm_id!r} is no VM's id; (Get-VM -Name NAME).Id shows it"
            raise click.BadParameter(problem, ctx, option) from error
    return found


def _means_other_files(name: str) -> bool:
    certificate, _ = Pair(name, b"", b"").files(Path())
    stem = certificate.stem.casefold()  # some file systems make no difference
    return certificate.name.casefold() == CA_FILE or stem.endswith("-key")


@command.command(
    epilog="""\b
Examples:
  hvrpc credentials new certificates --guest web
  hvrpc credentials new certificates --guest another      later: the same CA signs it
"""
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--guest",
    "guests",
    metavar="NAME[=VM-ID]",
    multiple=True,
    callback=guests_of,
    help="Make one for a guest, with its VM's name and, if it is called by that, its id.",
)
@click.option(
    "--days", type=click.IntRange(1, MOST_DAYS), default=DAYS, show_default=True, help="Valid for."
)
@output.json_option
def new(folder: Path, guests: list[Guest], days: int, as_json: bool) -> None:
    """Make a CA, and a certificate for this host and for each guest.

    A CA that is in FOLDER already signs those that are missing; nothing is ever replaced. Each side
    needs ca.pem, and its own certificate and key; the CA's key stays where it was made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = [(HOST_NAME, (HOST_NAME, *LOCAL_NAMES)), *guests]
    made: list[Path] = []
    try:
        if (folder / CA_FILE).exists():
            authority = Authority.load(folder)
        else:
            authority = Authority.new()
            made += authority.write(folder)
        for name, names in wanted:
            if name == HOST_NAME and Pair(name, b"", b"").files(folder)[0].exists():
                continue
            made += authority.issue(name, names, days=days).write(folder)
    except FileExistsError as error:
        raise Failure(
            f"{error.filename} is there already",
            why="certificates and keys are never replaced",
            do="remove it if it is no longer needed, with the file that belongs to it",
            code=ExitCode.USAGE,
        ) from error
    if as_json:
        output.print_json({"folder": folder, "made": [path.name for path in made]})
        return
    for path in made:
        output.say(f"made  {path}")
    for name, _ in guests:
        certificate, key = Pair(name, b"", b"").files(folder)
        output.say(
            f"copy  {CA_FILE}, {certificate.name} and {key.name} to the guest {name}", "bold"
        )
    output.say(f"keep  {CA_KEY_FILE} secret: whoever has it can be anybody", "dim")


@command.command(
    epilog="""\b
Examples:
  hvrpc credentials show certificates
  hvrpc credentials show web.pem --json
"""
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@output.json_option
def show(paths: tuple[Path, ...], as_json: bool) -> None:
    """Show whose each certificate is, and until when it is valid.

    A folder stands for the certificates in it.
    """
    files = [
        file
        for path in paths
        for file in (sorted(path.glob("*.pem")) if path.is_dir() else [path])
        if not (path.is_dir() and file.stem.endswith("-key"))
    ]
    found = [Shown.read(file) for file in files]
    now = datetime.datetime.now(datetime.UTC)
    if as_json:
        output.print_json(
            [
                {
                    "file": each.file,
                    "name": each.name,
                    "names": each.names,
                    "is_ca": each.is_ca,
                    "valid_until": each.until,
                    "days_left": each.days_left(now),
                }
                for each in found
            ]
        )
        return
    from rich.text import Text

    rows = [
        (
            str(each.file),
            "a CA" if each.is_ca else ", ".join(each.names),
            f"{each.until:%Y-%m-%d}",
            Text(*_left(each.days_left(now))),
        )
        for each in found
    ]
    output.console().print(output.table("file", "of", "valid until", "", rows=rows))


def _left(days: int) -> tuple[str, str]:
    if days < 0:
        return "its time is up: no one accepts it", "bold red"
    return f"{days} days", "yellow" if days < SOON else ""
