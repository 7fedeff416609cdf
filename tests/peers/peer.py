"""Who is measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

POOL = 8
"""Sandboxes that our servers keep warm, where they do."""


@dataclass(frozen=True, slots=True)
class Service:
    """How a server of ours is started, whose client the driver is."""

    pool: int = POOL
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that runs a model's code, as its users get it."""

    name: str
    title: str
    driver: str
    requirements: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()
    """Whose versions are told."""
    docker: bool = True
    service: Service | None = None
    cannot: Mapping[str, str] = field(default_factory=dict)
    """Why a measure has no value, or not the one that was asked for, by its name."""
    note: str = ""


NO_PICTURE = "its executor returns text and the final answer; a picture that the kernel displays is dropped"
NO_STATE = "every call is a new interpreter, which knows nothing of the call before"
PEERS = (
    Peer(
        "sandbox",
        "this project, embedded",
        "with_sandbox",
        docker=False,
        service=Service(),
        note=f"the server keeps {POOL} sandboxes warm, which none of the others does; who asks faster than it makes "
        "more waits for them, as the rates show",
    ),
    Peer(
        "sandbox-unpooled",
        "this project, embedded, no pool",
        "with_sandbox",
        docker=False,
        service=Service(pool=0),
        note="every sandbox is made when it is asked for; what the pool hides",
    ),
    Peer(
        "sandbox-docker",
        "this project, Docker",
        "with_sandbox",
        service=Service(options=("--runtime", "docker")),
        note=f"{POOL} containers are kept warm, each with pandas and matplotlib imported, which is what it holds",
    ),
    Peer(
        "docker-run",
        "`docker run`",
        "with_docker_run",
        cannot={"second": NO_STATE},
        note="a second call is `docker exec`, a chart is written to stdout by the program, an idle box runs `sleep`",
    ),
    Peer(
        "llm-sandbox",
        "llm-sandbox, SandboxSession",
        "with_llm_sandbox",
        ("llm-sandbox[docker]==0.3.46",),
        ("llm-sandbox",),
        cannot={"second": NO_STATE},
        note="an idle box is the prompt of `python3`, as in its own images; its environment setup, which installs by "
        "pip, is left out",
    ),
    Peer(
        "smolagents",
        "smolagents, DockerExecutor",
        "with_smolagents",
        ("smolagents[docker]==1.26.0",),
        ("smolagents",),
        cannot={"chart": NO_PICTURE},
        note="a port of its own for each box, found by the driver, because the usual one can be had once; it waits "
        "some ten seconds for the gateway in the container, and fails on a machine that is too busy",
    ),
    Peer(
        "autogen",
        "autogen, DockerJupyterCodeExecutor",
        "with_autogen",
        ("autogen-ext[docker-jupyter-executor]==0.7.5",),
        ("autogen-ext",),
        note="tried again by the driver until the kernel gateway in the container answers, which it does not wait for",
    ),
    Peer(
        "jupyter",
        "Jupyter kernel on the host",
        "with_jupyter",
        ("jupyter_client==8.*", "ipykernel==7.*", "pandas==3.*", "matplotlib==3.*"),
        ("jupyter_client", "ipykernel"),
        docker=False,
        note="contains nothing; what everything that is built on a kernel adds to",
    ),
)
