"""What an operator can set, where it may be said, and what is allowed.

The command line wins over the environment (`FORETHOUGHT_LIMITS__MAX_SAMPLES=16`), that over the
TOML file (`--config`, `FORETHOUGHT_CONFIG`, else `forethought.toml` here), that over the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from typing_extensions import TypedDict

from server.engines.vllm_machine import VLLMOptions

EngineKind: TypeAlias = Literal["vllm", "http", "scripted"]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
LogLevel: TypeAlias = Literal["critical", "error", "warning", "info", "debug"]
LogFormat: TypeAlias = Literal["text", "json"]
Role: TypeAlias = Literal["all", "server", "worker"]

MAIN_ENGINE = "main"
"""The name, among all engines, of the one that the file's top level describes."""

MIN_TOKENS = 16
"""The smallest budget of tokens that a request may have."""


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineSettings(Section):
    """Where samples come from. `[engines.NAME]` has the same keys as the main engine."""

    engine: EngineKind = Field(
        "vllm", description="vLLM in this process, an OpenAI-compatible server, or no model at all."
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="vllm: catalogue name, hub id, directory or `checkpoint:NAME[@VERSION]`; http: "
        "the upstream's name. Default: the catalogue's default; the only model of the upstream.",
    )
    upstream: str | None = Field(
        None, pattern="^https?://", description="http: URL up to and with its `/v1`."
    )
    api_key: SecretStr | None = Field(None, description="http: sent to the upstream as a bearer.")
    options: VLLMOptions = Field(
        default_factory=VLLMOptions, description="vllm: what it is told; the default is chosen."
    )
    delay_s: float = Field(0.0, ge=0, le=60, description="scripted: seconds per token.")

    @model_validator(mode="after")
    def _fits_together(self) -> EngineSettings:
        if self.engine == "http" and self.upstream is None:
            raise ValueError("engine 'http' needs `upstream`, such as http://127.0.0.1:8080/v1")
        if self.engine != "http" and self.upstream is not None:
            raise ValueError(f"`upstream` is for engine 'http', not {self.engine!r}")
        return self


class Limits(Section):
    """The server's caps: a request that asks for more is a 400 (413 for the body)."""

    max_samples: int = Field(256, ge=1, le=1024, description="Samples of one request at once.")
    max_tokens: int = Field(65_536, ge=MIN_TOKENS, description="Budget of tokens.")
    max_calls: int = Field(1024, ge=1, description="Budget of samples and scorings.")
    deadline_s: float = Field(600.0, gt=0, description="Budget of seconds.")
    max_completion_tokens: int = Field(32_768, ge=1, description="Tokens of one reply.")
    body_bytes: int = Field(4 << 20, ge=1024, description="Bytes of a request body.")
    head_s: float = Field(10.0, gt=0, description="Seconds for the head of a request to come.")
    body_s: float = Field(
        20.0, gt=0, description="Seconds for a body to come, and one more for each 10,000 bytes."
    )
    max_messages: int = Field(1024, ge=1, description="Messages of one request.")


class BudgetDefaults(Section):
    """The budget of a request that names none."""

    max_tokens: int = Field(8192, ge=MIN_TOKENS, description="Tokens, verifiers included.")
    max_calls: int = Field(256, ge=1, description="Samples and scorings, one each.")
    deadline_s: float = Field(120.0, gt=0, description="Seconds from receipt, queueing included.")


EffortBudget: TypeAlias = Annotated[int, Ge(MIN_TOKENS)] | None


class EffortBudgets(Section):
    """Budget of tokens by a request's `reasoning_effort`; an effort without one changes nothing."""

    none: EffortBudget = None
    minimal: EffortBudget = None
    low: EffortBudget = 1024
    medium: EffortBudget = 4096
    high: EffortBudget = 16_384
    xhigh: EffortBudget = None
    max: EffortBudget = None


