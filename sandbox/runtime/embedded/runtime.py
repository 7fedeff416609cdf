"""The embedded runtime: images and zygotes made ready, sandboxes asked of the launcher."""

import asyncio
import contextlib
import resource
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from sandbox import image as images
from sandbox.errors import ImageNotBuilt, SandboxFailed
from sandbox.execution import MIB, Spec
from sandbox.runtime import terms
from sandbox.runtime.embedded import scope
from sandbox.runtime.embedded.generations import Generations
from sandbox.runtime.embedded.link import PACKAGE, Launcher
from sandbox.runtime.embedded.sandbox import EmbeddedSandbox
from sandbox.runtime.embedded.vacant import Vacant

_PREPARE_SECONDS = 120.0

Start = Literal["fork", "exec"]
"""How kernels come to be: forks of a zygote, or interpreters that are executed each for itself."""


class EmbeddedRuntime:
    """Sandboxes from namespaces, without a daemon. Use `open`."""

    def __init__(
        self,
        launcher: Launcher,
        generations: Generations,
        images_dir: Path,
        *,
        start: Start,
        shared: bool,
        through: Sequence[str],
        zygote_age: float,
    ) -> None:
        self._launcher = launcher
        self._generations = generations
        self._zygote_age = zygote_age
        self._through = through
        self._images_dir = images_dir
        self._way = start
        self._shared = shared
        self._closed = False
        self._vacant = Vacant()
        self._reviving = asyncio.Lock()
        self._manifests: dict[str, images.Manifest] = {}
        """Of images as they were when they were prepared."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        images_dir: Path,
        *,
        start: Start = "fork",
        shared: bool = True,
        through: Sequence[str] | None = None,
        zygote_age: float = 0.0,
    ) -> AsyncIterator[Self]:
        """Start the launcher; at the end, end everything.

        start: how kernels come to be. shared: whether many sandboxes will be forked from a zygote, so that another one
        with all libraries, which takes seconds, is to follow the first; see `zygotes`. through: see `Launcher.spawn`;
        default is whatever gives an ordinary user control groups. zygote_age: seconds after which another zygote takes
        over; 0 is never. Raises `HostUnfit`.
        """
        _raise_descriptor_limit()
        through = await scope.way() if through is None else through
        generations = Generations()
        launcher = await Launcher.spawn(through, generations.on_prepared)
        runtime = cls(
            launcher, generations, images_dir, start=start, shared=shared, through=through, zygote_age=zygote_age
        )
        try:
            yield runtime
        finally:
            await runtime.aclose()

    @property
    def name(self) -> str:
        """See `runtime.Runtime`."""
        return "embedded"

    @property
    def soft(self) -> Mapping[str, str]:
        """See `runtime.Runtime`. An ordinary user's without control groups, or without the cpu controller."""
        hello = self._launcher.hello.result()
        why = hello["why_soft"] or "the control groups of this user are without the cpu controller"
        return dict.fromkeys(hello["soft"], why)

    async def manifest(self, image: str) -> images.Manifest:
        """See `runtime.Runtime`. Of an image in use, what its sandboxes show; every model's call asks for it."""
        if image in self._launcher.prepared:
            return self._manifests[image]
        return (await asyncio.to_thread(images.load, image, self._images_dir)).manifest

    async def manifests(self) -> list[images.Manifest]:
        """See `runtime.Runtime`. Roots of older sources are not among them."""
        return await asyncio.to_thread(_manifests, self._images_dir)

    async def prepare(self, image: str) -> None:
        """See `runtime.Runtime`. The first call for an image starts its zygote, if it gets one, which takes seconds."""
        await self._revive()
        future = self._launcher.prepared.get(image)
        if future is None:
            built = images.load(image, self._images_dir)
            self._manifests[image] = built.manifest
            future = asyncio.get_running_loop().create_future()
            self._launcher.ask(
                {
                    "verb": "prepare",
                    "image": image,
                    "root": str(built.root),
                    "system": str(built.system),
                    "prefix": built.manifest.base_prefix,
                    "python": "/opt/venv/bin/python",
                    "code": str(PACKAGE),
                    "start": self._way,
                    "shared": self._shared,
                    "zygote_age_s": self._zygote_age,
                }
            )
            self._launcher.prepared[image] = future
        try:
            async with asyncio.timeout(_PREPARE_SECONDS):
                await asyncio.shield(future)
        except TimeoutError as error:
            raise SandboxFailed(f"image {image} was not ready within {_PREPARE_SECONDS:g} s; see the log") from error

    async def _revive(self) -> None:
        """A launcher that died took every sandbox with it; those to come get a new one. Raises `HostUnfit`."""
        async with self._reviving:
            if self._launcher.gone and not self._closed:
                await self._launcher.aclose()
                self._launcher = await Launcher.spawn(self._through, self._generations.on_prepared)

    def used_bytes(self) -> int:
        """See `runtime.Runtime`."""
        if self._launcher.watches:
            return 0  # the launcher looks at each by itself
        try:
            return int(Path(self._launcher.hello.result()["memory"]).read_text())
        except OSError:
            return 0

    def whole(self, image: str) -> bool:
        """See `runtime.Runtime`."""
        return image in self._launcher.whole

    def generation(self, image: str) -> int:
        """See `runtime.Runtime`."""
        return self._generations.current(image)

    async def renewed(self, image: str, generation: int) -> None:
        """See `runtime.Runtime`."""
        await self._generations.news(image, generation)

    async def start(self, spec: Spec, *, awaited: bool = False, defers: bool = False) -> EmbeddedSandbox:
        """See `runtime.Runtime`. It is a fork, by which nobody else is kept waiting."""
        await self.prepare(spec.image)
        if awaited and (sandbox := await self._vacant.take(spec)) is not None:
            self._launcher.tell({"verb": "occupy", "sandbox": sandbox.id})
            return sandbox
        return await self._start(spec, awaited=awaited)

    async def stand_by(self, spec: Spec, count: int) -> bool:
        """See `runtime.Runtime`."""
        await self.prepare(spec.image)
        if await self._vacant.count(spec) >= count:
            return False
        self._vacant.add(spec, await self._start(spec, awaited=True, vacant=True))
        return True

    async def _start(self, spec: Spec, *, awaited: bool, vacant: bool = False) -> EmbeddedSandbox:
        sandbox = EmbeddedSandbox(uuid.uuid4().hex, self._launcher)
        request = _request(spec, awaited=awaited) | {"vacant": vacant}
        self._launcher.ask({"verb": "start", "sandbox": sandbox.id, **request})
        self._launcher.sandboxes[sandbox.id] = sandbox
        try:
            await asyncio.shield(sandbox.started)
        except asyncio.CancelledError:
            # Nobody will ever hold it, so nobody else could stop it.
            await asyncio.shield(sandbox.stop())
            raise
        return sandbox

    async def aclose(self) -> None:
        """See `runtime.Runtime`."""
        if not self._closed:
            self._closed = True
            try:
                await self._launcher.aclose()
            finally:
                await self._vacant.aclose()


def _manifests(images_dir: Path) -> list[images.Manifest]:
    found = []
    for name in images.names(images_dir):
        with contextlib.suppress(ImageNotBuilt):
            found.append(images.load(name, images_dir).manifest)
    return found


def _request(spec: Spec, *, awaited: bool) -> dict[str, Any]:
    """A spec in the launcher's words: integers and strings, nothing to be interpreted."""
    limits = spec.limits
    room = terms.room(limits)
    return {
        "image": spec.image,
        "memory_bytes": limits.memory_mb * MIB,
        "processes": limits.processes,
        "cpus": limits.cpus,
        "file_bytes": room.file_bytes,
        "sizes": {
            "workspace": room.workspace,
            "files": limits.files,
            "temporary": room.temporary,
            "shared_memory": room.shared_memory,
        },
        "policy": terms.policy(spec, awaited=awaited),
    }


def _raise_descriptor_limit() -> None:
    """Four descriptors per sandbox, and the launcher, which inherits it, eight: take what the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
