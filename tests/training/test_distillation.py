"""Distillation: the divergence in closed form, whose replies are used, and that students learn."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import begin, logged, recipe, save_tiny, write_rows
from training.methods.distillation import Distillation, generalised_jsd
from training.recipe import Recipe
from training.rows import Conversation, Prompted
from training.run import Run, RunError
from verifiers.manifest import read_manifest

P, Q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("teacher"), seed=1)


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))


def test_the_divergence_by_hand() -> None:
    mixture = torch.tensor([0.3, 0.25, 0.45])  # 0.2 P + 0.8 Q
    expected = 0.2 * kl(P, mixture) + 0.8 * kl(Q, mixture)
    assert float(generalised_jsd(Q.log(), P.log(), 0.2)) == pytest.approx(expected, rel=1e-5)


def test_its_limits_are_the_forward_and_the_reverse_kl() -> None:
    # The two differ: the forward one is the teacher's expectation.
    p, q = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    assert kl(p, q) != pytest.approx(kl(q, p), rel=0.05)
    student, teacher = q.double().log(), p.double().log()
    forward, reverse = (float(generalised_jsd(student, teacher, beta)) for beta in (0, 1))
    assert (forward, reverse) == pytest.approx((kl(p, q), kl(q, p)), rel=1e-5)
    near = float(generalised_jsd(student, teacher, 1e-5)) / 1e-5
    assert near == pytest.approx(forward, rel=1e-3)
    near = float(generalised_jsd(student, teacher, 1 - 1e-5)) / 1e-5
    assert near == pytest.approx(reverse, rel=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_it_is_trl_s_and_its_gradient_is_right(beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer

    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 7, 5, dtype=torch.float64).unbind()
    ours = generalised_jsd(student.log_softmax(-1), teacher.log_softmax(-1), beta)
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, reduction="none")
    assert torch.allclose(ours, theirs.sum(-1))
    student.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda x: generalised_jsd(x.log_softmax(-1), teacher.log_softmax(-1), beta), student
    )


def said(
    model: Path, teacher: Path, tmp_path: Path, method: dict[str, Any], **tables: Any
) -> Recipe:
    prompts = [{"prompt": f"{i}+{i}?"} for i in range(4)]
    rows = write_rows(tmp_path / "rows.jsonl", prompts)
    tables = {"rollouts": {"backend": "model"}, **tables}
    return recipe(model, {"type": "distillation", **method}, rows, teacher=str(teacher), **tables)


def trained(chosen: Recipe, directory: Path) -> Run:
    run = begin(chosen, directory)
    chosen.method.train(run)
    assert run.result is not None
    assert read_manifest(run.result.path).kind == "policy"
    return run


def test_on_policy_the_student_comes_near_the_teacher(
    tiny: Path, teacher: Path, tmp_path: Path
) -> None:
    method = {"student_share": 1.0, "beta": 1.0, "max_tokens": 12}
    training = {"max_steps": 12, "accumulate": 2}
    run = trained(said(tiny, teacher, tmp_path, method, training=training), tmp_path)
    losses = logged(run, "loss")
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_the_rows_own_replies_and_the_loss_of_the_first_step(
    tiny: Path, teacher: Path, tmp_path: Path
) -> None:
    turns = [[("user", f"{i}?"), ("assistant", "yes" * (1 + i))] for i in range(4)]
    rows = write_rows(
        tmp_path / "replies.jsonl",
        [{"messages": [{"role": r, "content": c} for r, c in each]} for each in turns],
    )
    method = {"student_share": 0.0, "beta": 0.5}
    training = {"max_steps": 1}
    chosen = said(tiny, teacher, tmp_path, method, training=training, rollouts=None)
    chosen = chosen.model_copy(
        update={"data": chosen.data.model_copy(update={"train": (str(rows),)})}
    )
    run = begin(chosen, tmp_path)
    encoded = [run.encoder.conversation(row.messages) for row in run.rows]
    expected = 0.0
    student, judge = run.policy(), run.teacher()
    with torch.no_grad():
        for row in encoded:
            ids = torch.tensor([row.ids])
            ours, theirs = (m(ids).logits[0].log_softmax(-1) for m in (student, judge))
            places = [i - 1 for i, mask in enumerate(row.mask) if mask]
            found = generalised_jsd(ours[places], theirs[places], 0.5)
            expected += float(found.mean()) / len(encoded)
    chosen.method.train(run)
    assert logged(run, "loss")[0] == pytest.approx(expected, rel=1e-4)


def test_a_share_of_the_replies_is_the_student_s(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}
    rows = write_rows(tmp_path / "replies.jsonl", [row] * 64)
    chosen = said(tiny, teacher, tmp_path, {"student_share": 0.25, "max_tokens": 4})
    chosen = chosen.model_copy(
        update={"data": chosen.data.model_copy(update={"train": (str(rows),)})}
    )
    run = begin(chosen, tmp_path)
    method, model = chosen.method, run.policy()
    assert isinstance(method, Distillation)
    assert (method.reads, method.draws) == (Conversation, True)
    own = run.encoder.batch([run.encoder.conversation(run.rows[0].messages)])["input_ids"][0]
    with run.rollouts(model) as rollouts:
        first, second = (
            method._draw(run, rollouts, model, 0, [range(64)])[0]["input_ids"] for _ in range(2)
        )
    assert torch.equal(first, second)
    given = (first[:, : len(own)] == own).all(-1).sum()
    assert 38 <= int(given) <= 58  # of 64, three quarters expected


def test_the_teacher_s_samples_are_imitated_and_drawn_once(
    tiny: Path, teacher: Path, tmp_path: Path
) -> None:
    method = {"mode": "samples", "samples": 8, "max_tokens": 100}
    rewards = [{"verifier": "regex", "fields": {"pattern": "[a-m]"}}]
    run = trained(said(tiny, teacher, tmp_path, method, rewards=rewards), tmp_path)
    losses = logged(run, "loss")
    assert losses[-1] < losses[0]
    lines = (run.directory / "samples/0000.jsonl").read_text().splitlines()
    drawn = [json.loads(line) for line in lines]
    kept = [row for row in drawn if row["label"] == 1]
    assert 0 < len(kept) <= len(drawn) <= 32
    assert all(row["source"]["finish"] == "stop" for row in kept)
    assert logged(run, "kept") == [len(kept)]
    before = (run.directory / "samples/0000.jsonl").stat().st_mtime_ns
    first = run.result
    for gone in ("result.json", "log.jsonl"):
        (run.directory / gone).unlink()
    again = trained(run.recipe, tmp_path)
    assert again.result == first
    assert (run.directory / "samples/0000.jsonl").stat().st_mtime_ns == before


def test_what_it_needs_is_said(tiny: Path, teacher: Path, tmp_path: Path) -> None:
    for method, wanted in (({"mode": "samples"}, Prompted), ({"student_share": 1.0}, Prompted)):
        with pytest.raises(ValueError, match=r"draws replies: say `\[rollouts\]`"):
            said(tiny, teacher, tmp_path, method, rollouts=None)
        assert Distillation.model_validate({"type": "distillation", **method}).reads is wanted
    chosen = said(tiny, teacher, tmp_path, {"student_share": 1.0})
    lonely = chosen.model_copy(update={"teacher": None})
    with pytest.raises(RunError, match="say `teacher`"):
        lonely.method.train(begin(lonely, tmp_path / "lonely"))
    other = save_tiny(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    strange = chosen.model_copy(update={"teacher": str(other)})
    with pytest.raises(RunError, match="different tokenizers"):
        strange.method.train(begin(strange, tmp_path / "strange"))
