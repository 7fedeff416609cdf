"""Virtual environments with one SDK each, and programs that run in them as their users wrote them."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import uv

_PROGRAMS = Path(__file__).parent / "programs"
_INSTALL_S = 300.0
_RUN_S = 120.0


class Environments:
    """Made when they are first asked for, in a directory that goes with the test run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def python(self, *requirements: str) -> Path:
        """The interpreter of an environment with these distributions from the package index."""
        place = self._directory / "-".join(requirements).replace("/", "_")
        python = place / "bin" / "python"
        if not python.exists():
            # By an installer that our package needs anyway, and several times as fast as pip.
            for command in (
                ("venv", "--quiet", "--no-project", "--python", sys.executable, str(place)),
                ("pip", "install", "--quiet", "--python", str(python), *requirements),
            ):
                subprocess.run([uv.find_uv_bin(), *command], check=True, timeout=_INSTALL_S)
        return python

    async def run(self, program: str, *requirements: str, env: Mapping[str, str]) -> str:
        """Run `programs/<program>.py` there to its end; what it printed. Raises `AssertionError` when it fails.

        Without requirements it runs with what the tests run with. env: such as `OPENAI_BASE_URL`; nothing else of a
        vendor's is in its environment.
        """
        python = await asyncio.to_thread(self.python, *requirements) if requirements else Path(sys.executable)
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "ANTHROPIC"))}
        process = await asyncio.create_subprocess_exec(
            *(str(python), str(_PROGRAMS / f"{program}.py")),
            env={**ours, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), _RUN_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, f"{program} with {requirements or 'the current SDK'}:\n{output.decode()}"
        return output.decode()
