"""Jupyter's own test suite for kernels, on ours, run as any Jupyter client would run it.

The guest's directory is all that the kernel can see of this package, as in a sandbox.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jupyter_kernel_test  # type: ignore[import-untyped]
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_client.kernelspec import KernelSpecManager

import sandbox
from sandbox.image import Image
from tests.host import WAIT_SECONDS

NAME = "sandbox-under-test"


@pytest.fixture(scope="module", autouse=True)
def kernelspec(python_image: Image, nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Jupyter installation of our own, with one kernel in it."""
    directory = tmp_path_factory.mktemp("jupyter")
    importable = directory / "code" / "sandbox"
    importable.mkdir(parents=True)
    (importable / "guest").symlink_to(Path(sandbox.__file__).parent / "guest")
    spec = {
        "argv": [str(python_image.root / "venv/bin/python"), "-P", "-B", "-m", "sandbox.guest.jupyter", "-f"],
        "display_name": "Python",
        "language": "python",
        "env": {"PYTHONPATH": str(importable.parent), "HOME": str(directory), "MPLBACKEND": "agg"},
    }
    spec["argv"] = [*spec["argv"], "{connection_file}"]
    kernel = directory / "kernels" / NAME
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(directory))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(directory / "runtime"))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        yield


class TestMessages(jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    kernel_name = NAME
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = [  # noqa: RUF012
        {"text": "zi", "matches": {"zip"}},
        {"text": "impo", "matches": {"import"}},
    ]
    complete_code_samples = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n"]  # noqa: RUF012
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2"]  # noqa: RUF012
    invalid_code_samples = ["import = 7q"]  # noqa: RUF012
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result = [  # noqa: RUF012
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
    ]
    code_display_data = [  # noqa: RUF012
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))", "mime": "text/latex"},
    ]
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"


class TestWelcome(jupyter_kernel_test.IopubWelcomeTests):  # type: ignore[misc]
    kernel_name = NAME
    support_iopub_welcome = True


_LATE = """
import sys
from sandbox.guest import jupyter

bind = jupyter._bind

def bind_and_wait(kernel, *rest):
    bind(kernel, *rest)
    kernel.subscriptions.socket.poll()  # somebody listens

jupyter._bind = bind_and_wait
jupyter.main(sys.argv)
"""


def test_who_listens_before_the_kernel_starts_is_welcomed_before_anything_else(
    python_image: Image, tmp_path: Path
) -> None:
    file, _ = write_connection_file(str(tmp_path / "connection.json"))
    client = BlockingKernelClient(connection_file=file)
    client.load_connection_file()
    spec = KernelSpecManager().get_all_specs()[NAME]
    command = [str(python_image.root / "venv/bin/python"), "-P", "-B", "-c", _LATE, "-f", file]
    client.start_channels()
    with subprocess.Popen(command, env={**os.environ, **spec["spec"]["env"]}) as kernel:
        try:
            told = [client.get_iopub_msg(timeout=WAIT_SECONDS)["msg_type"] for _ in range(2)]
        finally:
            client.stop_channels()
            kernel.kill()
    assert told == ["iopub_welcome", "status"]