class PartialBudget(TypedDict, total=False):
    """The parts of a budget that a preset gives."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    max_tokens: Annotated[int, Ge(MIN_TOKENS)]
    max_calls: Annotated[int, Ge(1)]
    deadline_s: Annotated[float, Gt(0)]


class KeySettings(Section):
    """API keys: who needs one, and how they are checked."""

    mode: Literal["auto", "required", "none"] = Field(
        "auto", description="auto: required unless `host` is a loopback address."
    )
    bootstrap_file: Path | None = Field(
        None, description="Where keys are required: the first key's file, made if it is not there."
    )
    metrics_file: Path | None = Field(
        None, description="The same for a key that opens `/metrics` and nothing else."
    )
    cache_s: float = Field(
        5.0, ge=0, le=60, description="Seconds until a revocation counts: keys are kept in memory."
    )
    outage_s: float = Field(
        300.0, ge=0, description="Seconds that a known key counts while the store is away."
    )
    lease_s: float = Field(
        30.0, ge=1, description="Seconds until the samples that a dead server held are free."
    )
    cache_salt: bool = Field(
        True, description="Keep keys apart in the engines' prefix caches: none sees another's."
    )


class CorsSettings(Section):
    """Pages of other origins that browsers let ask this server: none by default."""

    origins: tuple[str, ...] = Field((), description="Such as https://chat.example.org, or *.")


class AdmissionSettings(Section):
    """How much runs at once."""

    slots: int | None = Field(
        None, ge=1, description="Samples at once. Default: 32 on a CPU, else 256."
    )
    per_request: int | None = Field(
        None, ge=1, description="Samples at once of one request. Default: all slots."
    )
    queue_limit: int = Field(256, ge=1, description="Requests that may wait; beyond: 429.")


class TelemetrySettings(Section):
    """Where spans of requests are sent."""

    otlp_endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="A collector's address for OTLP over HTTP, such as http://127.0.0.1:4318. "
        "Default: OTEL_EXPORTER_OTLP_ENDPOINT; without either, no span is made.",
    )
    flush_s: float = Field(
        5.0, ge=0, le=60, description="Time for sending what waits when the server ends."
    )


class FileSettings(Section):
    """What `/v1/files` takes, and for how long files are kept."""

    max_bytes: int = Field(200 << 20, ge=1024, description="Bytes of a file; beyond: 413.")
    keep_s: float = Field(
        30 * 86_400.0, ge=60, description="Until files, and batches that have ended, are deleted."
    )


class BatchSettings(Section):
    """How lines of batches are worked."""

    max_lines: int = Field(50_000, ge=1, description="Of one batch.")
    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Of the admission slots, at most, for lines; the rest is for clients who wait. "
        "A worker uses all.",
    )
    attempts: int = Field(
        8, ge=1, le=1000, description="Of a line that fails by no fault of its own: then it dies."
    )
    backoff_s: float = Field(
        2.0, gt=0, le=300, description="Before the second attempt; doubles, up to five minutes."
    )
    lease_s: float = Field(
        30.0, ge=1, le=3600, description="Until the lines of a replica that died are worked anew."
    )
    poll_s: float = Field(1.0, gt=0, le=60, description="Between two looks for work.")


class BackgroundSettings(Section):
    """How requests with `background` are worked, and for how long their answers are kept."""

    at_once: int = Field(
        32, ge=0, description="Requests that this server works on at once; 0: it leaves all."
    )
    attempts: int = Field(
        5, ge=1, le=100, description="Of a request that fails by no fault of its own."
    )
    backoff_s: float = Field(
        1.0, gt=0, le=300, description="Before the second attempt; doubles, up to five minutes."
    )
    lease_s: float = Field(
        15.0, ge=1, le=3600, description="Until the work of a replica that died is taken over."
    )
    keep_s: float = Field(
        86_400.0,
        ge=1,
        description="Until background requests, and stored responses, are deleted: after the last "
        "change.",
    )


def _named(key: str) -> BeforeValidator:
    """Let a string stand for the table that holds nothing but that name."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str | Path) else value)


