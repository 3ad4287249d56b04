"""Drawing replies while training: what a recipe says of it, and what methods ask.

Synchronous, as trainers are. The replies come from vLLM in this process, from a server, or from
the trained model itself; whichever it is, they are `verifiers.types.Candidate`s.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from server.engines.vllm_machine import VLLMOptions
from server.settings import EngineSettings
from verifiers.types import Candidate, Engine, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Result = TypeVar("Result")
Progress: TypeAlias = Callable[[int, int], None]
"""Told how many of how many replies are drawn."""


class RolloutError(RuntimeError):
    """Replies cannot be drawn as the recipe says."""


class RolloutSettings(BaseModel):
    """`[rollouts]`: where replies come from while training, and how new weights get there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["vllm", "http", "model"] = Field(
        "vllm",
        description="vllm: in this process. http: a server. model: the trained model itself, "
        "slow, and everywhere.",
    )
    weights: Literal["merged", "adapter"] = Field(
        "merged",
        description="vllm: give it whole weights, or an adapter under a new name each time: less "
        "to move, slower to sample.",
    )
    options: VLLMOptions = Field(VLLMOptions(), description="vllm: what it is told.")
    adapter_rank: int = Field(
        64, ge=1, le=512, description="vllm with `adapter`: the highest LoRA rank to expect."
    )
    url: str | None = Field(None, description="http: such as http://127.0.0.1:8000/v1.")
    model: str | None = Field(None, description="http: the server's name of the policy.")
    api_key: SecretStr | None = Field(None, description="http: sent as a bearer token.")
    at_once: int = Field(256, ge=1, description="Prompts under way at the same time.")
    engines: dict[str, EngineSettings] = Field(
        default_factory=dict, description="More engines by name: for rewards that ask a model."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = self.model_fields_set
        if self.backend == "http" and (self.url is None or self.model is None):
            raise ValueError("backend 'http' needs `url` and `model`")
        for names, backend in (
            (("url", "model", "api_key"), "http"),
            (("options", "weights", "adapter_rank"), "vllm"),
        ):
            wrong = [name for name in names if name in given and self.backend != backend]
            if wrong:
                raise ValueError(f"`{wrong[0]}` is for backend {backend!r}, not {self.backend!r}")
        return self


class Rollouts(Protocol):
    """A source of replies that keeps up with the model being trained. Used by one thread."""

    @property
    def engine(self) -> Engine:
        """What draws; use it in coroutines that `run` runs."""

    @property
    def engines(self) -> dict[str, Engine]:
        """The others by name, which rewards may ask."""

    @property
    def step(self) -> int | None:
        """The step whose weights draw now; None: those that it was opened with."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        n: int = 1,
        progress: Progress | None = None,
    ) -> list[list[Candidate]]:
        """Draw n replies to each prompt, all at the same time; those of a prompt share its prefix.

        A candidate's `token_ids` hold the token that ended it. With `sampling.logprobs=0` it has
        the log-probability of each token, at temperature 1, by the weights that drew it. With a
        seed, prompt i draws with `sample_seed(seed, i)`: give every step another seed.

        Raises:
            BadRequest: a prompt, or a field of `sampling`, cannot be served.
            EngineError: a reply failed.
        """

    def refresh(self, model: Any, step: int) -> None:
        """Draw from this model's weights from now on: a `PreTrainedModel` or a `PeftModel`.

        No reply is drawn from the cache of older weights. Raises RolloutError where new weights
        cannot get there.
        """

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the engine's event loop."""

    def close(self) -> None:
        """End the engines."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def policy_sampling(max_tokens: int, temperature: float = 1.0, **more: Any) -> Sampling:
    """Sample from the policy as it is, with nothing of the model's generation_config.

    Those defaults (top-k, penalties) would draw from another distribution than the one trained.
    Keywords are further fields of `Sampling`.
    """
    plain = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    return Sampling(max_tokens, temperature, **{**plain, "logprobs": 0, **more})


def open_rollouts(
    settings: RolloutSettings,
    model_directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    model: Any = None,
) -> Rollouts:
    """Start what the settings say; close it, or use it as a context manager.

    Args:
        settings: the recipe's `[rollouts]`.
        model_directory: the weights to begin with.
        tokenizer: of the backend `model`; the others have their own.
        model: for the backend `model`, the model in training; None: it is loaded.

    Raises:
        EngineError: an engine does not start.
    """
    match settings.backend:
        case "vllm":
            from training.rollouts.engine import open_vllm

            return open_vllm(settings, model_directory)
        case "http":
            from training.rollouts.http import open_http

            return open_http(settings)
        case "model":
            from training.rollouts.model import open_model

            return open_model(settings, model_directory, tokenizer, model)
