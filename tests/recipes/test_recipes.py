"""Every recipe, run as it is with its framework really installed: a scripted model errs, is told why, and repairs."""

import collections
import csv
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import Client
from sandbox.image import Image
from tests.recipes.environments import CONSTRAINTS, RECIPES, ROOT, Environment, install_line, make
from tests.server import Server, serving
from tests.upstreams import Asked, Call, Says, Scripted

DOC = (ROOT / "docs" / "recipes.md").read_text()
FILES = sorted(RECIPES.glob("*.py"))
CODE_AGENT = RECIPES / "with_smolagents.py"
"""Its model writes programs where others call a tool."""
QUESTION = "In which region is the revenue highest?"
PROGRAMS = (
    "import pandas as pd\ndf = pd.read_csv('sales.csv')\nprint(df.groupby('Region')['revenue'].sum().idxmax())",
    "print(df.groupby('region')['revenue'].sum().idxmax())",
)
FAILURE = """error
  line 3: print(df.groupby('Region')['revenue'].sum().idxmax())
KeyError: 'Region'
Hint: The columns of df are 'region', """


@pytest.fixture(scope="module")
def server(
    root: None, python_image: Image, nothing_left: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """Of one recipe at a time; it is gone after its tests, because each has up to 180 MB."""
    directory = tmp_path_factory.mktemp("environment")
    yield make(request.param, directory)
    shutil.rmtree(directory)


def in_environments(recipes: Sequence[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("environment", recipes, ids=lambda recipe: recipe.stem, indirect=True)


@pytest.fixture(scope="module")
def highest() -> str:
    """The answer."""
    sums: collections.Counter[str] = collections.Counter()
    with (ROOT / "examples" / "sales.csv").open() as file:
        for row in csv.DictReader(file):
            sums[row["region"]] += float(row["revenue"] or 0)  # type: ignore[assignment]  # counts, in dollars
    return max(sums, key=sums.__getitem__)


def run(environment: Environment, server: Server, upstream: Scripted) -> str:
    env = {"SANDBOX_SERVER": server.url, "OPENAI_BASE_URL": upstream.url, "OPENAI_API_KEY": "none", "MODEL": "scripted"}
    return environment.run(QUESTION, env)


def told(asked: Asked) -> str:
    """The last thing that the model was told."""
    content: Any = asked.body["messages"][-1]["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def found(asked: Asked) -> str:
    """What the model's program printed."""
    [word] = re.findall(r"ok\nstdout:\n(\w+)", told(asked))
    return str(word)


def calls_the_tool(asked: Asked) -> Says:
    """A model that calls `run_python`, with the session that it was told to name, if any, and answers what came out."""
    turn = sum(message["role"] == "tool" for message in asked.body["messages"])
    if turn == len(PROGRAMS):
        return Says(f"It is highest in the {found(asked)}.")
    named = re.search(r'{"session_id": "\w+"}', "\n".join(str(each["content"]) for each in asked.body["messages"]))
    session = json.loads(named[0]) if named else {}
    return Says(calls=(Call("run_python", {"code": PROGRAMS[turn]} | session),))


def writes_programs(asked: Asked) -> Says:
    """A model that answers as smolagents asks it to."""
    turn = sum(message["role"] == "assistant" for message in asked.body["messages"])
    program = PROGRAMS[turn] if turn < len(PROGRAMS) else f"final_answer({{'region': '{found(asked)}'}})\nprint('no')"
    return Says(f"Thought: let me see.\n<code>\n{program}\n</code>")


def sessions(server: Server) -> set[str]:
    """The states of all sessions."""
    with Client(server.url, "") as client:
        return {session.status for session in client.sessions()}


@in_environments([recipe for recipe in FILES if recipe != CODE_AGENT])
def test_an_agent_repairs_its_program_from_what_it_is_told(
    environment: Environment, server: Server, highest: str
) -> None:
    with Scripted("openai", calls_the_tool) as upstream:
        answer = run(environment, server, upstream)
    first, second, _ = upstream.asked
    [function] = [tool["function"] for tool in first.body["tools"] if tool["function"]["name"] == "run_python"]
    assert "pandas" in function["description"]
    assert told(second).startswith(FAILURE), told(second)
    assert answer == f"It is highest in the {highest}."
    assert sessions(server) == {"closed"}


@in_environments([CODE_AGENT])
def test_an_agent_that_writes_programs_repairs_them_in_the_sandbox(
    environment: Environment, server: Server, highest: str
) -> None:
    with Scripted("openai", writes_programs) as upstream:
        printed = run(environment, server, upstream)
    first, second, _ = upstream.asked
    assert "pandas" in json.dumps(first.body["messages"][0])
    assert f"Error:\n{FAILURE}" in told(second), told(second)
    assert printed.splitlines()[-1] == str({"region": highest})
    assert sessions(server) == {"closed"}


@pytest.mark.parametrize("recipe", FILES, ids=lambda recipe: recipe.stem)
def test_a_recipe_is_short_and_quoted_as_it_is(recipe: Path) -> None:
    source = recipe.read_text()
    assert source.count("\n") <= 60
    assert f"examples/recipes/{recipe.name}" in DOC
    assert f"\n```python\n{source}```\n" in DOC, f"docs/recipes.md does not quote {recipe.name} as it is"


def test_the_versions_that_are_tested_are_documented_and_wanted_by_a_recipe() -> None:
    wanted = " ".join(install_line(recipe) for recipe in FILES)
    for line in CONSTRAINTS.read_text().splitlines():
        if not line.startswith("#"):
            assert f"`{line}`" in DOC
            assert re.split(r"[<>=]", line)[0] in wanted


def test_what_cannot_be_installed_is_a_visible_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f'"""\npip install {tmp_path}/absent.whl\n"""\n')
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"could not install .*absent\.whl"):
        make(recipe, tmp_path / "environment")
