"""What `import sandbox` gives, and what it costs."""

import subprocess
import sys

import pytest

import sandbox


@pytest.mark.parametrize("name", sandbox.__all__)
def test_every_name_that_is_offered_is_there(name: str) -> None:
    assert getattr(sandbox, name).__name__ == name
    assert name in dir(sandbox)


def test_a_name_that_is_not_offered_is_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(sandbox, "nothing")  # noqa: B009  # a type checker would say the same


def test_the_package_loads_nothing_before_it_is_used() -> None:
    code = "import sandbox, sys; print([name for name in sys.modules if name.startswith(('sandbox.', 'pydantic'))])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "[]\n"
