"""This project: a session of a server, by its client."""

import os

from sandbox.client import Client
from sandbox.execution import Status
from tests.peers.drivers.measuring import Box, Shown, main

CLIENT = Client(os.environ["PEERS_SERVER"])


class Session:
    def __init__(self) -> None:
        self._session = CLIENT.open_session()

    def run(self, code: str) -> Shown:
        done = self._session.execute(code)
        if done.status is not Status.OK:
            raise RuntimeError(f"{done.status}: {done.error or done.reason}")
        return Shown(done.stdout, sum("image/png" in result for result in done.results))

    def close(self) -> None:
        self._session.close()


def opened() -> Box:
    return Session()


if __name__ == "__main__":
    main(opened)
