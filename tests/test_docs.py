"""The documentation is true: what it shows runs, what it links to exists, its tables are the code's.

Fenced blocks are run as readers would run them: `python` as a program of its own (with pytest, if
tests are in it), `pycon` as a session whose answers must come out, `console` as commands whose shown output must come out (`...`
stands for anything), `sh` as a script. The line before a block may say something about it:

    <!-- not run: needs a Windows host -->
    <!-- guest web: runs while the next block does -->

The second is a program that serves the block after it, as a VM of that name on the emulated fabric;
its first line of output says that it is ready. Further blocks that need it say so:

    <!-- served by the guest above -->
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .scripts import ROOT, load

PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"))
    if page.is_file()
)

LIMIT_SECONDS = 50
"""Less than pytest's own limit, so that the block's output can still be shown."""

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n)?"
    r"(?:^<!-- guest (?P<guest>[^\n]+?): runs while the next block does -->\n)?"
    r"(?P<again>^<!-- served by the guest above -->\n)?"
    r"^```(?P<language>[a-z]+)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_RUN_PY = re.compile(r"\b(?:python3?|py) run\.py(?: --\S+)* (?P<chore>[a-z][\w-]*)")


@dataclass(frozen=True)
class Block:
    place: str
    language: str
    body: str
    reason_not_to_run: str | None
    guest: str | None
    """The VM it plays, if it serves the block after it."""
    served_by: Block | None

    @property
    def commands(self) -> list[str]:
        """What a reader types: the lines with a prompt; of a script, all."""
        if self.language == "sh":
            return [self.body]
        lines = self.body.splitlines()
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]

    @property
    def shown_output(self) -> list[str]:
        if self.language == "sh":
            return []
        return [line for line in self.body.splitlines() if line and not line.startswith("$ ")]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        before = blocks[-1] if blocks and blocks[-1].guest else None
        if match["again"]:
            before = [block for block in blocks if block.guest][-1]
        blocks.append(
            Block(
                f"{name_of(page)}:{line}",
                match["language"],
                match["body"],
                match["reason"],
                match["guest"],
                served_by=before,
            )
        )
    return blocks


def without_blocks(text: str) -> str:
    return _BLOCK.sub("", text)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks_in(*languages: str) -> list[object]:
    chosen = [block for block in BLOCKS if block.language in languages and not block.guest]
    return [pytest.param(block, id=block.place) for block in chosen]


@pytest.fixture
def reader(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who tries a block: a fabric that nobody else is on, and the modules
    (`gen`) that a page has had its reader generate."""
    path = [str(ROOT / "examples" / "greeter"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "HVRPC_FABRIC": f"docs-{os.getpid()}-{tmp_path.name}",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }


def run(command: list[str], where: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=where,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout}"
    return done.stdout


@contextmanager
def serving(guest: Block | None, where: Path, environment: dict[str, str]) -> Iterator[None]:
    """A guest that is ready, for as long as it is needed."""
    if guest is None or guest.guest is None:
        yield
        return
    program = where / "guest.py"
    program.write_text(guest.body, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(program)],
        cwd=where,
        env={**environment, "HVRPC_FABRIC_VM": guest.guest},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline(), f"{guest.place}: the guest has ended without a word"
            yield
        finally:
            process.kill()


def skip_if_marked(block: Block) -> None:
    if block.reason_not_to_run:
        pytest.skip(f"{block.place}: {block.reason_not_to_run}")


@pytest.mark.parametrize("block", blocks_in("python"))
def test_python_blocks_run(block: Block, tmp_path: Path, reader: dict[str, str]) -> None:
    skip_if_marked(block)
    program = tmp_path / "test_block.py"
    program.write_text(block.body, encoding="utf-8")
    command = [sys.executable, "-W", "error", str(program)]
    if "\ndef test_" in block.body:
        command[-1:] = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(program)]
    with serving(block.served_by, tmp_path, reader):
        run(command, tmp_path, reader)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```pycon" in page.read_text(encoding="utf-8")], ids=name_of
)
def test_python_sessions_answer_as_shown(
    page: Path, tmp_path: Path, reader: dict[str, str]
) -> None:
    """What is shown on one page is one session."""
    session = tmp_path / "session.txt"
    blocks = [block for block in blocks_of(page) if block.language == "pycon"]
    session.write_text("\n".join(block.body for block in blocks), encoding="utf-8")
    doctest = [sys.executable, "-W", "error", "-m", "doctest", "-o", "ELLIPSIS"]
    with serving(blocks[0].served_by, tmp_path, reader):
        run([*doctest, str(session)], tmp_path, reader)


@pytest.mark.parametrize("block", blocks_in("console", "sh"))
def test_commands_do_what_is_shown(block: Block, tmp_path: Path, reader: dict[str, str]) -> None:
    skip_if_marked(block)
    shell = shutil.which("bash")
    if os.name != "posix" or shell is None:
        pytest.skip(f"{block.place}: needs a POSIX shell; run it on Linux with bash")
    script = "\n".join(block.commands)
    # The environment is there already, and a test must not make another one.
    script = script.replace("python3 run.py", "python3 run.py --here")
    script = re.sub(r"(?m)^hvrpc\b", "python3 -m hvrpc", script)
    script = re.sub(r"\bpython3\b", sys.executable, script)
    with serving(block.served_by, tmp_path, reader):
        output = run([shell, "-eu", "-o", "pipefail", "-c", script], ROOT, reader)
    for line in block.shown_output:
        pattern = ".*".join(re.escape(part.strip()) for part in line.split("..."))
        assert re.search(pattern, output), f"{line!r} is shown, and this is what came:\n{output}"


def test_every_console_block_has_a_command() -> None:
    wordless = [
        block.place for block in BLOCKS if block.language == "console" and not block.commands
    ]
    assert not wordless, "commands begin with '$ ', or nothing of the block is run"


def test_chores_that_pages_mention_exist() -> None:
    chores = load("run.py").CHORES
    wrong = [
        f"{name_of(page)}: run.py {match['chore']}"
        for page in PAGES
        for match in _RUN_PY.finditer(page.read_text(encoding="utf-8"))
        if match["chore"] not in chores
    ]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for match in _LINK.finditer(without_blocks(page.read_text(encoding="utf-8"))):
        target, _, anchor = match["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue  # the world outside is not ours to test
        there = (page.parent / target).resolve() if target else page
        if not there.exists() or (anchor and anchor not in anchors_of(there)):
            broken.append(match["target"])
    assert not broken


def anchors_of(page: Path) -> set[str]:
    """The anchors GitHub makes of headings."""
    headings = _HEADING.findall(without_blocks(page.read_text(encoding="utf-8")))
    plain = (re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings)
    return {text.replace(" ", "-") for text in plain}


def test_every_page_can_be_found_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in _LINK.findall(index.read_text(encoding="utf-8"))
    }
    lost = [name_of(page) for page in ROOT.glob("docs/**/*.md") if page not in {index, *linked}]
    assert not lost


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="errno differs elsewhere; run it on Linux"
)
def test_tables_say_what_the_code_says() -> None:
    stale = [name_of(page) for page in load("docs/tables.py").stale_pages()]
    assert not stale, "write them again: python3 run.py docs"
