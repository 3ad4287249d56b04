"""Rounds of policy-gradient training: which prompts, what was drawn for them, what it is worth."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from training.encoding import Encoded, Encoder
from training.losses.policy_gradient import k3
from training.on_policy.method import PolicyGradient
from training.rewards import Rewards, RewardSample, prompt_of
from training.rollouts.base import RolloutError, Rollouts, policy_sampling
from training.rows import Prompted
from verifiers.types import Candidate, Reply, sample_seed

Columns: TypeAlias = dict[str, Tensor]
"""What is known of replies: a row for each."""


@dataclass(frozen=True, slots=True)
class Round:
    """Replies drawn with the same weights: n to each of P prompts, those of a prompt together."""

    samples: int
    """n."""
    questions: tuple[Prompted, ...]
    """P."""
    replies: tuple[Candidate, ...]
    """P·n, as every column below; with what they were made to begin with."""
    rewards: tuple[RewardSample, ...]
    prefixes: tuple[int, ...]
    """How many tokens each was made to begin with."""
    greedy: tuple[RewardSample, ...]
    """The reward of each prompt's greedy reply, P, where the method asks for it."""
    batch: Mapping[str, Tensor]
    """The columns of `Encoder.batch`; in `credit` also the log-probabilities and values."""

    @property
    def mask(self) -> Tensor:
        """Which places are of reply tokens, (P·n, tokens − 1)."""
        return self.batch["reply_mask"][:, 1:]

    @property
    def totals(self) -> Tensor:
        """The rewards, (P, n)."""
        totals = torch.tensor([each.total for each in self.rewards], device=self.mask.device)
        return totals.view(-1, self.samples)


class _Group(NamedTuple):
    question: Prompted
    prefix: int
    replies: Sequence[Candidate]
    rewards: Sequence[RewardSample]
    greedy: Sequence[RewardSample]

    @property
    def alike(self) -> bool:
        """Whether all replies are worth the same: nothing is learnt by comparing them."""
        return len({reward.total for reward in self.rewards}) == 1


