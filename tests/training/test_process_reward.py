"""Process reward models: labels stand where the verifier reads them, and are learnt there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import begin, logged, recipe, write_rows
from training.data import DataError
from training.losses.reward import labelled_token
from training.methods.process_reward import ProcessReward
from training.reward_models.step_marks import encode_steps, mark_logprobs, marked_batch
from training.reward_models.verdicts import Labels
from training.rows import Stepped
from training.run import Run
from verifiers.manifest import read_manifest
from verifiers.process_reward import ProcessReward as Verifier

PROMPT = "<|im_start|>user\n1?<|im_end|>\n<|im_start|>assistant\n"


def stepped(*steps: str, labels: list[float] | None = None) -> Stepped:
    given = labels or [1.0] * len(steps)
    return Stepped.model_validate({"prompt": "1?", "steps": steps, "labels": given})


def steps_run(tiny: Path, directory: Path, method: dict[str, Any], **tables: Any) -> Run:
    """Open a run on replies of three steps; a step is right if it says x."""
    rows = [
        {
            "prompt": f"{number}?",
            "steps": [f"{number}{end}\n\n" for end in ends[:2]] + [f"{number}{ends[2]}"],
            "labels": [float(end == "x") for end in ends],
        }
        for number, ends in enumerate(("xxx", "xxy", "xyy", "xyx", "yyx", "yxx") * 3)
    ]
    train = write_rows(directory / "train.jsonl", rows[:12])
    test = write_rows(directory / "test.jsonl", rows[12:])
    said = recipe(
        tiny,
        {"type": "process_reward", **method},
        train,
        data={"train": [str(train)], "test": [str(test)], "strict": True},
        training={"max_steps": 24, "batch_size": 4, **tables.pop("training", {})},
        **tables,
    )
    return begin(said, directory)


def texts(run: Run, verifier: Verifier, row: Stepped) -> list[tuple[str, list[str]]]:
    """Return each text that is trained on, and what stands before each verdict in it."""
    return [
        (
            run.tokenizer.decode(marked.ids),
            [run.tokenizer.decode(marked.ids[: place + 1]) for place in marked.places],
        )
        for marked in encode_steps(verifier, row, run.encoder)
    ]


def test_marks_are_where_the_verifier_reads(tiny: Path, tmp_path: Path) -> None:
    run = steps_run(tiny, tmp_path, {})
    row = stepped("a\n\n", "b\n\n", "c", labels=[1.0, 0.5, 0.0])
    # The mark ends a step anyway: one text.
    ((text, before),) = texts(run, Verifier(), row)
    assert text == f"{PROMPT}a\n\nb\n\nc\n\n"
    assert before == [f"{PROMPT}a\n\n", f"{PROMPT}a\n\nb\n\n", text]
    (marked,) = encode_steps(Verifier(), row, run.encoder)
    assert marked.labels == (1.0, 0.5, 0.0)
    # A mark of its own, at the step that is judged alone: a text for each.
    found = texts(run, Verifier(mark=" #"), row)
    assert [text.removeprefix(PROMPT) for text, _ in found] == [
        "a\n\nb\n\nc #",
        "a\n\nb\n\n #",
        "a\n\n #",
    ]
    # Math-Shepherd's, which stay: one text again.
    ((text, before),) = texts(run, Verifier(mark=" #", keep_marks=True), row)
    assert text == f"{PROMPT}a #\n\nb #\n\nc #"
    assert len(before) == 3


def test_steps_must_be_the_verifiers(tiny: Path, tmp_path: Path) -> None:
    run = steps_run(tiny, tmp_path, {})
    with pytest.raises(DataError, match="do not end where the verifier's do"):
        encode_steps(Verifier(), stepped("a\n", "b"), run.encoder)
    assert encode_steps(Verifier(separator="\n"), stepped("a\n", "b"), run.encoder)
    # What exceeds the verifier's steps is its last one.
    row = stepped("a\n\n", "b\n\n", "c", labels=[1.0, 0.5, 0.0])
    (marked,) = encode_steps(Verifier(max_steps=2), row, run.encoder)
    assert marked.labels == (1.0, 0.0)


def test_the_loss_of_soft_labels_by_hand() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    logprobs = logits.log_softmax(-1)
    loss = labelled_token(logprobs[:, 0], logprobs[:, 1], torch.tensor([0.25]))
    whole = math.log(math.e + 2)
    assert loss.item() == pytest.approx(0.25 * (whole - 1) + 0.75 * whole)


def test_the_first_loss_is_over_all_marks(tiny: Path, tmp_path: Path) -> None:
    run = steps_run(tiny, tmp_path, {}, training={"max_steps": 1, "batch_size": 12})
    model = run.policy()
    losses = []
    for row in run.rows:
        (marked,) = encode_steps(Verifier(), row, run.encoder)
        for place, label in zip(marked.places, marked.labels, strict=True):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([marked.ids[: place + 1]])).logits[0, -1]
            token = run.encoder.text("+" if label else "-")[0]
            losses.append(-float(logits.log_softmax(-1)[token]))
    run.recipe.method.train(run)
    assert logged(run, "loss")[0] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 8}])
def test_it_learns(tiny: Path, tmp_path: Path, adapter: dict[str, Any] | None) -> None:
    method = {} if adapter is None else {"learning_rate": 1e-2}
    run = steps_run(tiny, tmp_path, method, adapter=adapter)
    run.recipe.method.train(run)
    assert logged(run, "loss")[-1] < 0.5 * logged(run, "loss")[0]
    assert run.result is not None
    manifest = read_manifest(run.result.path, kinds=("prm",))
    assert manifest.step_mark == "\n\n"
    assert manifest.metrics["held_out_auc"] > 0.9
    assert run.result.is_adapter == (adapter is not None)


def test_hard_labels_count_any_success(tiny: Path, tmp_path: Path) -> None:
    run = steps_run(tiny, tmp_path, {})
    row = stepped("a\n\n", "b", labels=[0.125, 0.0])
    (soft,) = ProcessReward()._encoded(run, [row])
    (hard,) = ProcessReward(hard=True)._encoded(run, [row])
    assert (soft.labels, hard.labels) == ((0.125, 0.0), (1.0, 0.0))


def test_labels_are_read_at_their_marks(tiny: Path, tmp_path: Path) -> None:
    run = steps_run(tiny, tmp_path, {})
    model, labels = run.policy(), Labels(run.encoder, "+", "-")
    rows = [each for row in run.rows[:3] for each in encode_steps(Verifier(), row, run.encoder)]
    with torch.no_grad():
        together = labels.log_odds(mark_logprobs(model, marked_batch(rows, run.encoder.pad_id)))
        alone = torch.cat(
            [
                labels.log_odds(mark_logprobs(model, marked_batch([row], run.encoder.pad_id)))
                for row in rows
            ]
        )
    assert together.tolist() == pytest.approx(alone.tolist(), abs=1e-4)
