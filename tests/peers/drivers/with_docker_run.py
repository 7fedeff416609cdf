"""Docker alone. Its later calls are `docker exec`, which knows nothing of the first; a chart comes back as stdout."""

import os
import subprocess

from tests.peers.drivers.measuring import Box, Shown, main

IMAGE = os.environ["PEERS_IMAGE"]
TO_STDOUT = "import sys; plt.savefig(sys.stdout.buffer, format='png')"


def docker(*arguments: str) -> bytes:
    return subprocess.run(["docker", *arguments], check=True, stdin=subprocess.DEVNULL, capture_output=True).stdout


class Once:
    """A container for one program, gone with it; or one that waits, if it is asked again or kept."""

    def __init__(self) -> None:
        self._kept = ""

    def run(self, code: str) -> Shown:
        said = docker(*self._where(), "python", "-c", code.replace("plt.show()", TO_STDOUT))
        return Shown("", 1) if said.startswith(b"\x89PNG") else Shown(said.decode())

    def _where(self) -> tuple[str, ...]:
        return ("run", "--rm", "--network=none", IMAGE)

    def close(self) -> None:
        pass


class Kept(Once):
    def __init__(self) -> None:
        self._kept = docker("run", "--detach", "--init", "--network=none", IMAGE, "sleep", "infinity").decode().strip()

    def _where(self) -> tuple[str, ...]:
        return ("exec", self._kept)

    def close(self) -> None:
        docker("rm", "--force", self._kept)


def opened() -> Box:
    return Kept() if os.environ.get("PEERS_MEASURE") in ("second", "hold") else Once()


if __name__ == "__main__":
    main(opened)
