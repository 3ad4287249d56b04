"""A value function that is left over from training a policy, as a judge of steps."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PrivateAttr

from verifiers.aggregation import Aggregation, aggregate
from verifiers.base import Verifier
from verifiers.calibration import Calibration
from verifiers.errors import VerifierError, VerifierUnavailable, told_as_unavailable
from verifiers.manifest import MANIFEST, Kind, ManifestError, read_manifest
from verifiers.sequence_classifier import Dtype
from verifiers.steps import BLANK_LINE, step_ends
from verifiers.token_values import Beginnings, TokenValues, Values
from verifiers.turns import text_of
from verifiers.types import Candidate, Powers, Score, Task

_KINDS: tuple[Kind, ...] = ("prm",)
_PROBE = Beginnings(({"role": "user", "content": "Hi"},), "Hello!", (6,))
"""What is read to find out whether it can read."""


class ValueHead(Verifier):
    """Score each step by V(s): the reward that a value function expects at the step's end.

    Made by OREO, 2412.16145, whose rewards are in [0, 1]: V is held to that range. The model is
    one with a head of one number at each token, in this process; the text is the prompt by its own
    chat template and the reply behind it. A reply too long for the model is abstained on, and so is
    an empty one. We deviate: what exceeds `max_steps` counts as one last step.
    """

    type: Literal["value_head"] = "value_head"
    paper: ClassVar[str] = (
        "Wang et al., Offline Reinforcement Learning for LLM Multi-Step Reasoning, 2412.16145"
    )

    model: str = Field(
        min_length=1, description="A directory; one with a manifest is checked against it."
    )
    separator: str = Field(BLANK_LINE, min_length=1, max_length=64, description="Ends a step.")
    aggregation: Aggregation = Field("last", description="How the steps make the score.")
    max_steps: int = Field(32, ge=1, le=256, description="Most steps of a reply.")
    dtype: Dtype = Field("float32", description="Type of weights and activations.")
    batch_size: int = Field(16, ge=1, description="Texts of one forward pass.")
    wait_s: float = Field(0.005, ge=0, le=1, description="Longest wait for a batch to fill.")
    timeout_s: float = Field(60.0, gt=0, description="For scoring what one call asks.")

    _values: TokenValues | None = PrivateAttr(None)
    _shipped: Calibration | None = PrivateAttr(None)

    @property
    def partial(self) -> bool:
        """Any beginning has a value."""
        return True

    def probability(self, score: float) -> float | None:
        """Go by the configuration, else by what the checkpoint came with."""
        chosen = self.calibration or self._shipped
        return None if chosen is None else chosen.probability(score)

    async def start(self) -> None:
        """Load the model. Raises VerifierError."""
        await asyncio.to_thread(self._check_manifest)
        self._values = await TokenValues.load(
            Path(self.model), dtype=self.dtype, batch_size=self.batch_size, wait_s=self.wait_s
        )

    async def check(self) -> None:
        """Read a word. Raises VerifierUnavailable."""
        with told_as_unavailable():
            await self._read([_PROBE])

    async def aclose(self) -> None:
        """Release the model."""
        values, self._values = self._values, None
        if values is not None:
            await values.aclose()

    async def score(
        self,
        task: Task,
        candidates: Sequence[Candidate],
        powers: Powers,  # noqa: ARG002
    ) -> list[Score]:
        """Read each reply beside its siblings and other requests'."""
        messages = tuple(
            {"role": each["role"], "content": text_of(each)} for each in task.prompt.messages
        )
        asked = [
            Beginnings(
                messages, each.text, tuple(step_ends(each.text, self.separator, self.max_steps))
            )
            for each in candidates
        ]
        return [self._score(each) for each in await self._read(asked)]

    def _score(self, values: Values | None) -> Score:
        if not values:
            return Score(0.0, abstained=True)
        if not all(map(math.isfinite, values)):
            raise VerifierError("the value head gave a value that is no number")
        steps = tuple(min(1.0, max(0.0, each)) for each in values)
        return Score(aggregate(steps, self.aggregation), steps)

    def _check_manifest(self) -> None:
        """Hold the directory against its manifest, where it has one, and take its calibration."""
        directory = Path(self.model)
        if not directory.is_dir():
            raise VerifierError(f"{directory}: there is no such directory")
        if not (directory / MANIFEST).exists():
            return
        try:
            manifest = read_manifest(directory, kinds=_KINDS)
        except ManifestError as error:
            raise VerifierError(str(error)) from error
        if manifest.step_mark not in (None, self.separator):
            raise VerifierError(
                f"{directory}: its steps end with {manifest.step_mark!r}, not {self.separator!r}"
            )
        self._shipped = manifest.calibration

    async def _read(self, asked: Sequence[Beginnings]) -> list[Values | None]:
        if self._values is None:
            raise VerifierUnavailable("the value head is not loaded")
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._values.values(asked)
        except TimeoutError as error:
            raise VerifierUnavailable(
                f"the value head did not answer within {self.timeout_s:g} s"
            ) from error
