"""smolagents: a container with a kernel gateway, on a port of its own. It returns text; pictures are dropped."""

import os
import socket

from smolagents.monitoring import AgentLogger, LogLevel
from smolagents.remote_executors import DockerExecutor

from tests.peers.drivers.measuring import Box, Shown, main


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Executor:
    def __init__(self) -> None:
        logger = AgentLogger(level=LogLevel.OFF)
        image = os.environ["PEERS_IMAGE"]
        self._executor = DockerExecutor([], logger, image_name=image, build_new_image=False, port=free_port())

    def run(self, code: str) -> Shown:
        return Shown(self._executor.run_code_raise_errors(code).logs)

    def close(self) -> None:
        self._executor.cleanup()


def opened() -> Box:
    return Executor()


if __name__ == "__main__":
    main(opened)
