"""Adapters: how much they train, that they begin as nothing, learn, are kept and come back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from server.checkpoints.policies import checkpoint_model
from server.checkpoints.store import CheckpointStore
from server.models import ModelError, SilentProgress
from server.models.catalogue import read_catalogue
from tests.training.tiny import begin, logged, recipe, write_rows
from training.adapters.base import AdapterError, adapter_classes
from training.adapters.lora import LoRA
from training.models import find_base, load_model
from training.run import Run, open_run
from verifiers.manifest import read_manifest

D, FF, LAYERS = 64, 96, 2
LINEAR = [(D, D)] * 4 + [(D, FF), (D, FF), (FF, D)]
"""In and out of the matrices of a layer: q, k, v, o, gate, up, down."""
LORA = LAYERS * sum(4 * (i + o) for i, o in LINEAR)
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "lora": ({"type": "lora", "r": 4}, LORA),
    "rslora": ({"type": "lora", "r": 4, "rslora": True}, LORA),
    "dora": ({"type": "lora", "r": 4, "dora": True}, LORA + LAYERS * sum(o for _, o in LINEAR)),
    "adalora": (
        {"type": "adalora", "r": 2, "initial_r": 4},
        LORA + LAYERS * len(LINEAR) * 4,  # and the singular values
    ),
    "ia3": ({"type": "ia3"}, LAYERS * (D + D + FF)),
    "prefix": ({"type": "prefix", "tokens": 5}, 5 * LAYERS * 2 * D),
    "prompt": ({"type": "prompt", "tokens": 5}, 5 * D),
    "p_tuning": (
        {"type": "p_tuning", "tokens": 5, "hidden": 32},
        5 * D + (D + 1) * 32 + (32 + 1) * 32 + (32 + 1) * D,
    ),
    "bottleneck": (
        {"type": "bottleneck", "size": 8},
        LAYERS * (2 * (2 * D * 8 + 8 + D) + 2 * D),  # and two norms a layer
    ),
}
SOFT = ("prefix", "prompt", "p_tuning")
"""They begin as something: a model sees its prompt differently from the start."""
FURTHER = [name for name in CASES if name != "p_tuning"]
IDS = torch.tensor([[5, 9, 40, 41, 42, 7, 11, 30]])


def said(tiny: Path, tmp_path: Path, name: str, **training: Any) -> Any:
    row = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
    rows = write_rows(tmp_path / "rows.jsonl", [row] * 8)
    method = {"type": "sft", "learning_rate": 3e-2 if name in (*SOFT, "ia3") else 1e-2}
    return recipe(tiny, method, rows, adapter=CASES[name][0], training=training)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS, attention_mask=torch.ones_like(IDS)).logits
    return found[:, -IDS.shape[1] :]


def load(run: Run, *, adapted: bool = True) -> Any:
    """Load what a run published, as evaluation by transformers does."""
    assert run.result is not None
    store = CheckpointStore(run.store.root)
    base = find_base(f"checkpoint:{run.result.spec}", store, SilentProgress())
    return load_model(base, dtype="float32", adapted=adapted)


def test_all_of_them_are_here() -> None:
    assert {case["type"] for case, _ in CASES.values()} | {"qlora"} == set(adapter_classes())


@pytest.mark.parametrize("name", CASES)
def test_what_is_trained_and_how_it_begins(tiny: Path, tmp_path: Path, name: str) -> None:
    run = begin(said(tiny, tmp_path, name), tmp_path)
    plain = load_model(run.base, dtype="float32", adapted=False)
    model = run.policy()
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert trained == CASES[name][1]
    apart = (logits(model) - logits(plain)).abs().max()
    assert float(apart) > 1e-3 if name in SOFT else float(apart) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_it_learns_and_comes_back_as_it_was(tiny: Path, tmp_path: Path, name: str) -> None:
    chosen = said(tiny, tmp_path, name)
    run = begin(chosen, tmp_path)
    seen: list[torch.Tensor] = []
    publish = run.publish

    def watching(model: Any, **more: Any) -> Any:
        seen.append(logits(model))
        return publish(model, **more)

    run.publish = watching  # type: ignore[method-assign]
    chosen.method.train(run)
    losses = logged(run, "loss")
    assert losses[-1] < 0.9 * losses[0]
    assert run.result is not None
    manifest = read_manifest(run.result.path)
    served = name in ("lora", "rslora")
    assert manifest.kind == ("lora" if served else "policy")
    assert run.result.is_adapter == (served or name in (*SOFT, "bottleneck"))
    if run.result.is_adapter:
        config = json.loads((run.result.path / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == manifest.base_model == run.base.name
    assert torch.allclose(logits(load(run)), seen[0], atol=1e-4)
    if run.result.is_adapter and not served:
        with pytest.raises(ModelError, match="is an adapter that engines cannot load"):
            checkpoint_model(run.store, run.result.spec, read_catalogue())


@pytest.mark.parametrize("name", ["lora", "bottleneck", "prefix"])
def test_it_is_trained_further_by_its_own_kind_only(tiny: Path, tmp_path: Path, name: str) -> None:
    chosen = said(tiny, tmp_path, name)
    first = begin(chosen, tmp_path)
    chosen.method.train(first)
    assert first.result is not None
    spec = f"checkpoint:{first.result.spec}"
    again = chosen.model_copy(update={"model": spec, "name": "again"})
    second = open_run(again, tmp_path / "second", first.store, SilentProgress(), print)
    again.method.train(second)
    assert logged(second, "loss")[0] == pytest.approx(logged(first, "loss")[-1], rel=0.5)
    assert second.result is not None
    assert read_manifest(second.result.path).base_model == first.base.name
    other = "bottleneck" if name == "lora" else "lora"
    wrong = said(tiny, tmp_path, other).model_copy(update={"model": spec})
    with pytest.raises(AdapterError, match="trained further by its own kind"):
        open_run(wrong, tmp_path / "third", first.store, SilentProgress(), print).policy()


@pytest.mark.parametrize("name", ["p_tuning", "adalora", "bottleneck"])
def test_a_resumed_run_ends_as_an_uninterrupted_one(tiny: Path, tmp_path: Path, name: str) -> None:
    chosen = said(tiny, tmp_path, name, save_steps=4, max_steps=10)
    whole = begin(chosen, tmp_path)
    chosen.method.train(whole)
    cut = begin(chosen, tmp_path / "cut")
    shutil.copytree(whole.directory, cut.directory, dirs_exist_ok=True)
    for later in ("result.json", "log.jsonl", "checkpoint-8", "checkpoint-10"):
        path = cut.directory / later
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.copytree(whole.directory / "checkpoint-8", cut.directory / "checkpoint-8")
    chosen.method.train(cut)
    assert logged(cut, "loss") == pytest.approx(logged(whole, "loss")[8:], rel=1e-5)
    assert torch.allclose(logits(load(cut)), logits(load(whole)), atol=1e-5)


def test_a_merged_lora_is_the_adapter(tiny: Path, tmp_path: Path) -> None:
    run = begin(said(tiny, tmp_path, "lora"), tmp_path)
    model = run.policy()
    torch.manual_seed(0)
    for name, each in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each, std=0.1)
    apart = logits(model)
    plain = logits(load_model(run.base, dtype="float32", adapted=False))
    assert float((apart - plain).abs().max()) > 0.1
    assert torch.allclose(logits(LoRA().merged(model)), apart, atol=1e-4)


def test_ranks_fall_to_the_budget(tiny: Path, tmp_path: Path) -> None:
    chosen = said(tiny, tmp_path, "adalora", max_steps=10)
    run = begin(chosen, tmp_path)
    models: list[Any] = []
    run.publish = lambda model, **_: models.append(model)  # type: ignore[method-assign,assignment]
    chosen.method.train(run)
    values = [each for name, each in models[0].named_parameters() if "lora_E" in name]
    assert sum(int((each != 0).sum()) for each in values) == 2 * LAYERS * len(LINEAR)


def test_what_cannot_be_is_said_before_the_model_loads(tiny: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(AdapterError, match="'qlora' needs a GPU"):
            adapter_classes()["qlora"]().load_arguments()
    epochs = said(tiny, tmp_path, "adalora").model_copy(deep=True)
    training = epochs.training.model_copy(update={"max_steps": None})
    run = begin(epochs.model_copy(update={"training": training}), tmp_path)
    with pytest.raises(AdapterError, match=r"say training\.max_steps"):
        run.policy()
