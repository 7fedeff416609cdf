"""Every setting: type, default, environment name, one sentence. Stops at the engine.

A value comes from the first of these that has it: an argument of `Settings`, the environment variable
`SANDBOX_<NAME>`, the settings file, the default. The settings file is optional TOML, one flat table but for `upstreams`
and `models`, which are tables of tables, and JSON in the environment: the file that `SANDBOX_CONFIG` names, else the
user's `~/.config/sandbox/config.toml`, else `/etc/sandbox/config.toml`.

(Long, because settings are many and each is told of once, here.)
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, Field, PrivateAttr, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from sandbox.errors import InvalidSetting
from sandbox.nearest import nearest
from sandbox.tables import ModelName, ModelTable, Policy, PricesTable, TableName, UpstreamTable

PREFIX = "SANDBOX_"
FILE_VARIABLE = "SANDBOX_CONFIG"
"""The environment variable that names the settings file; not itself a setting."""
_SYSTEM_FILE = Path("/etc/sandbox/config.toml")
_RESERVED_MB = 96
"""What a workspace must leave of the memory cap, because its files count towards it."""
_TABLES: Mapping[str, type[UpstreamTable] | type[ModelTable]] = {"upstreams": UpstreamTable, "models": ModelTable}
_SECRETS = frozenset({"key", "headers"})
"""What is masked in those tables."""


def _home(variable: str, fallback: str) -> Path:
    """An XDG base directory. Raises `InvalidSetting` for a user who has no home directory."""
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():  # the XDG specification has relative ones ignored
        return named
    try:
        return Path.home() / fallback
    except RuntimeError as error:
        raise InvalidSetting(f"this user has no home directory; set {PREFIX}DATA_DIR and {FILE_VARIABLE}") from error


def _default_data_dir() -> Path:
    return Path("/var/lib/sandbox") if os.geteuid() == 0 else _home("XDG_DATA_HOME", ".local/share") / "sandbox"


def _default_max_memory_mb(validated: dict[str, Any]) -> int:
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (2 << 20)
    memory_mb: int = validated["memory_mb"]
    return max(half, memory_mb)


class Settings(BaseSettings):
    """All settings, read and checked.

    Raises `InvalidSetting`, which names the value, where it is from and what would do.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    data_dir: Path = Field(
        default_factory=_default_data_dir,
        description="Where everything is kept that outlives a process: rows, files, built images.",
        json_schema_extra={
            "default": "`/var/lib/sandbox` for root, else `$XDG_DATA_HOME/sandbox` or `~/.local/share/sandbox`"
        },
    )
    images_dir: Path = Field(
        default_factory=lambda validated: validated["data_dir"] / "images",
        description="Where built images are kept.",
        json_schema_extra={"default": "`images` in `data_dir`"},
    )
    runtime: Literal["auto", "embedded", "docker"] = Field(
        default="auto",
        description="What makes sandboxes; `auto` is `embedded` where this host can contain by itself, else `docker`.",
    )
    start: Literal["fork", "exec"] = Field(
        default="fork",
        description="How the embedded runtime makes kernels: forks of a zygote that has the libraries, or interpreters "
        "that are executed each for itself, which share nothing and take about a second.",
    )
    zygote_age_s: float = Field(
        default=3600,
        ge=0,
        le=30 * 86_400,
        description="Seconds after which sandboxes of the embedded runtime are forked from a new zygote, so that "
        "address layout and hash seed are not the same for ever. The old one stays until its last sandbox has ended; 0 "
        "is never.",
    )
    docker_host: str | None = Field(
        default=None,
        pattern=r"^(unix:///|tcp://)\S+$",
        description="The Docker daemon that makes containers.",
        json_schema_extra={
            "default": "what `DOCKER_HOST` names, else `unix:///var/run/docker.sock`",
            "allowed": "an address that begins with `unix://` or `tcp://`",
        },
    )
    docker_channel: Literal["auto", "socket", "stdio"] = Field(
        default="auto",
        description="How the server talks into containers: a socket shown to each, or their stdin and stdout through "
        "the daemon; `auto` takes the socket where daemon and server share a file system.",
    )
    docker_cgroup_parent: str = Field(
        default="",
        max_length=255,
        pattern=r"^(/?[A-Za-z0-9][A-Za-z0-9._:\\-]*(/[A-Za-z0-9][A-Za-z0-9._:\\-]*)*)?$",
        description="The control group that all containers are in, instead of the server's own, with caps that are "
        "yours to set: for a server that cannot make one because it is not root or not on the daemon's host.",
        json_schema_extra={
            "default": "`/sandbox/docker` or `sandboxes.slice`, made by the server where it may",
            "allowed": "a path, or where the daemon leaves control groups to systemd a slice",
        },
    )
    oci_runtime: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="What runs containers, by the name that the Docker daemon has for it: `runc`, `runsc` (gVisor).",
        json_schema_extra={"default": "the daemon's own", "allowed": "a name from `docker info`"},
    )
    image: str = Field(
        default="python",
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="The image of sandboxes for which no other is asked.",
    )
    pool_size: int = Field(
        default=4,
        ge=0,
        le=1000,
        description="How many sandboxes are kept warm before anyone asks; 0 starts each on demand.",
    )
    standby_size: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="How many sandboxes without a kernel stand by, at 2 to 3 MB each, so that who finds nothing warm "
        "waits less; only the embedded runtime has them. On each runtime, how many more than `pool_size` are started "
        "while models are asked that may want to run code.",
        json_schema_extra={"default": "four for each of `pool_size`, at most 100"},
    )
    memory_mb: int = Field(
        default=512,
        ge=192,
        le=1 << 20,
        description="Hard memory cap of one sandbox in MiB, its files in `/mnt/data` and `/tmp` included.",
    )
    max_memory_mb: int = Field(
        default_factory=_default_max_memory_mb,
        ge=192,
        le=1 << 20,
        description="The largest memory cap in MiB that a caller may ask for; not below `memory_mb`.",
        json_schema_extra={"default": "half of the machine's memory, at least `memory_mb`"},
    )
    cpus: float = Field(
        default=1.0, ge=0.05, le=1024, description="Processor time of one sandbox, in cores' worth per second."
    )
    processes: int = Field(
        default=128, ge=16, le=4096, description="Most processes and threads that one sandbox may have at a time."
    )
    disk_mb: int | None = Field(
        default=None,
        ge=1,
        le=1 << 20,
        description=f"Size of `/mnt/data` in MiB; must be at least {_RESERVED_MB} below `memory_mb`.",
        json_schema_extra={"default": "half of the sandbox's memory cap, at most 256"},
    )
    files: int = Field(
        default=8192,
        ge=16,
        le=1_000_000,
        description="Most files and directories in one sandbox's `/mnt/data`; 10,000 at most are listed and stored.",
    )
    output_bytes: int = Field(
        default=1 << 20,
        ge=1024,
        le=64 << 20,
        description="Bytes kept of an execution's stdout, and again of its stderr; the middle of more is dropped.",
    )
    timeout_s: float = Field(
        default=30.0, gt=0, le=86_400, description="Seconds of wall clock for an execution that asks for no timeout."
    )
    max_timeout_s: float = Field(
        default=3600.0,
        gt=0,
        le=86_400,
        description="The longest timeout in seconds that a caller may ask for; not below `timeout_s`.",
    )
    idle_timeout_s: float = Field(
        default=3600.0,
        gt=0,
        le=30 * 86_400,
        description="Seconds after its last execution at which a session expires.",
    )
    queue_size: int = Field(
        default=16, ge=0, le=1000, description="Executions that may wait in a session behind the running one."
    )
    host: str = Field(
        default="127.0.0.1",
        pattern=r"^[A-Za-z0-9_.:-]{1,255}$",
        description="The address on which `sandbox serve` listens; anything but loopback needs a key.",
        json_schema_extra={"allowed": "an address or a host name"},
    )
    port: int = Field(
        default=8000, ge=0, le=65_535, description="The port on which `sandbox serve` listens; 0 takes a free one."
    )
    allowed_hosts: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_.:, \[\]-]{0,4096}$",
        description="Host names besides loopback's own, separated by commas, under which the server may be reached.",
        json_schema_extra={"default": "none", "allowed": "host names, separated by commas"},
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="Where rows are kept: `sqlite:////path` or `postgresql+psycopg://user:password@host/name`.",
        json_schema_extra={"default": "`sandbox.db` in `data_dir`", "allowed": "a database's URL"},
    )
    memory_budget_mb: int | None = Field(
        default=None,
        ge=192,
        le=1 << 30,
        # Twice, because most sandboxes hold a few tens of megabytes of the hundreds that they may.
        description="How much memory in MiB all sandboxes together may be promised; the pool's share is set aside.",
        json_schema_extra={"default": "twice what the machine or its control group has"},
    )
    max_waiting: int = Field(
        default=256, ge=0, le=100_000, description="Requests that may wait for a sandbox in all; more are refused."
    )
    max_waiting_per_key: int = Field(
        default=64, ge=0, le=100_000, description="Requests that may wait for a sandbox with the same key."
    )
    max_wait_s: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds after which a request no longer waits for a sandbox."
    )
    max_upload_mb: int = Field(
        default=512, ge=1, le=1 << 20, description="Size in MiB of the largest file that is taken; `disk_mb` binds too."
    )
    max_body_mb: int = Field(
        default=32, ge=1, le=1024, description="Size in MiB of the largest JSON body, files in base64 included."
    )
    body_timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds for a request's head, and again for its JSON body; an upload gets 1 more per 4096 bytes.",
    )
    drain_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds that running executions get when the server is told to stop."
    )
    retention_h: float = Field(
        default=720.0,
        gt=0,
        le=100_000,
        description="Hours for which an ended session and its executions can still be read.",
    )
    file_retention_h: float = Field(
        default=24.0, gt=0, le=100_000, description="Hours for which the files of an ended session can still be read."
    )
    log_format: Literal["auto", "json", "pretty"] = Field(
        default="auto", description="How the server logs to stderr; `auto` is pretty on terminals."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that the server logs."
    )
    log_code: bool = Field(default=False, description="Whether the server logs the code that it is given to run.")
    key_sessions: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Open sessions that a key may have, unless it was made with another limit.",
        json_schema_extra={"default": "no limit"},
    )
    key_running: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Executions of a key that may run or wait at a time, unless it was made with another limit.",
        json_schema_extra={"default": "no limit"},
    )
    key_per_minute: int | None = Field(
        default=None,
        ge=0,
        le=10_000_000,
        description="Executions and sessions that a key may ask for in a minute, unless it was made with another "
        "limit. A run counts once.",
        json_schema_extra={"default": "no limit"},
    )
    key_stored_mb: int | None = Field(
        default=None,
        ge=0,
        le=1 << 30,
        description="MiB of files that are kept for a key, unless it was made with another limit.",
        json_schema_extra={"default": "no limit"},
    )
    server: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/]+(/[^\s]*)?$",
        description="The server that `sandbox run` and the client talk to.",
        json_schema_extra={
            "default": "none: `sandbox run` opens an engine of its own",
            "allowed": "a URL that begins with `http://` or `https://`",
        },
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="The key with which `sandbox run` and the client talk to a server.",
        json_schema_extra={"default": "none", "allowed": "a key made by `sandbox key create`"},
    )
    upstreams: dict[TableName, UpstreamTable] = Field(
        default_factory=dict,
        description="The servers that have models, each a table `[upstreams.NAME]`, see below.",
        json_schema_extra={
            "default": "what `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `ANTHROPIC_API_KEY` and `ANTHROPIC_BASE_URL` mean",
            "allowed": "tables of upstreams by name (lower-case letters, digits, `_` and `-`)",
        },
    )
    models: dict[ModelName, ModelTable] = Field(
        default_factory=dict,
        description="Models that need more than a name, each a table `[models.NAME]`, see below.",
        json_schema_extra={"default": "none", "allowed": "tables of models by name"},
    )
    model: str = Field(
        default="",
        pattern=r"^\S{0,256}$",
        description="The model for `sandbox chat` without `--model`; requests over HTTP name theirs.",
        json_schema_extra={
            "default": "the first of `models`, else in `sandbox chat` the first that an upstream has",
            "allowed": "a model's name, or `upstream/model`",
        },
    )
    model_policy: Policy = Field(
        default="first",
        description="Which route is taken for a model that has several: in their order, the first alone, the one that "
        "will cost least, the one that answered fastest of late.",
    )
    model_wait_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds that a request to a model may wait in all: for its turn, for rate limits, between tries.",
    )
    unlisted_models: bool = Field(
        default=True, description="Whether models may be asked for by name that are not in `models`."
    )
    response_cache: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="How many replies of models are kept to be given again; 0 keeps none.",
    )
    response_cache_s: float = Field(
        default=3600.0, gt=0, le=30 * 86_400, description="Seconds for which a reply is kept."
    )
    loop_attempts: int = Field(
        default=4, ge=1, le=100, description="Failed executions in a row after which the model loop gives up."
    )
    loop_turns: int = Field(default=16, ge=1, le=1000, description="Times that the model loop asks the model at most.")
    loop_tokens: int = Field(
        default=500_000,
        ge=1,
        le=1_000_000_000,
        description="Tokens, in and out, that one run of the model loop may spend.",
    )
    loop_usd: float = Field(
        default=2.0, gt=0, le=1_000_000, description="US dollars that one run of the model loop may spend."
    )
    loop_seconds: float = Field(
        default=900.0, gt=0, le=86_400, description="Seconds of wall clock for one run of the model loop."
    )

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, **arguments: Any) -> None:
        file = _read_file()
        environment = _read_environment(type(self))
        _refuse_near_misses()
        origins = dict.fromkeys(file.values, str(file.path))
        origins |= {name: PREFIX + name.upper() for name in environment}
        origins |= dict.fromkeys(arguments, "argument")
        try:
            super().__init__(**{**file.values, **environment, **arguments})
        except ValidationError as error:
            raise InvalidSetting("\n".join(_explain(detail, origins) for detail in _relevant(error))) from None
        self._origins = origins

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `__init__` has merged all sources already, because it has to know the origin of each value.
        return (init_settings,)

    @property
    def standing_by(self) -> int:
        """`standby_size` with the default resolved."""
        return min(4 * self.pool_size, 100) if self.standby_size is None else self.standby_size

    @property
    def database(self) -> str:
        """The database's URL, with the default resolved; it may hold a password."""
        return self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.data_dir}/sandbox.db"

    @classmethod
    def load(cls) -> Self:
        """From the environment and the settings file alone."""
        return cls()

    @field_validator("*", mode="before")
    @classmethod
    def _check_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("is_boolean", "")  # else `true` would be 1
        return value

    @field_validator("data_dir", "images_dir", mode="before")
    @classmethod
    def _check_directory(cls, value: Any) -> Any:
        if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
            raise ValueError("must be a directory")
        return Path(value)

    @field_validator("data_dir", "images_dir")
    @classmethod
    def _resolve_directory(cls, value: Path) -> Path:
        try:
            return value.expanduser().absolute()
        except RuntimeError as error:
            raise ValueError("must be a path written in full, because that user has no home directory") from error

    @field_validator("max_memory_mb", "max_timeout_s", "disk_mb")
    @classmethod
    def _check_pair(cls, value: float | None, info: ValidationInfo) -> float | None:
        name = str(info.field_name)
        if value is None or (other := {"disk_mb": "memory_mb"}.get(name, name.removeprefix("max_"))) not in info.data:
            return value
        bound = info.data[other]
        if name == "disk_mb" and value > bound - _RESERVED_MB:
            raise ValueError(f"must be at most {bound - _RESERVED_MB}, which is memory_mb less {_RESERVED_MB}")
        if name != "disk_mb" and value < bound:
            raise ValueError(f"must be at least {other}, which is {bound:g}")
        return value

    def explain(self) -> tuple["Setting", ...]:
        """Every setting with its value and where it is from."""
        return tuple(
            Setting(name, getattr(self, name), self._origins.get(name, "default"), field.description or "")
            for name, field in type(self).model_fields.items()
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it is in force."""

    name: str
    value: object
    origin: str
    """`argument`, an environment variable's name, the settings file's path, or `default`."""
    description: str


@dataclass(frozen=True, slots=True)
class _File:
    """The settings file; without one it is empty."""

    path: Path | None
    values: Mapping[str, Any]


def _read_file() -> _File:
    """The settings file in force. Raises `InvalidSetting` when it is named but missing, damaged or has unknown keys."""
    path = _find_file()
    if path is None:
        return _File(None, {})
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise InvalidSetting(f"the settings file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise InvalidSetting(f"the settings file {path} is not valid TOML: {error}") from error
    for name in values:
        if name not in Settings.model_fields:
            raise InvalidSetting(f"{path}: {_unknown(name)}")
    return _File(path, values)


def _find_file() -> Path | None:
    if named := os.environ.get(FILE_VARIABLE):
        return Path(named)
    for path in (_home("XDG_CONFIG_HOME", ".config") / "sandbox" / "config.toml", _SYSTEM_FILE):
        if path.exists():
            return path
    return None


def unknown_variables() -> list[str]:
    """Environment variables that begin like ours and are not ours, sorted."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {FILE_VARIABLE}
    return sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)


