"""The natural-gradient step of TRPO (1502.05477): as far as the KL to the old policy allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

Product: TypeAlias = Callable[[Tensor], Tensor]


class Measured(NamedTuple):
    """What the trust region goes by, at the weights as they are; with gradients."""

    surrogate: Tensor
    """E[ρA], to be made larger."""
    kl: Tensor
    """E[KL(old‖new)], to be held below the radius."""


def surrogate_and_kl(
    logits: Tensor, old_logits: Tensor, ids: Tensor, advantages: Tensor, mask: Tensor
) -> Measured:
    """Measure a policy against the old one: means over reply tokens.

    Args:
        logits: (rows, places, vocabulary), of the policy.
        old_logits: likewise, of the policy that drew; no gradients.
        ids: the drawn tokens, (rows, places).
        advantages: (rows, places), or (rows, 1).
        mask: which places count.
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    new, old = logits.to(exact).log_softmax(-1), old_logits.to(exact).log_softmax(-1)
    difference = (new - old).gather(-1, ids[..., None]).squeeze(-1)
    tokens = mask.sum().clamp(min=1)
    kl = (old.exp() * (old - new)).sum(-1)
    surrogate = difference.exp() * advantages
    return Measured((surrogate * mask).sum() / tokens, (kl * mask).sum() / tokens)


def conjugate_gradient(product: Product, target: Tensor, iterations: int) -> Tensor:
    """Solve A x = target for a symmetric positive A that is known by its products with vectors."""
    solution = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    size = residual @ residual
    # Behind that it would follow rounding errors, into what a singular A does not reach.
    enough = 1e-10 * size
    for _ in range(iterations):
        if size <= enough:
            break
        image = product(direction)
        step = size / (direction @ image)
        solution += step * direction
        residual -= step * image
        smaller = residual @ residual
        direction = residual + smaller / size * direction
        size = smaller
    return solution


class TrustRegion(torch.optim.Optimizer):
    """Steps along F⁻¹g to the edge of KL ≤ δ, and back by halves until it is kept and pays.

    F is the Fisher matrix: the second derivative of the mean KL at the old weights, known by its
    products with vectors (the gradient of ∇KL·v). g is taken from the parameters' gradients of the
    loss, whose scale makes no difference. The group's `lr` shortens the first step tried.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        radius: float,
        damping: float,
        iterations: int,
        halvings: int,
        lr: float = 1.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr})
        self._radius, self._damping = radius, damping
        self._iterations, self._halvings = iterations, halvings
        self.measure: Callable[[], Measured] | None = None
        """Set before each step: measures the weights as they are."""
        self.kl = 0.0
        """Of the last step, from the weights before it; 0 if none was taken."""

    def step(self, closure: Any = None) -> None:  # noqa: ARG002
        """Take the step, or none where nothing within reach is better."""
        assert self.measure is not None, "nothing was measured"
        group = self.param_groups[0]
        weights = [each for each in group["params"] if each.grad is not None]
        uphill = -_flat([each.grad for each in weights])
        with torch.enable_grad():
            before = self.measure()
            slopes = _flat(torch.autograd.grad(before.kl, weights, create_graph=True))

        def product(vector: Tensor) -> Tensor:
            image = torch.autograd.grad(slopes @ vector, weights, retain_graph=True)
            return _flat(image) + self._damping * vector

        direction = conjugate_gradient(product, uphill, self._iterations)
        curvature = direction @ product(direction)
        if not curvature > 0:
            self.kl = 0.0
            return
        longest = (2 * self._radius / curvature).sqrt() * direction
        with torch.no_grad():
            self._search(weights, group["lr"] * longest, float(before.surrogate))

    def _search(self, weights: Sequence[nn.Parameter], step: Tensor, least: float) -> None:
        assert self.measure is not None
        old = [each.clone() for each in weights]
        parts = step.split([each.numel() for each in weights])
        for halving in range(self._halvings):
            for weight, start, part in zip(weights, old, parts, strict=True):
                weight.copy_(start + 0.5**halving * part.view_as(start))
            now = self.measure()
            self.kl = float(now.kl)
            if float(now.surrogate) > least and self.kl <= self._radius:
                return
        for weight, start in zip(weights, old, strict=True):
            weight.copy_(start)
        self.kl = 0.0


def _flat(parts: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts if part is not None])
