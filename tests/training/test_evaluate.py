"""Evaluations through the API: who is asked what, what is compared, what is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server.checkpoints.store import CheckpointError, CheckpointStore
from server.cli import app
from server.models import SilentProgress, resolve
from tests.training.measured import (
    Servers,
    boxed,
    first_of,
    publish,
    publish_adapter,
    sums,
)
from tests.training.tiny import write_rows
from training.evaluation.evaluate import EvaluationFailed, evaluate
from training.evaluation.gate import GateSettings, gate_of
from verifiers.errors import EngineError
from verifiers.manifest import Manifest, tokenizer_digest
from verifiers.types import Prompt


def _improved(prompt: Prompt, settings: Mapping[str, Any]) -> str:
    """Be right on even numbers before, on all but 0 after."""
    number = first_of(prompt)
    after = "store" in settings["model"]
    return boxed(prompt, right=number != 0 if after else number % 2 == 0)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "store")


def test_the_gain_is_compared_problem_by_problem(
    tiny: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    gate = GateSettings(task=sums(tmp_path / "sums.jsonl", 10), samples=2, temperature=0.7, bar=0.1)
    checkpoint = publish(store, tiny, config={"model": str(tiny), "gate": gate.model_dump()})
    servers = Servers(_improved)
    found = evaluate(checkpoint, gate, store, directory=tmp_path / "work", serve=servers)

    assert [each["model"] for each in servers.started] == [str(tiny), str(checkpoint.path)]
    assert servers.asked == 2 * 10 * 2
    assert (found.parent_accuracy, found.accuracy) == (0.5, 0.9)
    assert found.gain == pytest.approx(0.4)  # five gained, one lost, of ten
    assert -0.2 < found.lower < 0.4 < found.upper <= 0.8
    assert found.measures["parent_accuracy"].low < 0.5 < found.measures["parent_accuracy"].high
    assert found.measures["tokens"].mean == 2  # `So`, and the box
    assert (found.problems, found.samples, found.strategy) == (10, 2, {"type": "single"})
    assert found.sampling["temperature"] == 0.7
    assert store.evaluation(checkpoint) == found
    assert json.loads((tmp_path / "work" / "evaluation.json").read_text())["gain"] == found.gain


def test_evaluated_twice_nobody_is_asked_twice(
    tiny: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    gate = GateSettings(task=sums(tmp_path / "sums.jsonl", 6))
    checkpoint, work = publish(store, tiny), tmp_path / "work"
    broken = Servers(_improved, fail=lambda prompt, _: _fault(prompt, 3))
    with pytest.raises(EvaluationFailed, match=r"1 answers could not be had.*problem 4"):
        evaluate(checkpoint, gate, store, directory=work, serve=broken)
    assert store.evaluation(checkpoint) is None

    mended = Servers(_improved)
    found = evaluate(checkpoint, gate, store, directory=work, serve=mended)
    assert mended.asked == 1 + 6  # what was missing of the parent's, and the checkpoint's own
    again = Servers(_improved)
    repeated = evaluate(
        checkpoint,
        gate.model_copy(update={"confidence": 0.9, "concurrency": 2}),
        store,
        directory=work,
        serve=again,
    )
    assert not again.started
    assert repeated.gain == found.gain
    other = gate.model_copy(update={"max_tokens": 64})
    evaluate(checkpoint, other, store, directory=work, serve=again)
    assert again.asked == 12  # another question


def _fault(prompt: Prompt, number: int) -> Exception | None:
    if first_of(prompt) == number:
        return EngineError("broken")
    return None


def test_an_adapter_is_served_beside_its_base(
    tiny: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    def said(prompt: Prompt, settings: Mapping[str, Any]) -> str:
        return boxed(prompt, right=prompt.adapter == "checkpoint")

    checkpoint, servers = publish_adapter(store, tiny), Servers(said)
    gate = GateSettings(task=sums(tmp_path / "sums.jsonl", 4))
    found = evaluate(checkpoint, gate, store, directory=tmp_path / "work", serve=servers)
    [settings] = servers.started
    assert settings["model"] == str(tiny)
    assert settings["options"] == {"adapters": {"checkpoint": str(checkpoint.path)}}
    assert (found.parent, found.parent_accuracy, found.accuracy) == (str(tiny), 0.0, 1.0)


def test_strategies_verifiers_and_budgets_are_the_gates(
    tiny: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    gate = GateSettings.model_validate(
        {
            "task": sums(tmp_path / "sums.jsonl", 3),
            "strategy": {"type": "best_of_n", "n": 4},
            "verifier": "logprob",
            "budget": {"max_tokens": 512},
        }
    )
    servers = Servers(_improved)
    checkpoint = publish(store, tiny)
    found = evaluate(checkpoint, gate, store, directory=tmp_path / "work", serve=servers)
    assert servers.asked == 2 * 3 * 4
    assert found.measures["tokens"].mean == 4 * 2
    assert (found.verifier, found.budget) == ({"name": "logprob"}, {"max_tokens": 512})


def test_what_was_trained_on_is_left_out(
    tiny: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    seen = write_rows(tmp_path / "train.jsonl", [{"prompt": f"{i} +  1 = ?"} for i in range(4)])
    config = {"model": str(tiny), "data": {"train": [str(seen)]}}
    first = publish(store, tiny, config=config)
    later = publish(store, tiny, config={"model": f"checkpoint:{first.spec}"})
    gate = GateSettings(task=sums(tmp_path / "sums.jsonl", 10))
    for checkpoint, parent in ((first, str(tiny)), (later, f"checkpoint:{first.spec}")):
        found = evaluate(
            checkpoint, gate, store, directory=tmp_path / "work", serve=Servers(_improved)
        )
        assert (found.problems, found.parent) == (6, parent)
    with pytest.raises(EvaluationFailed, match="6 problems beside 4 that were trained on"):
        evaluate(
            first,
            gate.model_copy(update={"problems": 7}),
            store,
            directory=tmp_path / "work",
            serve=Servers(_improved),
        )
    whole = gate.model_copy(update={"held_out": False})
    found = evaluate(first, whole, store, directory=tmp_path / "work", serve=Servers(_improved))
    assert found.problems == 10


def test_a_task_of_the_bench_is_left_out_as_well(
    tiny: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    task = sums(tmp_path / "sums.jsonl", 5)
    data = {"task": task, "seed": 0, "problems": 5}
    checkpoint = publish(store, tiny, config={"model": str(tiny), "data": data})
    with pytest.raises(EvaluationFailed, match="0 problems beside 5"):
        evaluate(
            checkpoint,
            GateSettings(task=task),
            store,
            directory=tmp_path / "work",
            serve=Servers(_improved),
        )


def test_a_gate_that_does_not_fit_is_refused(
    tiny: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    gate = GateSettings(pool="gsm8k-qwen2.5-coder-0.5b")
    with pytest.raises(EvaluationFailed, match="kind policy is measured on a `task`"):
        evaluate(publish(store, tiny), gate, store, directory=tmp_path)
    gate = GateSettings(task="gsm8k")
    with pytest.raises(EvaluationFailed, match="kind orm is measured on a `pool`"):
        evaluate(publish(store, tiny, kind="orm"), gate, store, directory=tmp_path)
    with pytest.raises(EvaluationFailed, match="there is no task 'gsm9k'"):
        evaluate(publish(store, tiny), GateSettings(task="gsm9k"), store, directory=tmp_path)
    checkpoint = publish(store, tiny)
    (checkpoint.path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="another sha256"):
        evaluate(checkpoint, GateSettings(task="gsm8k"), store, directory=tmp_path)


def test_options_are_laid_over_the_recipes_gate() -> None:
    config = {"gate": {"task": "gsm8k", "bar": 0.2, "problems": 50, "strategy": "single"}}
    gate = gate_of(config, {"problems": 5, "strategy": {"type": "best_of_n", "n": 4}})
    assert (gate.task, gate.bar, gate.problems) == ("gsm8k", 0.2, 5)
    assert gate.strategy == {"type": "best_of_n", "n": 4}
    assert gate_of(config, {"pool": "somewhere"}).task is None
    with pytest.raises(ValueError, match="say a `task`"):
        gate_of({}, {})


@pytest.mark.slow
def test_the_command_measures_with_a_server_of_its_own(
    tiny: Path, store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORETHOUGHT_ENGINE", "http")  # of no concern to what is measured
    checkpoint = publish(store, tiny)
    command = [
        *("evaluate", checkpoint.spec, "--task", sums(tmp_path / "sums.jsonl", 8)),
        *("--strategy", '{"type": "self_consistency", "n": 3}', "--root", str(store.root)),
        *("--set", 'server={"engine": "scripted"}', "--work", str(tmp_path / "work")),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "8 problems, 1 sample" in done.output
    assert "gain 0.0 points" in done.output
    assert "is reached" in done.output
    found = store.evaluation(checkpoint)
    assert found is not None
    assert found.gain == 0 == found.lower  # the same words with the same seeds
    refused = CliRunner().invoke(app, ["evaluate", checkpoint.spec, "--root", str(store.root)])
    assert refused.exit_code == 1
    assert "gate: say a `task`" in refused.output


@pytest.mark.model
def test_an_adapter_is_measured_by_vllm(store: CheckpointStore, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = resolve("smollm2-135m-instruct", SilentProgress())
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=8, task_type="CAUSAL_LM"))
    config = {"model": "smollm2-135m-instruct"}
    with store.draft("untrained") as draft:
        adapted.save_pretrained(draft)
        checkpoint = store.publish(
            draft,
            Manifest(
                kind="lora",
                base_model="smollm2-135m-instruct",
                tokenizer=tokenizer_digest(base.path),
                config=config,
            ),
        )
    gate = GateSettings(task="reasoning_gym:chain_sum,size=3", max_tokens=24, seed=7)
    found = evaluate(checkpoint, gate, store, directory=tmp_path / "work")
    assert (found.problems, found.parent) == (3, "smollm2-135m-instruct")
    assert 0 < found.measures["tokens"].mean <= 24
    assert found.measures["tokens"] == found.measures["parent_tokens"]  # it changes nothing yet
    assert len(list((tmp_path / "work").glob("*/server-of-*"))) == 1