class CacheSettings(Section):
    """Answers that are given again: `[result_cache]`."""

    use: Literal["off", "asked", "reproducible"] = Field(
        "asked",
        description="For no request, for those that ask by `cache`, or also for those that would "
        "give the same answer again: with a seed, or greedy.",
    )
    ttl_s: float = Field(3600.0, gt=0, description="For how long, where the request does not say.")
    max_ttl_s: float = Field(7 * 86_400.0, gt=0, description="The longest that a request may say.")
    max_bytes: int = Field(1 << 20, ge=1024, description="Longer answers are not kept.")
    shared: bool = Field(
        False, description="One key may be given what another one asked for: only among friends."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> CacheSettings:
        if self.ttl_s > self.max_ttl_s:
            raise ValueError("`ttl_s` is over `max_ttl_s`")
        return self


class TraceSettings(Section):
    """What is kept of runs: `[traces]`, or just the file's name."""

    file: Path | None = Field(
        None, description="SQLite file of its own. Default: the store, which replicas share."
    )
    record: Literal["all", "asked"] = Field(
        "all",
        description="Every run whose request does not say `trace: false`; or those alone whose "
        "request says `trace: true`, or whose key is among `keys`.",
    )
    keys: tuple[str, ...] = Field((), description="Public ids of API keys: see `record`.")
    keep_s: float = Field(30 * 86_400.0, gt=0, description="How long a trace is kept.")
    max_bytes: int = Field(
        10 << 30, ge=1 << 20, description="What all texts may take; the oldest go first."
    )


class Preset(Section):
    """A model name that stands for a strategy: `[presets.NAME]`."""

    model: str | None = Field(
        None, description="An engine, its model or an adapter. Default: the main engine."
    )
    strategy: Annotated[dict[str, Any], _named("type")] = Field(
        description="A strategy's name, or a table of `type` and its parameters."
    )
    verifier: Annotated[dict[str, Any] | None, _named("name")] = Field(
        None, description="A configured verifier's name, or a table of `name` and its fields."
    )
    budget: PartialBudget | None = None


class Settings(BaseSettings, EngineSettings):
    """Everything that can be set. `load_settings` reads it; the constructor reads nothing."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="FORETHOUGHT_",
        env_nested_delimiter="__",
        protected_namespaces=(),
    )

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65_535, description="0: any free one.")
    log_level: LogLevel = "info"
    log_format: LogFormat = Field("text", description="json: an object a line.")
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    engines: dict[str, EngineSettings] = Field(
        default_factory=dict, description="More engines by name: for cascades and judges."
    )
    default_strategy: str = Field("single", description="For requests that name none.")
    default_verifier: str = Field("logprob", description="For strategies that need scores.")
    default_max_completion_tokens: int = Field(1024, ge=1, description="Tokens of one reply.")
    verifiers: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="`type` and its configuration, by name."
    )
    presets: dict[str, Preset] = Field(default_factory=dict)
    plugins: tuple[str, ...] = Field(
        (), description="Installed packages whose strategies and verifiers are served too."
    )
    limits: Limits = Field(default_factory=Limits)
    budget: BudgetDefaults = Field(default_factory=BudgetDefaults)
    reasoning_effort: EffortBudgets = Field(default_factory=EffortBudgets)
    tables: dict[str, Path] = Field(
        default_factory=dict,
        description="More tables for `compute_optimal`: files of `forethought bench tune` by name.",
    )
    admission: AdmissionSettings = Field(default_factory=AdmissionSettings)
    checkpoints: Path | None = Field(
        None,
        description="Directory of the store of checkpoints. Default: `checkpoints`, beside the "
        "models.",
    )
    checkpoints_poll_s: float = Field(
        2.0, gt=0, le=3600, description="Between two looks at what was promoted."
    )
    follow: tuple[str, ...] | None = Field(
        None,
        description="Adapters of the store to serve in slots of engines. Default: every promoted "
        "one that fits.",
    )
    result_cache: CacheSettings = Field(default_factory=CacheSettings)
    traces: Annotated[TraceSettings | None, _named("file")] = Field(
        None, description="SQLite file of all runs, or a table. Default: none is kept."
    )
    store: str | None = Field(
        None,
        min_length=1,
        repr=False,  # it may hold a password
        description="Where batches, background requests and quotas are kept: `sqlite:PATH`, or "
        "`redis://HOST:PORT`, which several servers may share. Default: a file in the user's "
        "state directory.",
    )
    role: Role = Field(
        "all",
        description="server: leaves batches to others; worker: works on them, and answers nothing "
        "but `/healthz`, `/readyz` and `/metrics`.",
    )
    files: FileSettings = Field(default_factory=FileSettings)
    batches: BatchSettings = Field(default_factory=BatchSettings)
    background: BackgroundSettings = Field(default_factory=BackgroundSettings)
    keys: KeySettings = Field(default_factory=KeySettings)
    cors: CorsSettings = Field(default_factory=CorsSettings)
    heartbeat_s: float = Field(10.0, gt=0, le=60, description="Between signs of life in a stream.")
    drain_s: float = Field(30.0, ge=0, description="Time for running requests at the end.")
    drain_notice_s: float = Field(
        0.0,
        ge=0,
        description="Before that: `/readyz` says 503, for balancers that ask, and all is answered.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Construct from arguments alone: what is read from where is said in `load_settings`."""
        return (init_settings,)

    @model_validator(mode="after")
    def _within_limits(self) -> Settings:
        for name in ("max_tokens", "max_calls", "deadline_s"):
            budgets: dict[str, Mapping[str, Any]] = {"budget": self.budget.model_dump()}
            budgets |= {f"presets.{key}.budget": p.budget or {} for key, p in self.presets.items()}
            cap = getattr(self.limits, name)
            for key, budget in budgets.items():
                if budget.get(name, cap) > cap:
                    raise ValueError(f"`{key}.{name}` is over `limits.{name}`, which is {cap}")
        if self.default_max_completion_tokens > self.limits.max_completion_tokens:
            raise ValueError("`default_max_completion_tokens` is over its limit")
        return self