class Rounds:
    """Makes the rounds of one process. Round k is the same in a resumed run."""

    def __init__(
        self,
        method: PolicyGradient,
        rows: Sequence[Any],
        encoder: Encoder,
        rollouts: Rollouts,
        rewards: Rewards,
        *,
        prompts: int,
        seed: int,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        """Make rounds of so many prompts in this process; `process` is (rank, processes)."""
        self._method, self._rows, self._encoder = method, rows, encoder
        self._rollouts, self._rewards = rollouts, rewards
        self._prompts, self._seed = prompts, seed
        self._rank, self._processes = process
        self._orders: dict[int, list[int]] = {}

    def places(self, number: int) -> range:
        """Return the places that a round has in the endless sequence of shuffled epochs."""
        start = (number * self._processes + self._rank) * self._prompts
        return range(start, start + self._prompts)

    def row(self, place: int) -> Any:
        """Return the row at a place; every epoch is shuffled in its own order."""
        epoch, index = divmod(place, len(self._rows))
        if epoch not in self._orders:
            order = list(range(len(self._rows)))
            random.Random(f"{self._seed}/{epoch}").shuffle(order)
            self._orders = {epoch: order}
        return self._rows[self._orders[epoch][index]]

    def prefix(self, place: int) -> tuple[int, ...]:
        """Return the ids that the replies at a place are made to begin with."""
        return self._method.prefix(self.row(place), place // len(self._rows), self._encoder)

    def draw(self, number: int) -> Round:
        """Draw a round's replies with the rollouts' weights, and have them rewarded.

        Raises:
            EngineError: a reply failed.
            RolloutError: the engine gives no token ids.
        """
        seed = sample_seed(self._seed, f"{number}/{self._rank}")
        groups = self._groups(self.places(number), seed)
        for attempt in range(self._method.replacements):
            alike = [place for place, group in enumerate(groups) if group.alike]
            others = random.Random(f"{seed}/{attempt}").choices(
                range(len(self._rows)), k=len(alike)
            )
            redrawn = self._groups(others, sample_seed(seed, attempt)) if alike else []
            for place, group in zip(alike, redrawn, strict=True):
                groups[place] = group
        return Round(
            samples=self._method.samples,
            questions=tuple(group.question for group in groups),
            replies=tuple(reply for group in groups for reply in group.replies),
            rewards=tuple(reward for group in groups for reward in group.rewards),
            prefixes=tuple(group.prefix for group in groups for _ in group.replies),
            greedy=tuple(reward for group in groups for reward in group.greedy),
            batch=self._encoder.batch(
                [
                    self.encoded(group.question, reply, group.prefix)
                    for group in groups
                    for reply in group.replies
                ]
            ),
        )

    def _groups(self, places: Sequence[int], seed: int) -> list[_Group]:
        """Draw and reward the replies to the rows at some places."""
        method = self._method
        rows = [self.row(place) for place in places]
        questions = [method.question(row) for row in rows]
        prefixes = [self.prefix(place) for place in places]
        replies = self._replies(questions, prefixes, seed)
        rewards = self.scored(places, questions, replies)
        greedy: list[list[RewardSample]] = [[] for _ in questions]
        if method.greedy:
            logprobs = self._rewards.logprobs or 0
            sampling = policy_sampling(method.max_tokens, 0.0, logprobs=logprobs)
            best = self._rollouts.generate(list(map(prompt_of, questions)), sampling)
            greedy = self._rewards.score(questions, best)
        lengths = list(map(len, prefixes))
        return list(map(_Group, questions, lengths, replies, rewards, greedy))

    def scored(
        self,
        places: Sequence[int],  # noqa: ARG002
        questions: Sequence[Prompted],
        replies: Sequence[Sequence[Candidate]],
    ) -> list[list[RewardSample]]:
        """Have the replies at some places rewarded."""
        return self._rewards.score(questions, replies)

    def _replies(
        self, questions: Sequence[Prompted], prefixes: Sequence[tuple[int, ...]], seed: int
    ) -> list[list[Candidate]]:
        """Draw what is not whole already; the replies returned hold their prefixes."""
        method, end = self._method, self._encoder.tokenizer.eos_token_id
        begun = [Reply(self._text(prefix), prefix) for prefix in prefixes]
        still = [place for place, prefix in enumerate(prefixes) if prefix[-1:] != (end,)]
        logprobs = self._rewards.logprobs or 0
        sampling = policy_sampling(
            method.max_tokens, method.temperature, seed=seed, logprobs=logprobs
        )
        prompts = [
            replace(prompt_of(questions[place]), reply=begun[place] if prefixes[place] else None)
            for place in still
        ]
        drawn = self._rollouts.generate(prompts, sampling, method.samples) if prompts else []
        groups = [[_whole(reply)] * method.samples for reply in begun]
        for place, group in zip(still, drawn, strict=True):
            groups[place] = [_joined(begun[place], candidate) for candidate in group]
        return groups

    def _text(self, ids: tuple[int, ...]) -> str:
        return str(self._encoder.tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def encoded(self, question: Prompted, reply: Candidate, begun: int) -> Encoded:  # noqa: ARG002
        """Encode a reply of which the first `begun` tokens were given; these are trained too."""
        if not reply.token_ids:
            raise RolloutError(
                "the rollouts' engine gives no token ids: policy gradients need them"
            )
        prompt = self._encoder.prompt(question.prompt)
        mask = (False,) * len(prompt) + (True,) * len(reply.token_ids)
        return Encoded(prompt + reply.token_ids, mask)


def _whole(reply: Reply) -> Candidate:
    return Candidate("given", reply.text, reply.token_ids, finish_reason="stop")


def _joined(begun: Reply, drawn: Candidate) -> Candidate:
    """Put what a reply was made to begin with before what was drawn."""
    if not begun.token_ids:
        return drawn
    return replace(drawn, text=begun.text + drawn.text, token_ids=begun.token_ids + drawn.token_ids)


def taken(columns: Mapping[str, Tensor], rows: Sequence[int]) -> Columns:
    """Take rows of a round's columns, no wider than the longest of them.

    A column is of all tokens, of the places between them (one less), or has one value a row.
    """
    chosen = list(rows)
    width = int(columns["attention_mask"][chosen].sum(-1).max())
    cut = columns["input_ids"].shape[1] - width
    return {
        name: column[chosen] if column.ndim == 1 else column[chosen, : column.shape[1] - cut]
        for name, column in columns.items()
    }


def described(drawn: Round, temperature: float) -> dict[str, float]:
    """Describe a round: what `OnPolicyTrainer` logs of it."""
    mask, old = drawn.mask, drawn.batch["old_logprobs"]
    tokens = mask.sum().clamp(min=1)
    totals = drawn.totals
    told = {
        "reward": float(totals.mean()),
        "reward_std": float(totals.std(correction=0)),
        "reply_tokens": float(mask.sum(-1).float().mean()),
        "cut": _mean([reply.finish_reason == "length" for reply in drawn.replies]),
        "entropy": float(-old.sum() / tokens),
    }
    told |= judged(drawn.rewards)
    if "reference_logprobs" in drawn.batch:
        told["kl"] = float((k3(old, drawn.batch["reference_logprobs"]) * mask).sum() / tokens)
    if temperature == 1.0 and not any(drawn.prefixes):
        told |= _engine_difference(drawn)
    return told


def judged(rewards: Sequence[RewardSample]) -> dict[str, float]:
    """Return each verifier's mean score, abstentions as 0, and `accuracy` by the first one."""
    told: dict[str, float] = {}
    for name in rewards[0].parts:
        parts = [each.parts[name] for each in rewards]
        values = [0.0 if part.abstained else part.value for part in parts]
        told[f"rewards/{name}"] = _mean(values)
        told.setdefault("accuracy", _mean([value >= 0.5 for value in values]))
    return told


def _engine_difference(drawn: Round) -> dict[str, float]:
    """Compare the engine's log-probabilities of its tokens, where it gave them, with our own."""
    said = [entry.logprob for reply in drawn.replies for entry in reply.logprobs]
    ours = drawn.batch["old_logprobs"][drawn.mask]
    if len(said) != len(ours):
        return {}
    return {"engine_difference": float((ours.cpu() - torch.tensor(said)).abs().mean())}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