def _refuse_near_misses() -> None:
    """A misspelt variable would leave a limit at its default. Others with our prefix may be somebody else's."""
    for variable in unknown_variables():
        name = variable.upper().removeprefix(PREFIX).lower()
        if nearest(name, Settings.model_fields):
            raise InvalidSetting(f"the environment has {variable}: {_unknown(name)}")


def _unknown(name: str) -> str:
    return f"there is no setting {name!r}; {_advice(name, Settings.model_fields)}"


def _advice(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f"did you mean {near}?" if near else f"choose from: {', '.join(sorted(known))}"


def _read_environment(settings: type[BaseSettings]) -> dict[str, Any]:
    """The settings that the environment has. Raises `InvalidSetting` for tables that are not JSON."""
    try:
        return EnvSettingsSource(settings)()
    except SettingsError as error:  # its own words would be about pydantic; the value may hold keys
        found = re.search(r'field "(\w+)"', str(error))
        name = found[1] if found else "a setting"
        raise InvalidSetting(f"{name} (from {PREFIX}{name.upper()}) is not valid JSON: {error.__cause__}") from None


def _relevant(error: ValidationError) -> list[ErrorDetails]:
    """Without the defaults that could not be computed because of the others."""
    return [detail for detail in error.errors() if detail["type"] != "default_factory_not_called"]


def _explain(detail: ErrorDetails, origins: Mapping[str, str]) -> str:
    name = str(detail["loc"][0])
    origin = origins.get(name, "default")
    if name in _TABLES:
        return _explain_table(detail, origin)
    if detail["type"] == "extra_forbidden":
        return _unknown(name)
    if detail["type"] == "value_error":
        wanted = str(detail["ctx"]["error"])
    else:
        wanted = f"must be {allowed(Settings.model_fields[name])}"
    return f"{name} is {detail['input']!r} (from {origin}); it {wanted}"


def _explain_table(detail: ErrorDetails, origin: str) -> str:
    """What is wrong in `upstreams` or `models`. What may be or hold a secret is not repeated."""
    loc = detail["loc"]
    path = ".".join(str(step) for step in loc if step != "[key]")
    if detail["type"] == "extra_forbidden":
        *above, name = loc
        known = _table_at(above).model_fields
        return f"{'.'.join(map(str, above))} (from {origin}): there is no key {name!r}; {_advice(str(name), known)}"
    field = _field_at(loc)
    if field is None:
        wanted = f"`[{loc[0]}.NAME]` must be {allowed(Settings.model_fields[str(loc[0])])}"
        return f"{path} (from {origin}) cannot be used; {wanted}"
    given = detail["input"]
    plain = isinstance(given, str | int | float) and "@" not in str(given) and not _SECRETS & set(loc[2:])
    told = "is missing" if detail["type"] == "missing" else f"is {given!r}" if plain else "cannot be used"
    return f"{path} {told} (from {origin}); it must be {allowed(field)}"


def _table_at(loc: Iterable[int | str]) -> type[BaseModel]:
    """What a place in the settings is."""
    return PricesTable if "prices" in list(loc)[2:] else _TABLES[str(next(iter(loc)))]


def _field_at(loc: tuple[int | str, ...]) -> FieldInfo | None:
    """The field that a place in `upstreams` or `models` belongs to; None for a table as a whole."""
    names = [step for step in loc[2:] if isinstance(step, str) and step != "[key]"]
    if len(names) > 1 and names[0] == "prices":
        return PricesTable.model_fields[names[1]]
    return _TABLES[str(loc[0])].model_fields[names[0]] if names else None


def allowed(field: FieldInfo) -> str:
    """The values that a field takes, in words."""
    told = field.json_schema_extra
    if isinstance(told, dict) and "allowed" in told:
        return str(told["allowed"])
    choices = [choice for choice in get_args(field.annotation) if choice is not type(None)]
    if choices and get_origin(choices[0]) is Literal:  # one that may be left out
        choices = list(get_args(choices[0]))
    if choices and all(isinstance(choice, str) for choice in choices):
        *others, last = (f"`{choice}`" for choice in choices)
        return f"{', '.join(others)} or {last}"
    kind = choices[0] if choices else field.annotation
    if kind is Path:
        return "a directory"
    if kind is str:
        return "a name of lower-case letters, digits, `.`, `_` and `-`"
    if kind is bool:
        return "`true` or `false`"
    words = "a whole number" if kind is int else "a number"
    low, high = _bound(field, "ge"), _bound(field, "le")
    if low is None:
        return f"{words} above {_bound(field, 'gt')}, at most {high}"
    return f"{words} from {low} to {high}"


def _bound(field: FieldInfo, name: str) -> float | None:
    return next((getattr(bound, name) for bound in field.metadata if hasattr(bound, name)), None)


def table() -> str:
    """Every setting as Markdown tables, which is what `docs/settings.md` shows."""
    lines = ["| setting | environment variable | allowed | default | meaning |", "|---|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `{name}` | `{PREFIX}{name.upper()}` | {_cells(field)} |")
    for title, model in (("[upstreams.NAME]", UpstreamTable), ("[models.NAME]", ModelTable), ("prices", PricesTable)):
        lines += ["", f"## `{title}`", "", "| key | allowed | default | meaning |", "|---|---|---|---|"]
        lines += [f"| `{name}` | {_cells(field)} |" for name, field in model.model_fields.items()]
    return "\n".join(lines) + "\n"


def _cells(field: FieldInfo) -> str:
    computed = field.json_schema_extra
    default = "required" if field.is_required() else f"`{field.default}`"
    if isinstance(computed, dict) and "default" in computed:
        default = str(computed["default"])
    return f"{allowed(field)} | {default} | {field.description or ''}"
