"""Kernels on a runtime, for tests that need no session."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sandbox.ending import Ending
from sandbox.execution import Calls, Output, Spec
from sandbox.kernel import Kernel
from sandbox.runtime import Runtime


@contextlib.asynccontextmanager
async def kernel_of(runtime: Runtime, spec: Spec, *, awaited: bool = False) -> AsyncIterator[Kernel]:
    kernel = await Kernel.start(runtime, spec, awaited=awaited)
    try:
        yield kernel
    finally:
        await kernel.stop()


async def run(kernel: Kernel, code: str, timeout: float = 20.0) -> tuple[list[Output], Ending]:
    kernel.sandbox.on_claimed()
    outputs: list[Output] = []
    async for item in kernel.stream("exe_1", code, timeout):
        if isinstance(item, Ending):
            return outputs, item
        assert not isinstance(item, Calls)
        outputs.append(item)
    raise AssertionError("the stream had no ending")


@contextlib.asynccontextmanager
async def running(kernel: Kernel, code: str = "print('on'); import time; time.sleep(60)") -> AsyncIterator[Kernel]:
    """With an execution in flight; the caller ends it somehow and reads how in the task."""
    kernel.sandbox.on_claimed()
    started = asyncio.Event()

    async def follow() -> Ending:
        async for item in kernel.stream("exe_1", code, 50.0):
            started.set()
            if isinstance(item, Ending):
                return item
        raise AssertionError("the stream had no ending")

    task = asyncio.create_task(follow())
    await started.wait()
    yield kernel
    endings[kernel] = await task


endings: dict[Kernel, Ending] = {}
