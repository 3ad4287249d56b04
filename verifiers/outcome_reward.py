"""A trained reward model that scores whole replies."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, SecretStr, model_validator

from verifiers.answers import canonical_tool_calls
from verifiers.base import Verifier
from verifiers.calibration import Calibration, sigmoid
from verifiers.errors import VerifierError, VerifierUnavailable, told_as_unavailable
from verifiers.http_classifier import HTTPClassifier, PoolingPath
from verifiers.http_scorer import ScoringServer
from verifiers.manifest import MANIFEST, Kind, ManifestError, read_manifest
from verifiers.sequence_classifier import (
    Classifier,
    Conversation,
    Dtype,
    Logits,
    SequenceClassifier,
)
from verifiers.turns import spoken, text_of
from verifiers.types import Candidate, JSONObject, Powers, Score, Task

_PROBE: Conversation = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
)
"""What is scored to find out whether it can score."""
_KINDS: tuple[Kind, ...] = ("orm",)
"""The checkpoints that it can load."""


class OutcomeReward(Verifier):
    """Score prompt and reply by a model with a sequence-classification head.

    The text is the head's own chat template over the messages and the reply; a reply too long for
    the model is an abstention. A head of one logit gives its sigmoid, as reward models trained on
    preferences do (Bradley-Terry); one of several the softmax of class `label`. (Asking a
    language model for p("Yes") is `generative`.)
    """

    type: Literal["outcome_reward"] = "outcome_reward"
    paper: ClassVar[str] = (
        "Cobbe et al., Training Verifiers to Solve Math Word Problems, 2110.14168"
    )

    backend: Literal["transformers", "vllm", "http"] = Field(
        description="transformers in this process, a vLLM pooling engine of this server's own, or "
        "behind vLLM's pooling server."
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="A directory; one with a manifest is checked against it. http: the server's "
        "name for it. Default there: the server's only one.",
    )
    label: int = Field(1, ge=0, description="The class of a head of several that means right.")
    dtype: Dtype = Field("float32", description="Type of weights and activations; not for http.")
    max_tokens_read: int | None = Field(
        None, ge=1, description="Longest text in tokens. Default: what the model takes."
    )
    batch_size: int = Field(16, ge=1, description="transformers: texts of one forward pass.")
    wait_s: float = Field(
        0.005, ge=0, le=1, description="transformers: longest wait for a batch to fill."
    )
    engine_arguments: dict[str, Any] = Field(
        default_factory=dict, description="vllm: any of vLLM's AsyncEngineArgs."
    )
    url: str | None = Field(None, pattern="^https?://", description="http: the server's root.")
    path: PoolingPath = Field("/classify", description="http: which of the server's routes.")
    api_key: SecretStr | None = Field(None, description="http: sent as a bearer.")
    timeout_s: float = Field(60.0, gt=0, description="For scoring what one call asks.")
    retries: int = Field(2, ge=0, le=10, description="http: of connections that fail or break.")

    _classifier: Classifier | None = PrivateAttr(None)
    _shipped: Calibration | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _fits_together(self) -> OutcomeReward:
        if self.backend == "http" and self.url is None:
            raise ValueError("backend 'http' needs `url`, such as http://127.0.0.1:8000")
        if self.backend != "http" and self.url is not None:
            raise ValueError(f"`url` is for backend 'http', not {self.backend!r}")
        if self.backend != "http" and self.model is None:
            raise ValueError(f"backend {self.backend!r} needs `model`, a directory")
        return self

    def probability(self, score: float) -> float | None:
        """Go by the configuration, else by what the checkpoint came with."""
        chosen = self.calibration or self._shipped
        return None if chosen is None else chosen.probability(score)

    async def start(self) -> None:
        """Load the model; a server is not waited for. Raises VerifierError."""
        if self.backend != "http":
            await asyncio.to_thread(self._check_manifest)
        self._classifier = await self._open()

    async def check(self) -> None:
        """Score two words. Raises VerifierUnavailable."""
        with told_as_unavailable():
            (probability,) = await self._probabilities([_PROBE])
        if probability is None:
            raise VerifierUnavailable("the reward model refuses even two words")

    async def aclose(self) -> None:
        """Release the model, or the connections."""
        classifier, self._classifier = self._classifier, None
        if classifier is not None:
            await classifier.aclose()

    async def score(
        self,
        task: Task,
        candidates: Sequence[Candidate],
        powers: Powers,  # noqa: ARG002
    ) -> list[Score]:
        """Score each reply beside its siblings and other requests'."""
        turns = tuple(_turn(message) for message in task.prompt.messages)
        conversations = [
            (*turns, {"role": "assistant", "content": spoken(each)}) for each in candidates
        ]
        probabilities = await self._probabilities(conversations)
        return [
            Score(0.0, abstained=True) if each is None else Score(each) for each in probabilities
        ]

    async def _open(self) -> Classifier:
        if self.backend == "http":
            assert self.url is not None, "the configuration was validated"
            server = ScoringServer(
                api_key=self.api_key, timeout_s=self.timeout_s, retries=self.retries
            )
            return HTTPClassifier(server, self.url, self.path, self.model)
        if self.backend == "vllm":
            from verifiers.vllm_classifier import VLLMClassifier

            return await VLLMClassifier.load(
                self._directory(),
                dtype=self.dtype,
                max_tokens=self.max_tokens_read,
                engine_arguments=self.engine_arguments,
            )
        return await SequenceClassifier.load(
            self._directory(),
            dtype=self.dtype,
            max_tokens=self.max_tokens_read,
            batch_size=self.batch_size,
            wait_s=self.wait_s,
        )

    def _directory(self) -> Path:
        assert self.model is not None, "the configuration was validated"
        return Path(self.model)

    def _check_manifest(self) -> None:
        """Hold the directory against its manifest, where it has one, and take its calibration."""
        directory = self._directory()
        if not directory.is_dir():
            raise VerifierError(f"{directory}: there is no such directory")
        if not (directory / MANIFEST).exists():
            return
        try:
            self._shipped = read_manifest(directory, kinds=_KINDS).calibration
        except ManifestError as error:
            raise VerifierError(str(error)) from error

    async def _probabilities(self, conversations: Sequence[Conversation]) -> list[float | None]:
        if self._classifier is None:
            raise VerifierUnavailable("the reward model is not loaded")
        try:
            async with asyncio.timeout(self.timeout_s):
                found = await self._classifier.logits(conversations)
        except TimeoutError as error:
            raise VerifierUnavailable(
                f"the reward model did not answer within {self.timeout_s:g} s"
            ) from error
        return [None if each is None else head_probability(each, self.label) for each in found]


def head_probability(logits: Logits, label: int) -> float:
    """Return the sigmoid of an only logit, else the softmax of class `label`.

    Raises:
        VerifierError: there is no such class, or a logit is no number.
    """
    if not all(map(math.isfinite, logits)):
        raise VerifierError("the reward model gave a logit that is no number")
    if len(logits) == 1:
        return sigmoid(logits[0])
    if label >= len(logits):
        raise VerifierError(f"the reward model has {len(logits)} classes, none of them {label}")
    highest = max(logits)
    weights = [math.exp(each - highest) for each in logits]
    return weights[label] / sum(weights)


def _turn(message: JSONObject) -> JSONObject:
    """Write a turn as text: heads read neither images nor tool calls."""
    text = text_of(message)
    if calls := message.get("tool_calls"):
        text = f"{text}\n{canonical_tool_calls(calls)}".strip()
    return {"role": message["role"], "content": text}
