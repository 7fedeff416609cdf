"""llm-sandbox: a container, and a new interpreter in it for each call. Charts take its session for artifacts."""

import os
from typing import Any

from llm_sandbox import ArtifactSandboxSession, SandboxSession

from tests.peers.drivers.measuring import Box, Shown, main

OPTIONS: dict[str, Any] = {
    "lang": "python",
    "image": os.environ["PEERS_IMAGE"],
    "skip_environment_setup": True,
    "keep_template": True,
    # As its own images have it; that of the peers would start a kernel gateway, which it has no use for.
    "runtime_configs": {"command": "python3"},
}


class Session:
    def __init__(self, session: Any) -> None:
        self._session = session
        session.__enter__()

    def run(self, code: str) -> Shown:
        done = self._session.run(code)
        if done.exit_code:
            raise RuntimeError(done.stderr)
        return Shown(done.stdout, len(getattr(done, "plots", ())))

    def close(self) -> None:
        self._session.__exit__(None, None, None)


def opened() -> Box:
    return Session(SandboxSession(**OPTIONS))


def charting() -> Box:
    return Session(ArtifactSandboxSession(**OPTIONS))


if __name__ == "__main__":
    main(opened, charting)
