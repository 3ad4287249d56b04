"""The on-policy loop with TRPO's step in place of a gradient step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from training.losses.trust_region import Measured, TrustRegion, surrogate_and_kl
from training.methods.trpo import TRPO
from training.on_policy.trainer import OnPolicyTrainer
from training.run import RunError


class TrustRegionTrainer(OnPolicyTrainer):
    """Takes a natural-gradient step within the trust region on each round. One process."""

    def create_optimizer(self, model: Any = None) -> Any:  # noqa: ARG002
        """Make the trust region of the trained weights."""
        method = self._method
        assert isinstance(method, TRPO)
        if self.args.world_size > 1:
            raise RunError("trpo trains in one process")
        self.optimizer = TrustRegion(
            [each for each in self.model.parameters() if each.requires_grad],
            radius=method.radius,
            damping=method.damping,
            iterations=method.cg_iterations,
            halvings=method.halvings,
            lr=method.learning_rate,
        )
        return self.optimizer

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Tensor], *more: Any, **all_: Any
    ) -> Any:
        """Compute minus the surrogate, and tell the optimizer what to hold its step to."""
        region = self._region
        self._logged["step_kl"].append(region.kl)
        ids, mask = inputs["input_ids"][:, 1:], inputs["reply_mask"][:, 1:]

        def logits() -> Tensor:
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            places: Tensor = outputs.logits[:, :-1]
            return places / self._method.temperature

        old = logits().detach()

        def measure() -> Measured:
            return surrogate_and_kl(logits(), old, ids, inputs["advantages"][:, None], mask)

        region.measure = measure
        return super().compute_loss(model, inputs, *more, **all_)

    @property
    def _region(self) -> TrustRegion:
        region = self.optimizer.optimizer  # what accelerate wraps
        assert isinstance(region, TrustRegion)
        return region
