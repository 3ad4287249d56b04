"""Evaluations of verifiers: a pool's replies, scored through the API and chosen among."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from loadtests.pools import Manifest as PoolManifest
from loadtests.pools import Sample, append, write_manifest
from loadtests.tasks.base import Problem
from server.checkpoints.store import CheckpointStore
from server.models import SilentProgress
from tests.training.measured import (
    Servers,
    publish,
    publish_adapter,
)
from training.evaluation.evaluate import evaluate
from training.evaluation.gate import GateSettings
from training.evaluation.order import Order
from training.evaluation.served_verifier import server_settings
from training.evaluation.server import served
from verifiers.errors import EngineError
from verifiers.types import Prompt


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "store")


def _pool(path: Path) -> Path:
    """Write 3 problems of 4 replies: one right, two right, none right."""
    problems = tuple(
        Problem(str(i), ({"role": "user", "content": f"{i} + 1 = ?"},), str(i + 1))
        for i in range(3)
    )
    write_manifest(path, PoolManifest("jsonl:sums", "model", 4, {}, problems))
    right = ((1, 0, 0, 0), (1, 1, 0, 0), (0, 0, 0, 0))
    answers = (("1", "7", "7", None), ("2", "2", "5", "5"), ("9", "9", "8", None))
    likely = ((-2.0, -1.0, -3.0, -0.1), (-2.0, -1.0, -3.0, -4.0), (-2.0, -1.0, -3.0, -4.0))
    rows = [
        Sample(
            str(problem),
            number,
            f"reply {problem}.{number}",
            "stop",
            5,
            2,
            answer=answers[problem][number],
            correct=bool(right[problem][number]),
            logprobs=(likely[problem][number],),
        )
        for problem in range(3)
        for number in range(4)
    ]
    append(path / "rows.jsonl.gz", rows)
    return path


def test_a_verifier_is_worth_what_choosing_by_it_gains(
    tiny: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    def said(prompt: Prompt, settings: Mapping[str, Any]) -> str:
        asked = " ".join(str(message["content"]) for message in prompt.messages)
        return "Yes" if "reply 0.0" in asked or "reply 1.2" in asked else "No"

    checkpoint = publish_adapter(store, tiny, kind="generative")
    gate = GateSettings(pool=str(_pool(tmp_path / "pool")), configuration={"least_mass": 0.01})
    servers = Servers(said)
    found = evaluate(checkpoint, gate, store, directory=tmp_path / "work", serve=servers)

    [settings] = servers.started
    assert settings["verifiers"] == {
        "checkpoint": {"type": "generative", "adapter": "checkpoint", "least_mass": 0.01}
    }
    assert servers.asked == 12
    # By it the right reply to problem 0 is chosen, and a wrong one to problem 1.
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.parent_accuracy == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)
    assert found.gain == pytest.approx(1 / 3 - 1 / 4)
    # Pairs of problem 0: three won; of problem 1: two lost, two ties; none of problem 2.
    assert found.measures["auc"].mean == pytest.approx((3 + 2 * 0.5) / 7)
    # Of those with an answer the second is the likeliest; of seven pairs six have the right one so.
    assert found.measures["likeliest"].mean == pytest.approx((0 + 1 + 0) / 3)
    assert found.measures["auc_likeliest"].mean == pytest.approx((2 + 4) / 7)
    # By votes: 7 leads in problem 0, 2 and 5 tie in problem 1. Weighted: 1, then 5.
    assert found.measures["majority"].mean == pytest.approx((0 + 1 / 2 + 0) / 3)
    assert found.measures["weighted"].mean == pytest.approx((1 + 0 + 0) / 3, abs=1e-3)
    assert found.measures["oracle"].mean == pytest.approx(2 / 3)
    again = Servers(said)
    evaluate(checkpoint, gate, store, directory=tmp_path / "work", serve=again)
    assert not again.started


def test_a_verifier_that_cannot_score_says_why(
    tiny: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    checkpoint = publish_adapter(store, tiny, kind="generative")
    gate = GateSettings(pool=str(_pool(tmp_path / "pool")), configuration={"adapter": "other"})
    with pytest.raises(EngineError, match="the engine has no adapter 'other'"):
        evaluate(
            checkpoint,
            gate,
            store,
            directory=tmp_path / "work",
            serve=Servers(lambda *_: "Yes"),
        )


def test_a_verifier_is_configured_as_its_recipe_trained_it(
    tiny: Path, store: CheckpointStore, tmp_path: Path
) -> None:
    def configured(**said: Any) -> Mapping[str, Any]:
        manifest = {key: said.pop(key) for key in ("kind", "config", "step_mark") if key in said}
        gate = GateSettings(pool="any", configuration=said)
        order = Order(
            publish(store, tiny, **manifest), gate, store, tmp_path, SilentProgress(), served
        )
        return server_settings(order, "it")

    def method(**told: Any) -> dict[str, Any]:
        return {"method": told}

    asks = method(type="generative_verifier", verifier={"type": "generative", "yes": "Right"})
    settings = configured(kind="generative", config=asks, no="Wrong")
    assert settings["engine"] == "vllm"
    assert settings["verifiers"]["it"] == {"type": "generative", "yes": "Right", "no": "Wrong"}

    refit = method(type="adaptive", method=asks["method"])
    assert configured(kind="generative", config=refit)["verifiers"]["it"]["yes"] == "Right"

    value = configured(kind="prm", step_mark="\n\n", type="value_head")
    assert value["engine"] == "scripted"
    assert value["verifiers"]["it"].keys() == {"type", "model", "timeout_s"}

    steps = configured(kind="prm", step_mark=" ки")
    assert steps["verifiers"]["it"] == {"type": "process_reward", "mark": " ки"}
    assert configured(kind="orm")["verifiers"]["it"]["backend"] == "transformers"
