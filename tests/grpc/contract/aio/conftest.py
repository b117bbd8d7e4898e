"""Every pair of engines for asyncio. Tests are coroutine functions, each on a loop of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ....sockets.background import WAIT
from ....sockets.places import short_folder
from .. import engines
from .bench import AioBench


class Setting:
    """What a test needs to get its bench, once its loop runs."""

    def __init__(self, calling: engines.Engine, serving: engines.Engine, folder: Path) -> None:
        self.calling = calling
        self.serving = serving
        self.folder = folder

    async def run(self, test: Any, arguments: dict[str, Any]) -> None:
        async with asyncio.timeout(2 * WAIT), AsyncExitStack() as stack:
            bench = AioBench(self.calling, self.serving, self.folder, stack)
            await test(**{**arguments, "bench": bench})
        for _ in range(3):  # tasks that were cancelled need a turn to end
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if self.calling.keeps is self.serving.keeps is None:
            assert not left, f"tasks were left behind: {left}"


@pytest.fixture(params=engines.pairs(engines.ASYNCIO))
def bench(request: pytest.FixtureRequest) -> Iterator[Setting]:
    calling, serving = request.param
    with short_folder() as folder:
        yield Setting(calling, serving, folder)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a test that is a coroutine function, with a bench made on its loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    setting: Any = arguments["bench"]
    with asyncio.Runner() as runner:
        runner.run(setting.run(pyfuncitem.obj, arguments))
    return True
