"""A LoRA adapter promoted under load, with SmolLM2 in vLLM and the whole server around it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.checkpoints.library import Checkpoint
from server.checkpoints.store import CheckpointStore
from server.models import SilentProgress, resolve
from tests.server.serving import serving
from verifiers.manifest import Manifest, tokenizer_digest

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]  # torch's own

MODEL = "smollm2-135m-instruct"
QUESTION = "Tell me a story about a fox who lived by a river, and about what it met there. " * 3
"""More than a block of the prefix cache."""


def random_adapter(directory: Path, seed: int) -> None:
    """Write an adapter that changes what the model says, and knows nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    path = resolve(MODEL, SilentProgress()).path
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj"])
    adapted = get_peft_model(base, config)
    for name, weights in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=0.08)
    adapted.save_pretrained(directory)


def promoted(store: CheckpointStore, seed: int) -> Checkpoint:
    directory = resolve(MODEL, SilentProgress()).path
    with store.draft("solver") as draft:
        random_adapter(draft, seed)
        manifest = Manifest(kind="lora", base_model=MODEL, tokenizer=tokenizer_digest(directory))
        published = store.publish(draft, manifest)
    return store.promote(published.spec, force=True)


@contextmanager
def served(store: CheckpointStore) -> Iterator[httpx.Client]:
    options = {"adapter_slots": "2", "kv_cache_gib": "0.25", "max_model_len": "1024"}
    settings = {f"options__{key}": value for key, value in options.items()}
    settings |= {"checkpoints": str(store.root), "checkpoints_poll_s": "0.2"}
    arguments = ("--engine", "vllm", "--model", MODEL)
    with (
        serving(*arguments, patience=300, **settings) as server,
        httpx.Client(base_url=server.url, timeout=300) as http,
    ):
        yield http


def post(http: httpx.Client, question: str, model: str = "solver", **body: Any) -> httpx.Response:
    messages = [{"role": "user", "content": question}]
    limits = {"max_completion_tokens": 16, "temperature": 0}
    return http.post(
        "/v1/chat/completions", json={"model": model, "messages": messages, **limits, **body}
    )


def greedy(http: httpx.Client, model: str = "solver") -> str:
    answer = post(http, QUESTION, model)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def version(http: httpx.Client) -> str | None:
    known: str | None = http.get("/v1/models/solver").json()["version"]
    return known


def wait_for(http: httpx.Client, checkpoint: Checkpoint) -> None:
    for _ in range(600):
        if version(http) == checkpoint.version:
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"{version(http)} is served, not {checkpoint.version}")


def test_an_adapter_is_promoted_under_load(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    first = promoted(store, 1)
    with served(store) as http:
        before = greedy(http)
        base = greedy(http, MODEL)
        assert greedy(http) == before != base  # now surely from the cache
        statuses: list[int] = []
        over = threading.Event()

        def load(client: int) -> None:
            while not over.is_set():
                strategy = ("single", {"type": "self_consistency", "n": 2})[len(statuses) % 2]
                question = f"{client} and {len(statuses)}: {QUESTION}"
                answer = post(http, question, strategy=strategy, temperature=0.8)
                statuses.append(answer.status_code)

        clients = [threading.Thread(target=load, args=(client,)) for client in range(4)]
        for client in clients:
            client.start()
        try:
            second = promoted(store, 2)
            wait_for(http, second)
            loaded = len(statuses)
            while len(statuses) < loaded + 4:
                assert all(client.is_alive() for client in clients)
                threading.Event().wait(0.1)
        finally:
            over.set()
            for client in clients:
                client.join()
        assert set(statuses) == {200}
        after = greedy(http)
        assert after not in (before, base)
        assert post(http, QUESTION, first.spec).status_code == 404
        listed = {each["id"]: each for each in http.get("/v1/models").json()["data"]}
        assert listed["solver"]["version"] == second.version
        store.rollback("solver")
        wait_for(http, first)
        assert greedy(http) == before
        assert greedy(http, MODEL) == base
    store.promote(second.spec, force=True)
    with served(store) as fresh:
        assert greedy(fresh) == after
