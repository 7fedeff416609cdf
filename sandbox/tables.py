"""The settings that are tables: one upstream, one model. `config` has the rest, and says where values come from."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

_ROUTE = r"^[a-z0-9][a-z0-9_-]{0,63}/\S{1,256}$"
_A_ROUTE = "`upstream/model`"
Route = Annotated[str, Field(pattern=_ROUTE)]
TableName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""Of an upstream, which is told from the model's name by the first slash."""
ModelName = Annotated[str, Field(pattern=r"^\S{1,256}$")]
Policy = Literal["first", "pinned", "cheapest", "fastest"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def __repr_args__(self) -> Any:
        """What was set. Defaults are in the documentation, and secrets mask themselves."""
        return [(name, getattr(self, name)) for name in type(self).model_fields if name in self.model_fields_set]


class PricesTable(_Table):
    """US dollars per million tokens."""

    input: float = Field(ge=0, le=1_000_000, description="US dollars per million tokens of the prompt.")
    output: float = Field(ge=0, le=1_000_000, description="US dollars per million tokens of the reply.")
    cache_read: float | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="The same of prompt tokens that the upstream had in its cache.",
        json_schema_extra={"default": "as `input`"},
    )
    cache_write: float | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="The same of prompt tokens that it put there.",
        json_schema_extra={"default": "as `input`"},
    )


class UpstreamTable(_Table):
    """One model's server."""

    dialect: Literal["openai", "anthropic"] = Field(
        default="openai",
        description="What it speaks: OpenAI's Chat Completions, as nearly all servers do, or Anthropic's Messages.",
    )
    url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/@]+(/[^\s?#]*)?$",
        description="Its address: of OpenAI's dialect with the version (`…/v1`), of Anthropic's without.",
        json_schema_extra={
            "default": "the dialect's own vendor",
            "allowed": "a URL that begins with `http://` or `https://`, without a user's name",
        },
    )
    key_variable: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$",
        description="The environment variable that has its key.",
        json_schema_extra={
            "default": "at the vendor's own address `OPENAI_API_KEY` or `ANTHROPIC_API_KEY`, else none",
            "allowed": "an environment variable's name",
        },
    )
    key: SecretStr | None = Field(
        default=None,
        description="The key itself, where it must be: a key in a file is read by whoever reads the file.",
        json_schema_extra={"default": "none", "allowed": "a key"},
    )
    concurrency: int = Field(default=16, ge=1, le=10_000, description="Requests that may be in flight at a time.")
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Requests that may be sent in a minute.",
        json_schema_extra={"default": "no limit"},
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000_000,
        description="Tokens, in and out, that may be spent in a minute.",
        json_schema_extra={"default": "no limit"},
    )
    timeout_s: float = Field(
        default=120.0, gt=0, le=3600, description="Seconds of silence after which a request has failed."
    )
    attempts: int = Field(
        default=3, ge=1, le=20, description="Times that a request is tried here before the model's next route is."
    )
    breaker_failures: int = Field(
        default=5, ge=1, le=1000, description="Failures in a row that open the circuit breaker."
    )
    breaker_rest_s: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds for which an open circuit breaker lets nothing through."
    )
    headers: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Headers that are sent with every request.",
        json_schema_extra={"default": "none", "allowed": "a table of headers"},
    )
    prices: PricesTable | None = Field(
        default=None,
        description="What its models cost: US dollars per million tokens.",
        json_schema_extra={
            "default": "what the vendor publishes, else unknown",
            "allowed": "a table with `input`, `output`, and if need be `cache_read` and `cache_write`",
        },
    )


class ModelTable(_Table):
    """What is done for one model's name."""

    routes: tuple[Route, ...] = Field(
        min_length=1,
        description="Where it is.",
        json_schema_extra={"default": "required", "allowed": f"a list of {_A_ROUTE}"},
    )
    policy: Policy | None = Field(
        default=None,
        description="Which route is taken.",
        json_schema_extra={"default": "`model_policy`"},
    )
    prices: PricesTable | None = Field(
        default=None,
        description="What it costs on all its routes: US dollars per million tokens.",
        json_schema_extra={
            "default": "the upstream's",
            "allowed": "a table with `input`, `output`, and if need be `cache_read` and `cache_write`",
        },
    )
    pictures: bool | None = Field(
        default=None,
        description="Whether it can see images.",
        json_schema_extra={"default": "`true` where the first route is a vendor's own"},
    )
    fenced: bool = Field(
        default=False,
        description="Whether it makes no tool calls, so that its code is taken from Markdown fences.",
    )
    cache: Literal["temperature_0", "always", "never"] = Field(
        default="temperature_0",
        description="Which of its requests may be answered from the response cache: those of temperature 0, all, none.",
    )
    shadow: Route | None = Field(
        default=None,
        description="Where a share of requests is also sent, to be recorded and never answered.",
        json_schema_extra={"default": "nowhere", "allowed": _A_ROUTE},
    )
    shadow_share: float = Field(default=0.1, ge=0, le=1, description="The share.")
    shadow_usd: float = Field(
        default=1.0, ge=0, le=1_000_000, description="US dollars that it may cost until the server is started again."
    )
