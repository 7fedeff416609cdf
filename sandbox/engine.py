"""The opened whole: chooses the runtime, opens every part in order, closes them in reverse."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from sandbox.config import Settings
from sandbox.errors import HostUnfit, InvalidField, InvalidLimits
from sandbox.execution import Execution, Limits, Spec
from sandbox.loop.catalogue import UpstreamPlan
from sandbox.loop.clock import Clock
from sandbox.loop.upstream import CONNECT_S, Upstream
from sandbox.plans import catalogue
from sandbox.pool import Pool
from sandbox.runtime import Runtime
from sandbox.runtime.docker.systemd import Systemd
from sandbox.runtime.embedded.runtime import EmbeddedRuntime
from sandbox.session import Session, checked_timeout

if TYPE_CHECKING:
    from sandbox.loop.models import Models


_MAX_ENV = 32 << 10
"""Bytes. All that a start is told goes in one packet of twice as many."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The runtime in use."""

    runtime: Runtime
    why: str
    """For a person."""


class Engine:
    """Sessions on warm sandboxes. Use `open`."""

    def __init__(self, settings: Settings, choice: Choice, pool: Pool, parts: contextlib.AsyncExitStack) -> None:
        """parts: closes what it is made of."""
        self._parts = parts
        self.settings = settings
        self.choice = choice
        self.runtime = choice.runtime
        self.pool = pool
        # Weak: one that has expired and that nobody holds is no longer ours to close.
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, settings: Settings | None = None, *, warm: bool = True, runtime: Runtime | None = None
    ) -> AsyncIterator[Self]:
        """Open everything; at the end, close every session and leave nothing behind.

        settings: default is the environment and the settings file. warm: keep a pool; without one every session
        is a cold start, and programs import most libraries themselves. runtime: one that is open and stays so; default
        is one of its own, as the settings name it. The image is prepared in the background, which takes a second or
        two, and sessions wait for it; `pool.fill` does, too, and `pool.settle` for all libraries. Raises `HostUnfit`,
        `ImageNotBuilt`, `UnknownImage`, `InvalidSetting`.
        """
        settings = settings or Settings.load()
        async with contextlib.AsyncExitStack() as stack:
            choice = Choice(runtime, "it was open") if runtime is not None else await _choose(stack, settings, warm)
            spec = _spec(settings, choice.runtime)
            await choice.runtime.manifest(spec.image)  # raises here, for whoever opens, when it cannot be used
            sizes = (settings.pool_size, settings.standing_by) if warm else (0, 0)
            pool = await stack.enter_async_context(Pool.open(choice.runtime, spec, *sizes))
            engine = cls(settings, choice, pool, stack.pop_all())
        async with contextlib.aclosing(engine):
            yield engine

    async def aclose(self) -> None:
        """Close every session and leave nothing behind. May be called twice."""
        async with self._parts:
            await self._close_sessions()
            await self._close_models()

    @functools.cached_property
    def models(self) -> "Models":
        """The models that the settings know of; nothing is connected before one is asked. Raises `InvalidSetting`."""
        return _models(self.settings)

    @contextlib.asynccontextmanager
    async def session(
        self,
        *,
        image: str | None = None,
        memory_mb: int | None = None,
        limits: Limits | None = None,
        idle_timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Session]:
        """A session that ends with the block. See `open_session`."""
        session = await self.open_session(
            image=image, memory_mb=memory_mb, limits=limits, idle_timeout=idle_timeout, env=env
        )
        try:
            yield session
        finally:
            await self.close_session(session)

    async def open_session(
        self,
        *,
        image: str | None = None,
        memory_mb: int | None = None,
        limits: Limits | None = None,
        idle_timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """A session that lives until `close_session`, its idle timeout (seconds) or the engine's end.

        What differs from the settings' spec is started cold. memory_mb: instead of that of `limits`. session_id: one
        that the caller remembers; default is a new one.

        Raises `InvalidLimits`, `InvalidField`, `UnknownImage`, `ImageNotBuilt`, `SandboxFailed`.
        """
        spec = self.spec(image=image, memory_mb=memory_mb, limits=limits, env=env)
        idle = self.checked_idle_timeout(idle_timeout)
        session = Session(
            await self.pool.claim(spec),
            timeout=self.settings.timeout_s,
            max_timeout=self.settings.max_timeout_s,
            idle_timeout=idle,
            queue=self.settings.queue_size,
            session_id=session_id,
        )
        self._sessions.add(session)
        return session

    def expecting(self) -> contextlib.AbstractContextManager[None]:
        """Within the block a session without wishes may be opened; see `Pool.expecting`."""
        return self.pool.expecting(self.spec())

    def spec(
        self,
        *,
        image: str | None = None,
        memory_mb: int | None = None,
        limits: Limits | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Spec:
        """What would be started for these wishes. Raises `InvalidLimits`, `InvalidField` for what `env` cannot be."""
        wanted = _spec(self.settings, self.runtime)
        chosen = limits or wanted.limits
        if not isinstance(chosen, Limits):  # of callers that nobody checks
            raise InvalidLimits(f"limits is of type {type(chosen).__name__}; give sandbox.Limits(…)")
        if memory_mb is not None and memory_mb != chosen.memory_mb:
            chosen = dataclasses.replace(chosen, memory_mb=memory_mb)
        if chosen.memory_mb > self.settings.max_memory_mb:
            most = self.settings.max_memory_mb
            raise InvalidLimits(f"memory_mb is {chosen.memory_mb}; this host allows {most} (max_memory_mb)")
        return dataclasses.replace(wanted, image=image or wanted.image, limits=chosen, env=_pairs(env or {}))

    def checked_idle_timeout(self, idle_timeout: float | None) -> float:
        """Seconds, with the default resolved. Raises `InvalidLimits`."""
        idle = self.settings.idle_timeout_s if idle_timeout is None else idle_timeout
        if not isinstance(idle, int | float):
            raise InvalidLimits(f"idle_timeout is of type {type(idle).__name__}; give a number of seconds")
        if not 0 < idle <= 30 * 86_400:
            raise InvalidLimits(f"idle_timeout is {idle:g} s; choose a value above 0, 30 days at most")
        return idle

    def checked_timeout(self, timeout: float | None) -> float:
        """Seconds of an execution, with the default resolved. Raises `InvalidLimits`."""
        return checked_timeout(timeout, self.settings.timeout_s, self.settings.max_timeout_s)

    async def close_session(self, session: Session) -> None:
        """End a session and its sandbox."""
        self._sessions.discard(session)
        await session.close()

    async def run(
        self,
        code: str | bytes,
        *,
        timeout: float | None = None,
        memory_mb: int | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> Execution:
        """One fresh sandbox, one execution, gone."""
        async with self.session(memory_mb=memory_mb) as session:
            for path, data in (files or {}).items():
                await session.upload(path, data)
            return await session.execute(code, timeout)

    async def _close_sessions(self) -> None:
        await asyncio.gather(*(session.close() for session in self._sessions), return_exceptions=True)
        self._sessions.clear()

    async def _close_models(self) -> None:
        if "models" in self.__dict__:  # else nobody has asked for them
            await self.models.aclose()


async def _choose(stack: contextlib.AsyncExitStack, settings: Settings, warm: bool) -> Choice:
    """Open the runtime that the settings name; for `auto` the embedded one where this host can contain, else Docker.

    Raises `HostUnfit`.
    """
    unfit: HostUnfit | None = None
    if settings.runtime != "docker":
        try:
            opening_embedded = EmbeddedRuntime.open(
                settings.images_dir, start=settings.start, shared=warm, zygote_age=settings.zygote_age_s
            )
            embedded = await stack.enter_async_context(opening_embedded)
        except HostUnfit as error:
            if settings.runtime == "embedded":
                raise
            unfit = error
        else:
            _give_up_containers()
            why = "it is set" if settings.runtime == "embedded" else "this host can contain sandboxes without a daemon"
            return Choice(embedded, why)
    from sandbox.runtime.docker.runtime import DockerRuntime  # its libraries take 0.1 s, and few need them

    opening = DockerRuntime.open(
        settings.data_dir / "docker",
        address=settings.docker_host,
        channel=settings.docker_channel,
        cgroup_parent=settings.docker_cgroup_parent,
    )
    try:
        docker = await stack.enter_async_context(opening)
    except HostUnfit as error:
        if unfit is None:
            raise
        raise HostUnfit(f"no runtime works here. embedded: {unfit}. docker: {error}") from error
    return Choice(docker, "it is set" if unfit is None else f"the embedded runtime cannot work here: {unfit}")


def _give_up_containers() -> None:
    """Close what systemd has kept for a server that made containers, as ours was before its settings were changed."""
    for fd in Systemd.of_environment().inherit().values():
        os.close(fd)


def _spec(settings: Settings, runtime: Runtime) -> Spec:
    limits = Limits(
        memory_mb=settings.memory_mb,
        cpus=settings.cpus,
        processes=settings.processes,
        disk_mb=settings.disk_mb,
        files=settings.files,
        output_bytes=settings.output_bytes,
    )
    return Spec(settings.image, limits, oci_runtime=settings.oci_runtime if runtime.name == "docker" else "")


def _pairs(env: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidField("env", f"{name!r} is {value!r}; names and values are texts")
        try:
            both = (name + value).encode()
        except UnicodeEncodeError:
            both = b"\0"
        if not name or "=" in name or b"\0" in both:
            raise InvalidField("env", f"no process can have a variable {name[:80]!r} with this value")
    if len(json.dumps(dict(env))) > _MAX_ENV:
        raise InvalidField("env", f"it has over {_MAX_ENV} bytes as JSON; upload what is long as a file")
    return tuple(sorted(env.items()))


@contextlib.asynccontextmanager
async def open_models(settings: Settings | None = None, *, clock: Clock | None = None) -> "AsyncIterator[Models]":
    """The models alone, for callers that have their sandboxes elsewhere. Raises `InvalidSetting`."""
    models = _models(settings or Settings.load(), clock)
    try:
        yield models
    finally:
        await models.aclose()


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _models(settings: Settings, clock: Clock | None = None) -> "Models":
    # Whoever runs code only must not pay for it: prices, retries, and later the vendors' libraries.
    from sandbox.loop.models import Models

    return Models(
        catalogue(settings),
        connect=_connect,
        cache_entries=settings.response_cache,
        cache_s=settings.response_cache_s,
        patience_s=settings.model_wait_s,
        clock=clock,
    )


def _connect(plan: UpstreamPlan) -> Upstream:
    """By the vendor's own library, of which loading takes a second or two: only what is needed, and only then.

    Raises `HostUnfit` when it is not installed.
    """
    kind: Callable[..., Upstream]
    try:
        if plan.dialect == "openai":
            from sandbox.loop.upstream.openai import OpenAIUpstream as kind
        else:
            from sandbox.loop.upstream.anthropic import AnthropicUpstream as kind
    except ImportError as error:
        raise HostUnfit(
            f"asking the models of {plan.name} needs {error.name}: pip install '.[models]' in the checkout"
        ) from error
    return kind(
        plan.name,
        base_url=plan.address,
        key=plan.key.get_secret_value() if plan.key else "",
        key_name=plan.key_variable,
        headers=plan.headers,
        connect_s=min(CONNECT_S, plan.timeout_s),
        silence_s=plan.timeout_s,
    )


def run(
    code: str | bytes,
    *,
    timeout: float | None = None,
    memory_mb: int | None = None,
    files: Mapping[str, bytes] | None = None,
    settings: Settings | None = None,
) -> Execution:
    """For scripts: open an engine, run the code in a fresh sandbox, close everything. Seconds, not milliseconds.

    Raises `RuntimeError` in a thread whose event loop runs, as in a notebook: there use `Engine.open`.
    """
    if _loop_runs():
        raise RuntimeError(
            "sandbox.run is for code that is not async; in a notebook or a coroutine write `async with "
            "sandbox.Engine.open() as engine: await engine.run(…)`"
        )

    async def once() -> Execution:
        async with Engine.open(settings, warm=False) as engine:
            return await engine.run(code, timeout=timeout, memory_mb=memory_mb, files=files)

    return asyncio.run(once())
