"""Promotions while the server runs: none of its requests is dropped, none has two versions."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.build import check_settings
from server.checkpoints.configured import following, mentioned, resolved
from server.checkpoints.in_flight import InFlight
from server.checkpoints.library import Checkpoint, CheckpointLibrary
from server.checkpoints.policies import checkpoint_model, names_of
from server.checkpoints.shelf import AdapterShelf, Full
from server.checkpoints.store import CheckpointStore
from server.configuration import ConfigurationError
from server.engines.scripted import ScriptedEngine
from server.models import ModelError
from server.models.catalogue import read_catalogue
from server.settings import Settings
from tests.server.local import QUESTION, Local, local
from tests.server.published import evaluate, promote, publish
from tests.server.serving import serving as process
from tests.verifiers.tiny_classifier import save_tiny
from verifiers.calibration import Temperature
from verifiers.manifest import Kind, Manifest, tokenizer_digest
from verifiers.types import Message, Prompt, Sampling

SERVED: dict[str, Any] = {"base_model": "scripted"}
POLL_S = 0.02


def says_its_adapter(prompt: Prompt, sampling: Sampling, index: int) -> str | Message:
    return f"I am {prompt.adapter} \\boxed{{{index}}}"


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


@contextmanager
def serving(
    store: CheckpointStore, engine: ScriptedEngine | None = None, **settings: Any
) -> Iterator[Local]:
    engine = engine or ScriptedEngine(says_its_adapter, adapter_slots=3)
    options = {"adapter_slots": engine.adapter_slots}
    with local(
        engine,
        checkpoints=store.root,
        checkpoints_poll_s=POLL_S,
        options=options,
        **settings,
    ) as server:
        yield server


def released(
    store: CheckpointStore, content: str, name: str = "solver", **manifest: Any
) -> Checkpoint:
    """Publish for the scripted engine, evaluate and promote."""
    published = publish(store, name, content, **{**SERVED, **manifest})
    evaluate(store, published)
    return store.promote(published.spec)


def served(server: Local) -> dict[str, str]:
    """Ask which versions are served."""
    found: dict[str, str] = server.http.get("/readyz").json()["checkpoints"]
    return found


def wait_for(server: Local, *checkpoints: Checkpoint) -> None:
    wanted = {each.name: each.version for each in checkpoints}
    server.wait_until(lambda: served(server) == wanted)


def counted(server: Local, outcome: str) -> int:
    name = f'forethought_promotions_total{{outcome="{outcome}"}} '
    lines = server.http.get("/metrics").text.splitlines()
    return next((int(float(line.removeprefix(name))) for line in lines if name in line), 0)


def reply(server: Local, **body: Any) -> str:
    answer = server.post(**{"model": "solver", **body})
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_what_was_promoted_before_the_start_is_served(store: CheckpointStore) -> None:
    first = released(store, "first")
    with serving(store) as server:
        assert first.spec in reply(server)
        assert first.spec in reply(server, model=first.spec)
        assert "None" in reply(server, model="scripted")
        listed = {each["id"]: each for each in server.http.get("/v1/models").json()["data"]}
        assert set(listed) == {"scripted", "solver"}
        assert listed["solver"]["version"] == first.version
        assert listed["solver"]["sha256"] == first.sha256
        assert listed["solver"]["checkpoint"] == first.spec
        assert listed["scripted"]["version"] is None
        assert counted(server, "taken") == 0  # nobody promoted while it ran


def test_a_first_promotion_makes_a_model(store: CheckpointStore) -> None:
    with serving(store) as server:
        assert server.refused(404, model="solver")["param"] == "model"
        first = released(store, "first")
        wait_for(server, first)
        assert first.spec in reply(server)
        assert counted(server, "taken") == 1


def test_promotion_and_rollback_replace_and_forget(store: CheckpointStore) -> None:
    first = released(store, "first")
    with serving(store) as server:
        second = released(store, "second")
        wait_for(server, second)
        assert second.spec in reply(server)
        server.wait_until(lambda: server.engine.capabilities.adapters == (second.spec,))
        server.refused(404, model=first.spec)
        store.rollback("solver")
        wait_for(server, first)
        assert first.spec in reply(server)
        server.wait_until(lambda: server.engine.capabilities.adapters == (first.spec,))
        assert counted(server, "taken") == 2


def test_a_request_keeps_the_version_that_it_began_with(store: CheckpointStore) -> None:
    first = released(store, "first")
    engine = ScriptedEngine(says_its_adapter, adapter_slots=2, delay=0.1)
    with serving(store, engine) as server:
        answers: list[str] = []
        strategy = {"strategy": {"type": "sequential_revision", "n": 3}}
        asking = threading.Thread(target=lambda: answers.append(reply(server, **strategy)))
        asking.start()
        server.wait_until(lambda: engine.running > 0)
        second = released(store, "second")
        server.wait_until(lambda: second.spec in engine.capabilities.adapters)
        server.wait_until(lambda: server.state.exchange.served["solver"].spec == second.spec)
        assert set(engine.capabilities.adapters) == {first.spec, second.spec}  # still in use
        asking.join()
        assert first.spec in answers[0]
        server.wait_until(lambda: engine.capabilities.adapters == (second.spec,))


def spoil(checkpoint: Checkpoint) -> None:
    [weights] = checkpoint.path.glob("*model.safetensors")
    weights.write_text("spoilt")


def test_what_is_damaged_is_refused_and_the_old_one_served(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    first = released(store, "first")
    with serving(store) as server, caplog.at_level(logging.WARNING, "forethought.checkpoints"):
        second = publish(store, content="second", **SERVED)
        evaluate(store, second)
        history = store.history("solver").promoted(second.version)
        spoil(second)  # after the gate
        (store.root / "solver" / "next").write_text(history.model_dump_json())
        (store.root / "solver" / "next").replace(store.root / "solver" / "promoted.json")
        server.wait_until(lambda: counted(server, "refused") == 1)
        time.sleep(5 * POLL_S)
        assert first.spec in reply(server)
        assert [counted(server, each) for each in ("refused", "taken")] == [1, 0]
        [line] = [each.getMessage() for each in caplog.records]
        assert line.startswith(f"{second.spec} is not served: ")
        assert "another sha256" in line
        third = released(store, "third")
        wait_for(server, third)


def test_what_is_damaged_at_the_start_is_refused(store: CheckpointStore) -> None:
    spoil(released(store, "first"))
    with serving(store) as server:
        server.refused(404, model="solver")
        second = released(store, "second")
        wait_for(server, second)


@pytest.mark.parametrize("follow", [None, ("solver",)])
def test_one_for_another_model_is_not_served(
    store: CheckpointStore, follow: Sequence[str] | None
) -> None:
    other = promote(store, content="for org/base")
    with serving(store, follow=follow) as server:
        server.refused(404, model="solver")
        assert counted(server, "refused") == (follow is not None)  # it was asked for by name
        first = released(store, "first")
        wait_for(server, first)
        evaluate(store, other)
        store.promote(other.spec)
        server.wait_until(lambda: counted(server, "refused") == 1)
        assert first.spec in reply(server)


def test_only_what_is_followed_is_served(store: CheckpointStore) -> None:
    with serving(store, follow=("solver",)) as server:
        released(store, "others", name="other")
        wait_for(server, released(store, "first"))
        server.refused(404, model="other")


def test_a_promotion_waits_for_a_free_slot(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    solver = released(store, "first")
    engine = ScriptedEngine(says_its_adapter, adapter_slots=1)
    with serving(store, engine) as server, caplog.at_level(logging.WARNING):
        released(store, "second")
        server.wait_until(lambda: bool(caplog.records))
        time.sleep(5 * POLL_S)
        [line] = [each.getMessage() for each in caplog.records]
        assert f"waits for a slot: adapter_slots = 1 are taken by {solver.spec}" in line
        assert solver.spec in reply(server)


def test_a_preset_may_stand_on_a_promoted_name(store: CheckpointStore) -> None:
    released(store, "first")
    preset = {"think": {"model": "solver", "strategy": "single"}}
    with serving(store, presets=preset) as server:
        wait_for(server, second := released(store, "second"))
        assert second.spec in reply(server, model="think")


STRATEGIES: tuple[dict[str, Any], ...] = (
    {"type": "single"},
    {"type": "self_consistency", "n": 4},
    {"type": "sequential_revision", "n": 3},
    {"type": "beam", "n": 4, "width": 2},
)


def test_under_load_no_request_is_dropped_and_none_has_two_versions(store: CheckpointStore) -> None:
    seen: defaultdict[str, set[str | None]] = defaultdict(set)

    def script(prompt: Prompt, sampling: Sampling, index: int) -> str | Message:
        seen[prompt.messages[0]["content"]].add(prompt.adapter)
        return "First.\n\nSecond.\n\nThen \\boxed{7}"

    promoted = [released(store, "0")]
    engine = ScriptedEngine(script, delay=0.002, adapter_slots=4)
    statuses: list[int] = []
    over = threading.Event()

    async def load(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http, asyncio.TaskGroup() as all_:
            for client in range(8):
                all_.create_task(ask(http, client))

    async def ask(http: httpx.AsyncClient, client: int) -> None:
        place = 0
        while not over.is_set():
            strategy = STRATEGIES[place % len(STRATEGIES)]
            question = [{"role": "user", "content": f"question {client} {place}"}]
            body = {"model": "solver", "messages": question, "strategy": strategy}
            answer = await http.post("/v1/chat/completions", json=body)
            statuses.append(answer.status_code)
            place += 1

    with serving(store, engine) as server:
        asking = threading.Thread(target=lambda: asyncio.run(load(server.url)))
        asking.start()
        try:
            while len(promoted) < 25 or len(statuses) < 300:
                assert asking.is_alive()
                time.sleep(0.1)
                promoted.append(released(store, str(len(promoted))))
        finally:
            over.set()
            asking.join()
        wait_for(server, promoted[-1])
        server.wait_until(lambda: engine.capabilities.adapters == (promoted[-1].spec,))
        taken = counted(server, "taken")
        assert counted(server, "refused") == 0
    assert set(statuses) == {200}
    seen.pop("Hi", None)  # what readiness asks the engine
    assert len(seen) == len(statuses)
    assert {len(versions) for versions in seen.values()} == {1}
    versions = set().union(*seen.values())
    assert versions <= {each.spec for each in promoted}
    assert taken >= len(versions) - 1 >= 12  # most were served while they were promoted


def judging(prompt: Prompt, sampling: Sampling, index: int) -> str | Message:
    """Say Yes as an adapter whose weights are kind; without one, No."""
    return "Yes" if prompt.adapter in KIND else "No"


KIND: set[str | None] = set()


def verdict(server: Local, verifier: str) -> float:
    body = {"verifier": verifier, "candidates": [{"content": "42"}]}
    answer = server.post("/v1/verify", **body)
    assert answer.status_code == 200, answer.text
    score: float = answer.json()["data"][0]["score"]
    return score


VERIFIERS: dict[str, Any] = {
    "grader": {"type": "generative", "adapter": "genrm"},
    "both": {"type": "ensemble", "members": [{"verifier": "grader"}, {"verifier": "plain"}]},
    "plain": {"type": "generative"},
}


def test_a_verifiers_adapter_is_followed_and_so_are_ensembles_of_it(
    store: CheckpointStore,
) -> None:
    engine = ScriptedEngine(judging, adapter_slots=2)
    with serving(store, engine, verifiers=VERIFIERS) as server:
        body: Any = {"verifier": "grader", "candidates": [{"content": "42"}]}
        refusal = server.refused(path="/v1/verify", **body)
        assert "no adapter 'genrm'" in refusal["message"]
        plain = server.state.verifiers["plain"]
        first = released(store, "kind", name="genrm", kind="generative")
        KIND.add(first.spec)
        wait_for(server, first)
        assert [verdict(server, each) for each in ("grader", "both", "plain")] == [1, 0.5, 0]
        second = released(store, "strict", name="genrm", kind="generative")
        wait_for(server, second)
        assert [verdict(server, each) for each in ("grader", "both", "plain")] == [0, 0, 0]
        assert server.state.verifiers["plain"] is plain  # it follows nothing
        server.refused(404, model="genrm")  # it answers no requests
        listed = [each["id"] for each in server.http.get("/v1/models").json()["data"]]
        assert listed == ["scripted"]


REWARD: dict[str, Any] = {
    "reward": {"type": "outcome_reward", "backend": "transformers", "model": "checkpoint:reward"}
}


def rewarding(store: CheckpointStore, labels: int, kind: Kind = "orm") -> Checkpoint:
    with store.draft("reward") as draft:
        save_tiny(draft, labels=labels)
        digest = tokenizer_digest(draft)
        published = store.publish(draft, Manifest(kind=kind, base_model="tiny", tokenizer=digest))
    return store.promote(published.spec, force=True)


@pytest.mark.slow
def test_a_reward_model_is_replaced_under_load(store: CheckpointStore) -> None:
    rewarding(store, labels=1)
    settings: dict[str, Any] = {"checkpoints": str(store.root), "checkpoints_poll_s": "0.1"}
    body = {"messages": QUESTION, "verifier": "reward", "candidates": [{"content": "42"}]}
    with (
        process(verifiers=json.dumps(REWARD), **settings) as server,
        httpx.Client(base_url=server.url, timeout=30) as http,
    ):

        def verdict() -> float:
            answer = http.post("/v1/verify", json=body)
            assert answer.status_code == 200, answer.text
            score: float = answer.json()["data"][0]["score"]
            return score

        scores = [verdict(), verdict()]
        second = rewarding(store, labels=2)
        while len(set(scores)) == 1:
            scores.append(verdict())
        assert http.get("/readyz").json()["checkpoints"] == {"reward": second.version}
        rewarding(store, labels=3, kind="prm")  # this verifier does not take such
        while 'outcome="refused"} 1.0' not in http.get("/metrics").text:
            scores.append(verdict())
        scores.append(verdict())
        assert len(set(scores)) == 2
        assert scores == sorted(scores, key=(scores[0], scores[-1]).index)  # never back


def test_a_reward_model_that_is_not_there_is_told_before_the_start(store: CheckpointStore) -> None:
    settings = Settings(engine="scripted", checkpoints=store.root, verifiers=REWARD)
    with pytest.raises(
        ConfigurationError, match=r"verifiers\.reward\.model: no version of 'reward'"
    ):
        check_settings(settings)


def test_an_adapter_that_no_verifier_names_takes_no_slot(store: CheckpointStore) -> None:
    with serving(store) as server:
        released(store, "kind", name="genrm", kind="generative")
        wait_for(server, released(store, "first"))
        assert len(server.engine.capabilities.adapters) == 1


def test_a_manifest_has_the_last_word_but_for_the_configuration(store: CheckpointStore) -> None:
    calibration = Temperature(temperature=2.0)
    told = {"kind": "prm", "step_mark": "ки", "calibration": calibration}
    found = released(store, "prm", name="steps", **told)
    configured = {"type": "process_reward", "adapter": "steps"}
    adapters = {"steps": found}
    assert resolved(configured, store.find, adapters) == {
        "type": "process_reward",
        "adapter": found.spec,
        "mark": "ки",
        "calibration": calibration.model_dump(),
    }
    kept = resolved(configured | {"mark": "#"}, store.find, adapters)
    assert kept["mark"] == "#"
    assert resolved(configured, store.find, {}) == configured


def test_what_follows_a_name_is_found_through_ensembles() -> None:
    configured: dict[str, Any] = {
        "a": {"type": "outcome_reward", "model": "checkpoint:orm"},
        "b": {"type": "ensemble", "members": [{"verifier": "a"}]},
        "c": {"type": "ensemble", "members": [{"verifier": "b"}, {"verifier": {"adapter": "x"}}]},
        "d": {"type": "outcome_reward", "model": "checkpoint:orm@0123456789ab"},
    }
    assert following(configured, "orm") == {"a", "b", "c"}
    assert following(configured, "x") == {"c"}
    assert [mentioned(each) for each in configured.values()] == [{"orm"}, set(), {"x"}, set()]


async def test_a_shelf_forgets_what_the_last_user_releases(store: CheckpointStore) -> None:
    engine = ScriptedEngine(adapter_slots=1)
    shelf = AdapterShelf(engine, frozenset({"scripted"}), None)
    first, other = publish(store, **SERVED), publish(store, content="other", **SERVED)
    await shelf.take(first)
    await shelf.take(first)
    with pytest.raises(Full):
        await shelf.take(other)
    await shelf.release(first)
    assert first.spec in engine.capabilities.adapters
    await shelf.release(first)
    assert first.spec not in engine.capabilities.adapters
    await shelf.take(other)
    assert shelf.held == {other.spec}


async def test_a_grace_period_waits_for_those_before_it_alone() -> None:
    in_flight = InFlight()
    await in_flight.ended()
    with in_flight.request():
        waiting = asyncio.create_task(in_flight.ended())
        await asyncio.sleep(0)
        with in_flight.request():
            await asyncio.sleep(0)
        assert not waiting.done()
        later = in_flight.request()
        later.__enter__()
    await asyncio.wait_for(waiting, 1)
    later.__exit__(None, None, None)


def test_a_whole_policy_of_the_store_is_a_model(store: CheckpointStore) -> None:
    catalogue, library = read_catalogue(), CheckpointLibrary(store.root)
    entry = next(each for each in catalogue.entries if each.tool_parser)
    first = publish(store, "tuned", "1", kind="policy", base_model=entry.name)
    base = f"checkpoint:{first.spec}"
    second = released(store, "2", name="tuned", kind="policy", base_model=base)
    found = checkpoint_model(library, "tuned", catalogue)
    assert (found.path, found.name, found.checkpoint) == (second.path, "tuned", second.spec)
    assert found.tool_parser == entry.tool_parser
    assert names_of(found) == {f"checkpoint:{second.spec}"}
    with pytest.raises(ModelError, match="of kind lora, not a whole model"):
        checkpoint_model(library, publish(store).spec, catalogue)
    spoil(second)
    with pytest.raises(ModelError, match="another sha256"):
        checkpoint_model(library, "tuned", catalogue)
    with pytest.raises(ModelError, match=r"no version of 'other' is promoted"):
        checkpoint_model(library, "other", catalogue)
