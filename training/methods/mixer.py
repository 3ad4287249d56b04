"""Mixed incremental cross-entropy REINFORCE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.base import RowClass
from training.on_policy.method import PolicyGradient
from training.rows import Conversation, Prompted

if TYPE_CHECKING:
    from torch import Tensor

    from training.encoding import Encoder
    from training.on_policy.rounds import Round


class Mixer(PolicyGradient):
    """Imitate the first T − Δ tokens of a reference reply, and be rewarded for the rest.

    Cross-entropy on the given tokens, REINFORCE on those drawn after them. Δ is 0 for
    `imitation_epochs`, and then grows by `delta` every `stage_epochs`. The baseline is the mean of
    the other replies to the prompt, where the paper regresses it from the hidden states; T is each
    reply's own length. The last reply of a row is the reference, also for verifiers.
    """

    type: Literal["mixer"] = "mixer"
    paper: ClassVar[str] = "Ranzato et al., Sequence Level Training with RNNs, 1511.06732"
    rows: ClassVar[RowClass] = Conversation

    learning_rate: float = Field(1e-5, gt=0, description="Of AdamW.")
    samples: int = Field(4, ge=2, description="Replies to each prompt of a round.")
    imitation_epochs: int = Field(20, ge=0, description="Epochs of cross-entropy alone.")
    stage_epochs: int = Field(5, ge=1, description="Epochs before Δ grows again.")
    delta: int = Field(2, ge=1, description="Tokens by which Δ grows.")

    def free_tokens(self, epoch: int) -> int:
        """Return Δ in an epoch, from 0."""
        past = epoch - self.imitation_epochs
        return 0 if past < 0 else self.delta * (past // self.stage_epochs + 1)

    def question(self, row: Any) -> Prompted:
        """Return the dialogue before its last reply, which is the reference."""
        assert isinstance(row, Conversation)
        *before, last = row.messages
        return Prompted(
            prompt=tuple(before), reference=last.content, problem=row.problem, source=row.source
        )

    def prefix(self, row: Any, epoch: int, encoder: Encoder) -> tuple[int, ...]:
        """Return the first T − Δ ids of the reference."""
        reply = encoder.reply(row.messages[-1].content)
        return reply[: max(0, len(reply) - self.free_tokens(epoch))]

    def credit(self, drawn: Round) -> dict[str, Tensor]:
        """Return each reply's advantage, and which places are imitated."""
        from training.losses.advantages import leave_one_out

        mask = drawn.mask
        lengths = mask.new_tensor(drawn.prefixes, dtype=mask.cumsum(-1).dtype)
        imitated = mask & (mask.cumsum(-1) <= lengths[:, None])
        advantages = leave_one_out(drawn.totals).flatten()
        return {"advantages": advantages, "imitated": imitated}

    def loss(
        self, model: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return cross-entropy and REINFORCE, a mean over replies."""
        from training.encoding import token_logprobs
        from training.losses.policy_gradient import mixed

        mask, imitated = batch["reply_mask"][:, 1:], batch["imitated"]
        logprobs = token_logprobs(model, batch, self.temperature)
        loss = mixed(logprobs, batch["advantages"][:, None].expand_as(logprobs), imitated, mask)
        given = imitated.sum().clamp(min=1)
        cross_entropy = -(logprobs.detach() * imitated).sum() / given
        share = imitated.sum() / mask.sum()
        return loss.mean(), {"cross_entropy": cross_entropy, "imitated": share}
