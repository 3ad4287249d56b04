"""Format tuning: imitation that teaches a model the marks of its meta-actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from strategies.chain_of_action_thought import Action
from training.base import Family, Method, RowClass
from training.rows import Conversation

if TYPE_CHECKING:
    from training.run import Run


class FormatTuning(Method):
    """Imitate replies with marks that are tokens of their own, which the model gets for this.

    Satori's first stage. The strategy `chain_of_action_thought` with policy "model" looks for each
    mark among the likeliest next tokens, so a mark must be one token. New ones begin as the mean of
    all others. They need weights of their own in embedding and output layer, hence all weights are
    trained; adapters may follow in later stages. The paper's rows are replies that several models
    wrote together; here they are given.
    """

    type: Literal["format_tuning"] = "format_tuning"
    paper: ClassVar[str] = (
        "Shen et al., Satori: Reinforcement Learning with Chain-of-Action-Thought, 2502.02508"
    )
    family: ClassVar[Family] = "fine-tuning"
    rows: ClassVar[RowClass] = Conversation

    learning_rate: float = Field(2e-5, gt=0, description="Of AdamW.")
    marks: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        tuple(f"<|{action}|>" for action in Action), description="Each becomes one token."
    )

    def train(self, run: Run) -> None:
        """Add the tokens, and imitate."""
        from training.imitation import imitate
        from training.run import RunError

        if run.recipe.adapter is not None:
            raise RunError("new tokens need weights of their own: leave `[adapter]` out")
        # Before any row is read: its length is counted in tokens.
        before = len(run.tokenizer)
        run.tokenizer.add_tokens(list(self.marks))
        model = run.policy()
        if len(run.tokenizer) > before:
            _make_room(model, range(before, len(run.tokenizer)))
        run.publish(imitate(run, model, run.rows).model)


def _make_room(model: Any, new: range) -> None:
    """Give new tokens their places in embedding and output layer, and the others' mean there."""
    import torch

    # Many models have more places than their tokenizers have tokens.
    if new.stop > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(new.stop, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[new.start : new.stop] = layer.weight[: new.start].mean(0)
