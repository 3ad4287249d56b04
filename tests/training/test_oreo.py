"""OREO: its losses in numbers, whose gradient is whose, actions, resuming, the value in service."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from server.checkpoints.store import Checkpoint
from tests.training.preferences import LORA, labels, trained
from tests.training.tiny import begin, logged, recipe, save_tiny, write_rows
from training.losses.offline_reasoning import Decisions, divergence, oreo_losses
from training.methods.oreo import OREO, action_batch, encode_actions
from training.preference.policy_and_value import load_value
from training.run import Run
from verifiers.aggregation import aggregate
from verifiers.token_values import Beginnings, TokenValues
from verifiers.types import Candidate, Prompt, Task
from verifiers.value_head import ValueHead

RATIOS = torch.tensor([[0.0, 1.0, -2.0, 4.0]], dtype=torch.float64)
VALUES = torch.tensor([[9.0, 0.5, 0.25, 0.75]], dtype=torch.float64)
REWARDS = torch.tensor([1.0], dtype=torch.float64)
TOKENS = Decisions(torch.tensor([[False, True, True, True]]), torch.tensor([[0, 2, 3, 4]]))
STEPS = Decisions(torch.tensor([[False, True, False, True]]), torch.tensor([[0, 3, 0, 4]]))
BETA = 0.5


def test_the_closed_form() -> None:
    # Log-ratios still to come: 3, 2, 4. V − R + β · these: 1, 0.25, 1.75.
    losses = oreo_losses(RATIOS, VALUES, REWARDS, TOKENS, BETA)
    expected = (1 + 0.0625 + 3.0625) / 3
    assert losses.policy.item() == pytest.approx(expected)
    assert losses.value.item() == pytest.approx(expected)
    # As the survey prints the policy's, without the tail: V − R + β · 1, −2, 4.
    misprinted = (0.0 + 1.75**2 + 1.75**2) / 3
    assert losses.policy.item() != pytest.approx(misprinted, rel=0.1)


def test_steps_are_actions_of_several_tokens() -> None:
    losses = oreo_losses(RATIOS, VALUES, REWARDS, STEPS, BETA)
    expected = (1 + 3.0625) / 2
    assert losses.policy.item() == pytest.approx(expected)
    assert losses.value.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        # 2 β · residual, for the action itself alone; over the number of actions.
        (TOKENS, [0.0, 1 / 3, 0.25 / 3, 1.75 / 3]),
        (STEPS, [0.0, 1 / 2, 1 / 2, 1.75 / 2]),
    ],
)
def test_an_action_answers_for_itself(decisions: Decisions, expected: list[float]) -> None:
    ratios, values = RATIOS.clone().requires_grad_(), VALUES.clone().requires_grad_()
    losses = oreo_losses(ratios, values, REWARDS, decisions, BETA)
    (slope,) = torch.autograd.grad(losses.policy, ratios, retain_graph=True)
    assert slope[0].tolist() == pytest.approx(expected)
    # The value does not move the policy, nor the policy the value.
    assert torch.autograd.grad(losses.policy, values, allow_unused=True)[0] is None
    assert torch.autograd.grad(losses.value, ratios, allow_unused=True)[0] is None


def test_the_gradient_to_the_value() -> None:
    values = VALUES.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda each: oreo_losses(RATIOS, each, REWARDS, TOKENS, BETA).value, values
    )


def test_the_divergence_is_of_whole_distributions() -> None:
    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]]]))
    reference = torch.log(torch.tensor([[[0.25, 0.75], [0.5, 0.5], [0.3, 0.7]]]))
    mask = torch.tensor([[True, False, True]])
    expected = (0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2
    assert divergence(logits, reference, mask).item() == pytest.approx(expected)
    assert divergence(logits, logits, mask).item() == 0


def _stepped(tiny: Path, directory: Path) -> Run:
    rows = [
        {"prompt": "2+3+4?", "reply": "2+3=5.\n\nSo 9.", "label": 1},
        {"prompt": "1+1?", "reply": "3", "label": 0},
    ]
    return begin(recipe(tiny, "oreo", write_rows(directory / "r.jsonl", rows)), directory)


def test_where_actions_begin(tiny: Path, tmp_path: Path) -> None:
    run = _stepped(tiny, tmp_path)
    replies = [encode_actions(run.encoder, row, "\n\n") for row in run.rows]
    first = replies[0]
    assert run.tokenizer.decode(first.row.ids[first.starts[1] :]) == "So 9.<|im_end|>"
    batch = action_batch(run.encoder, replies)
    start, end = first.row.start - 1, len(first.row.ids) - 1
    second = start + len("2+3=5.\n\n")
    assert batch["starts"][0].nonzero().flatten().tolist() == [start, second]
    assert batch["ends"][0, [start, second]].tolist() == [second, end]
    assert batch["rewards"].tolist() == [1, 0]
    assert len(replies[1].starts) == 1
    tokens = encode_actions(run.encoder, run.rows[1], None)
    assert [tokens.row.ids[place] for place in tokens.starts] == list(run.encoder.reply("3"))


def test_what_is_logged_is_the_closed_form(tiny: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "reference", seed=1)
    said = recipe(
        tiny,
        {"type": "oreo", "alpha": 0.5},
        labels(tmp_path),
        reference=str(other),
        training={"max_steps": 1, "batch_size": 8},
    )
    run = begin(said, tmp_path)
    rows = [encode_actions(run.encoder, row, None) for row in run.rows]
    batch = action_batch(run.encoder, rows)
    tokens = {name: batch[name] for name in ("input_ids", "attention_mask")}
    mask, ids = batch["reply_mask"][:, 1:], batch["input_ids"][:, 1:, None]
    with torch.no_grad():
        ours, theirs = (
            model(**tokens).logits[:, :-1].log_softmax(-1)
            for model in (run.policy(), run.reference())
        )
    ratios = ((ours - theirs).gather(-1, ids).squeeze(-1) * mask).flip(-1).cumsum(-1).flip(-1)
    # V begins at 0 and every token is an action.
    squares = (0.03 * ratios - batch["rewards"][:, None]) ** 2
    policy = ((squares * mask).sum(-1) / mask.sum(-1)).mean()
    kl = ((ours.exp() * (ours - theirs)).sum(-1) * mask).sum(-1) / mask.sum(-1)
    said.method.train(run)
    for name, expected in (
        ("policy_loss", policy),
        ("value_loss", policy),
        ("kl", kl.mean()),
        ("loss", 2 * policy + 0.5 * kl.mean()),
    ):
        assert logged(run, name)[0] == pytest.approx(float(expected), rel=1e-3), name


@pytest.mark.parametrize("level", ["token", "step"])
@pytest.mark.parametrize("adapter", [None, LORA])
def test_it_learns_what_replies_are_worth(
    tiny: Path, tmp_path: Path, level: str, adapter: dict[str, object] | None
) -> None:
    method = {
        "type": "oreo",
        "level": level,
        "beta": 0.3,
        "learning_rate": 1e-2 if adapter else 3e-3,
        "value_learning_rate": 1e-2,
    }
    run, manifest = trained(
        tiny,
        method,
        labels(tmp_path),
        tmp_path,
        adapter=adapter,
        training={"max_steps": 16, "batch_size": 8},
    )
    for name in ("policy_loss", "value_loss"):
        assert logged(run, name)[-1] < 0.7 * logged(run, name)[0], name
    assert manifest.kind == ("policy" if adapter is None else "lora")
    value = _value(run)
    assert (value.manifest.kind, value.manifest.step_mark) == ("prm", "\n\n")
    assert run.result is not None
    assert run.result.name == run.recipe.name


def _value(run: Run) -> Checkpoint:
    (found,) = (each for each in run.store.checkpoints() if each.name == f"{run.recipe.name}-value")
    return found


class _Killed(Exception):
    pass


def test_a_resumed_run_ends_where_an_unbroken_one_does(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(directory: Path) -> Run:
        directory.mkdir()
        said = recipe(
            tiny,
            {"type": "oreo", "value_learning_rate": 1e-2},
            labels(directory),
            training={"max_steps": 4, "save_steps": 2},
        )
        return begin(said, directory)

    whole, broken = tell(tmp_path / "whole"), tell(tmp_path / "broken")
    whole.recipe.method.train(whole)
    steps, loss = 0, OREO._loss

    def dying(
        self: OREO, model: Any, reference: Any, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise _Killed
        return loss(self, model, reference, batch)

    monkeypatch.setattr(OREO, "_loss", dying)
    with pytest.raises(_Killed):
        broken.recipe.method.train(broken)
    monkeypatch.undo()
    again = begin(broken.recipe, tmp_path / "broken")
    again.recipe.method.train(again)
    for name in ("loss", "value_loss"):
        assert logged(again, name)[-1] == pytest.approx(logged(whole, name)[-1], rel=1e-5)


async def test_the_value_is_served_step_by_step(tiny: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "2+3+4?", "reply": "2+3=5.\n\nSo 9.", "label": 1},
        {"prompt": "2+3+4?", "reply": "2+3=6.\n\nSo 10.", "label": 0},
    ]
    run, _ = trained(
        tiny,
        {"type": "oreo", "value_learning_rate": 1e-2},
        write_rows(tmp_path / "rows.jsonl", rows * 2),
        tmp_path,
        training={"max_steps": 12},
    )
    value = _value(run)
    verifier = ValueHead(model=str(value.path))
    await verifier.start()
    await verifier.check()
    task = Task(Prompt(({"role": "user", "content": "2+3+4?"},)), {})
    candidates = [Candidate("0", str(row["reply"])) for row in rows]
    begun = Candidate("2", "2+3=5.\n\n")
    powers: Any = None
    right, wrong, beginning = await verifier.score(task, [*candidates, begun], powers)
    assert right.value > wrong.value + 0.2
    assert right.value == aggregate(right.steps, "last")
    # What follows a step does not change what it is worth.
    assert beginning.steps == pytest.approx(right.steps[:1], abs=1e-5)
    assert (await verifier.score(task, [Candidate("3", "")], powers))[0].abstained
    await verifier.aclose()


async def test_the_verifier_reads_where_the_value_was_trained(tiny: Path, tmp_path: Path) -> None:
    run = _stepped(tiny, tmp_path)
    model = load_value(run)
    torch.nn.init.normal_(model.score.weight)
    directory = tmp_path / "value"
    model.eval().save_pretrained(directory)
    run.tokenizer.save_pretrained(directory)
    row = run.rows[0]
    reply = encode_actions(run.encoder, row, "\n\n")
    with torch.no_grad():
        values = model(input_ids=torch.tensor([reply.row.ids])).logits[0, :, 0]
    head = await TokenValues.load(directory, dtype="float32")
    messages = tuple(each.model_dump() for each in row.prompt)
    ends = len("2+3=5.\n\n"), len(row.reply)
    (found,) = await head.values([Beginnings(messages, row.reply, ends)])
    # The states that the second step begins in, and the token that ends the turn.
    states = [reply.starts[1] - 1, len(reply.row.ids) - 2]
    assert found == pytest.approx(values[states].tolist(), abs=1e-5)
    assert await head.values([Beginnings(messages, "x" * 300, (300,))]) == [None]
    await head.aclose()
