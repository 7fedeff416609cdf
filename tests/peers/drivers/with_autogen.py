"""autogen: a container with a kernel gateway, and a client that has to wait for it by trying."""

import asyncio
import os
import tempfile
import time
from pathlib import Path

from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock
from autogen_ext.code_executors.docker_jupyter import DockerJupyterCodeExecutor, DockerJupyterServer

from tests.peers.drivers.measuring import Box, Shown, main

_START_S = 60.0
_AGAIN_S = 0.05


class Executor:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._server = DockerJupyterServer(custom_image_name=os.environ["PEERS_IMAGE"], work_dir="/tmp")
        self._pictures = tempfile.TemporaryDirectory(prefix="autogen-")
        self._executor = DockerJupyterCodeExecutor(self._server, output_dir=Path(self._pictures.name))
        give_up = time.monotonic() + _START_S
        while True:
            try:
                self._loop.run_until_complete(self._executor.start())
                return
            except Exception:  # whatever the gateway's absence makes of it
                if time.monotonic() > give_up:
                    raise
                time.sleep(_AGAIN_S)

    def run(self, code: str) -> Shown:
        block = CodeBlock(code=code, language="python")
        done = self._loop.run_until_complete(self._executor.execute_code_blocks([block], CancellationToken()))
        if done.exit_code:
            raise RuntimeError(done.output)
        return Shown(done.output, sum(file.suffix == ".png" for file in done.output_files))

    def close(self) -> None:
        self._loop.run_until_complete(self._executor.stop())
        self._loop.run_until_complete(self._server.stop())
        self._loop.close()
        self._pictures.cleanup()


def opened() -> Box:
    return Executor()


if __name__ == "__main__":
    main(opened)
