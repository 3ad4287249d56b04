"""What policy-gradient methods share: rounds of drawn, rewarded replies, and updates on them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from training.base import Family, Method, RowClass
from training.rows import Prompted

if TYPE_CHECKING:
    from torch import Tensor

    from training.encoding import Encoder
    from training.on_policy.rounds import Round
    from training.run import Run


class PolicyGradient(Method):
    """Draw replies, have verifiers reward them, and make the better ones likelier.

    A round draws `samples` replies to each of so many prompts that there are `batch_size` ×
    `accumulate` replies, in every process, for each optimizer step on different replies. A method
    says what a reply's tokens are credited with, and the loss; `trainer.py` does the rest.
    """

    family: ClassVar[Family] = "policy gradient"
    rows: ClassVar[RowClass] = Prompted
    on_policy: ClassVar[bool] = True
    rewarded: ClassVar[bool] = True

    grouped: ClassVar[bool] = False
    """Whether the loss compares the replies to a prompt: a forward pass then takes all of them."""
    greedy: ClassVar[bool] = False
    """Whether each prompt's greedy reply is drawn and rewarded too."""
    valued: ClassVar[bool] = False
    """Whether a value head is trained beside the policy."""

    samples: int = Field(8, ge=1, description="Replies to each prompt of a round.")
    max_tokens: int = Field(512, ge=1, description="Of a reply.")
    temperature: float = Field(1.0, gt=0, description="Of drawing, and of the trained policy.")

    @property
    def iterations(self) -> int:
        """How often a round's replies are trained on."""
        return 1

    @property
    def minibatches(self) -> int:
        """How many optimizer steps share out a round's replies."""
        return 1

    @property
    def replacements(self) -> int:
        """How often a prompt whose replies are all worth the same is replaced by another."""
        return 0

    @property
    def compared(self) -> bool:
        """Whether the loss, or the reward, holds the policy to the reference."""
        return False

    def question(self, row: Any) -> Prompted:
        """Return what is asked and rewarded by."""
        assert isinstance(row, Prompted)
        return row

    def prefix(self, row: Any, epoch: int, encoder: Encoder) -> tuple[int, ...]:  # noqa: ARG002
        """Return the ids that a reply is made to begin with; with the end token, a whole reply."""
        return ()

    @abstractmethod
    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return what the loss needs of a round beside its batch: a row for each reply."""

    @abstractmethod
    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return the loss of some replies, a mean over them, and numbers to log.

        `batch` has the columns of `Encoder.batch`, `old_logprobs` by the weights that the round
        was drawn with (and `reference_logprobs` where it is `compared`, `old_values` where
        `valued`), (rows, tokens − 1) each, what `credit` returned, and the scalar `mean_tokens`:
        reply tokens in a forward pass of this optimizer step, on average.
        """

    def train(self, run: Run) -> None:
        """Train by `training.on_policy.trainer`."""
        from training.on_policy.trainer import train_on_policy

        train_on_policy(run, self)
