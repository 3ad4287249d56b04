"""The store of checkpoints: whole or not there, whoever is killed when; and its commands."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server.checkpoints.evaluation import points
from server.checkpoints.store import CheckpointError, CheckpointStore
from server.commands.checkpoints import app
from tests.server.published import drafts, evaluate, promote, publish
from verifiers.manifest import MANIFEST

CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "fcntl.flock"}
"""What Python tells its audit hooks of before it does it."""
NO_FILE = "No such file or directory"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def child(work: Callable[[], Any]) -> int:
    """Start a process that does some work and ends."""
    if pid := os.fork():
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def ended(pid: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_is_published_is_found_by_its_version(store: CheckpointStore) -> None:
    published = publish(store)
    assert store.find(published.spec) == published == store.verify(published.spec)
    assert published.path == store.root / "solver" / published.version
    assert published.is_adapter
    assert not published.promoted
    assert (store.checkpoints(), store.broken()) == ([published], [])
    assert drafts(store.root) == []


def test_the_same_content_is_one_version(store: CheckpointStore) -> None:
    first, again, other = publish(store), publish(store), publish(store, content="others")
    assert first == again
    assert other.version != first.version
    assert [each.version for each in store.checkpoints()] == [first.version, other.version]


def test_publishing_again_mends_what_was_damaged(store: CheckpointStore) -> None:
    first = publish(store)
    (first.path / "adapter_model.safetensors").write_text("damaged")
    publish(store)
    assert store.verify(first.spec) == first
    publish(store, content="others")
    assert drafts(store.root) == []


def test_a_draft_that_fails_leaves_nothing(store: CheckpointStore) -> None:
    with pytest.raises(FileNotFoundError), store.draft("solver") as draft:
        (draft / "half" / "there").write_text("a")
    assert drafts(store.root) == []
    assert store.checkpoints() == []


def test_a_draft_in_use_is_not_swept(store: CheckpointStore) -> None:
    with store.draft("solver") as one, store.draft("solver") as other:
        assert drafts(store.root) == sorted((one, other))


def test_only_drafts_of_the_store_are_published(store: CheckpointStore, tmp_path: Path) -> None:
    manifest = publish(store).manifest
    with pytest.raises(CheckpointError, match="is no draft of the store"):
        store.publish(tmp_path, manifest)


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "..", ".hidden", "a b", "ä"])
def test_names_are_checked(store: CheckpointStore, name: str) -> None:
    with pytest.raises(CheckpointError, match="is no name"), store.draft(name):
        pass


def test_a_missing_one_names_those_that_are_there(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"the store .* has nothing"):
        store.find("solver")
    there = publish(store)
    with pytest.raises(CheckpointError, match=f"no version .* promoted: there are {there.spec}"):
        store.find("solver")
    with pytest.raises(CheckpointError, match=f"solver@123456789abc: there are {there.spec}"):
        store.find("solver@123456789abc")
    with pytest.raises(CheckpointError, match="has solver"):
        store.find("other@123456789abc")


def test_what_is_broken_is_told(store: CheckpointStore) -> None:
    home = store.root / "solver"
    unlike, bare = publish(store), publish(store, content="bare")
    (unlike.path / MANIFEST).write_text((unlike.path / MANIFEST).read_text() + "\n")
    (bare.path / MANIFEST).unlink()
    (home / "copy").mkdir()
    (home / "promoted.json").write_text('{"promotions": [{"version": "x"}]}')
    told = {broken.path.name: broken.problem for broken in store.broken()}
    assert "not what was published" in told[unlike.version]
    assert "No such file" in told[bare.version]
    assert told["copy"] == "it is no version"
    assert "should match pattern" in told["promoted.json"]
    assert store.checkpoints() == []
    with pytest.raises(CheckpointError, match="should match pattern"):
        store.find("solver")


def test_changed_weights_are_found_and_not_promoted(store: CheckpointStore) -> None:
    published = publish(store)
    evaluate(store, published)
    (published.path / "adapter_model.safetensors").write_text("other")
    for refuse in (store.verify, store.promote):
        with pytest.raises(CheckpointError, match="another sha256"):
            refuse(published.spec)
    assert store.history("solver").current is None


def test_promotions_are_a_stack(store: CheckpointStore) -> None:
    first, second = promote(store, content="first"), promote(store, content="second")
    assert store.find("solver") == second
    assert store.promote(second.spec) == second  # it is already
    assert [each.promoted for each in store.checkpoints()] == [False, True]
    assert store.rollback("solver").version == first.version == store.find("solver").version
    with pytest.raises(CheckpointError, match="nothing was promoted before"):
        store.rollback("solver")
    store.promote(second.spec)
    history = store.history("solver")
    versions = [each.version for each in history.promotions]
    assert versions == [first.version, second.version, second.version]
    assert [each.rolled_back_at is None for each in history.promotions] == [True, False, True]
    assert store.rollback("solver").version == first.version


def test_a_rollback_to_what_is_damaged_is_refused(store: CheckpointStore) -> None:
    first, second = promote(store, content="first"), promote(store, content="second")
    (first.path / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        store.rollback("solver")
    assert store.find("solver") == second


def test_the_gate_wants_an_evaluation(store: CheckpointStore) -> None:
    published = publish(store)
    with pytest.raises(CheckpointError, match=f"not evaluated: forethought .* {published.spec}"):
        store.promote(published.spec)
    with pytest.raises(CheckpointError, match="name a version of 'solver'"):
        store.promote("solver", force=True)


def test_the_gates_refusal_says_the_figures(store: CheckpointStore) -> None:
    published = publish(store)
    evaluate(store, published, gain=0.012, lower=-0.008, upper=0.031)
    with pytest.raises(CheckpointError) as refused:
        store.promote(published.spec)
    figures = "gain +1.2 points, 95 % interval \N{MINUS SIGN}0.8 to +3.1; the recipe's bar is 0.0"
    assert str(refused.value) == f"{published.spec} is not promoted: {figures}"
    assert store.promote(published.spec, force=True).promoted
    [promotion] = store.history("solver").promotions
    assert (promotion.forced, promotion.reason) == (True, figures)


@pytest.mark.parametrize(("bar", "passes"), [(0.05, True), (0.06, False), (-0.1, True)])
def test_the_bar_is_the_recipes(store: CheckpointStore, bar: float, passes: bool) -> None:
    published = publish(store, config={"gate": {"bar": bar}})
    evaluate(store, published, lower=0.05)
    if passes:
        promotion = store.promote(published.spec, force=True)
        assert promotion.promoted
        assert not store.history("solver").promotions[0].forced  # nothing had to be overruled
    else:
        with pytest.raises(CheckpointError, match=r"the recipe's bar is \+6\.0"):
            store.promote(published.spec)


def test_a_measurement_by_another_gate_does_not_count(store: CheckpointStore) -> None:
    gate = {"bar": 0.0, "task": "chain_sum", "seed": 1, "strategy": {"type": "single"}}
    published = publish(store, config={"gate": gate})
    evaluate(store, published, task="leg_counting", seed=2, problems=10)
    with pytest.raises(
        CheckpointError, match="not measured by its recipe's gate: task, seed differ"
    ):
        store.promote(published.spec)
    evaluate(store, published, problems=10)
    assert store.promote(published.spec).promoted


def test_a_verifiers_gate_is_its_pool(store: CheckpointStore) -> None:
    published = publish(
        store, kind="generative", config={"gate": {"pool": ["pools/one"], "seed": 1}}
    )
    evaluate(store, published, sampling={"pool": "two"})
    with pytest.raises(CheckpointError, match="gate: pool differ"):
        store.promote(published.spec)
    evaluate(store, published, sampling={"pool": "one"})
    assert store.promote(published.spec).promoted


def test_a_bar_that_is_none_is_refused(store: CheckpointStore) -> None:
    published = publish(store, config={"gate": {"bar": "high"}})
    evaluate(store, published)
    with pytest.raises(CheckpointError, match=r"gate\.bar: 'high'"):
        store.promote(published.spec)


def test_an_evaluation_is_read_as_it_was_recorded(store: CheckpointStore) -> None:
    published = publish(store)
    assert store.evaluation(published) is None
    assert evaluate(store, published, gain=0.2) == store.evaluation(published)
    path = store.root / "solver" / "evaluations" / f"{published.version}.json"
    path.write_text(json.dumps({"checkpoint": published.spec}))
    with pytest.raises(CheckpointError, match="parent: Field required"):
        store.evaluation(published)


@pytest.mark.parametrize(
    ("difference", "written"),
    [
        (0.012, "+1.2"),
        (-0.008, "\N{MINUS SIGN}0.8"),
        (0.0, "0.0"),
        (-0.0001, "0.0"),
        (1.0, "+100.0"),
    ],
)
def test_points(difference: float, written: str) -> None:
    assert points(difference) == written


def one_more(store: CheckpointStore, content: str) -> None:
    published = publish(store, content=content)
    evaluate(store, published)
    store.promote(published.spec)


def check_after_a_kill(store: CheckpointStore, known: set[str]) -> str:
    """Hold the store to its promise; return what is promoted."""
    assert store.broken() == []
    assert {store.verify(each.spec).version for each in store.checkpoints()} <= known
    for each in store.checkpoints():
        store.evaluation(each)
    return store.verify("solver").version


def test_killed_before_any_change_it_is_old_or_new(store: CheckpointStore) -> None:
    old = promote(store, content="old").version
    new = publish(CheckpointStore(store.root.parent / "elsewhere"), content="new").version
    states = []

    def die(at: int) -> None:
        left = [at]

        def hook(event: str, arguments: Any) -> None:
            reads = event == "open" and not arguments[2] & WRITES
            if event in CHANGES and not reads:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        one_more(store, "new")

    for at in range(500):
        code = ended(child(partial(die, at)))
        states.append(check_after_a_kill(store, {old, new}))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        if states[-1] == new:
            store.rollback("solver")
    assert len(states) > 15  # so many steps there are
    assert set(states) == {old, new}
    assert states[-1] == new
    promote(store, content="third")
    assert drafts(store.root) == []


def test_killed_at_any_time_it_reads_clean(store: CheckpointStore) -> None:
    promote(store, content="0")
    dice, left = random.Random(7), 0
    for _ in range(30):

        def work(seed: int = dice.getrandbits(30)) -> None:
            while True:
                one_more(store, str(seed))
                seed += 1
                if seed % 3 == 0:
                    store.rollback("solver")

        pid = child(work)
        time.sleep(dice.uniform(0.002, 0.05))
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL
        left += len(drafts(store.root))
        check_after_a_kill(store, {each.version for each in store.checkpoints()})
    assert left > 0  # some died while they wrote
    promote(store, content="last")
    assert drafts(store.root) == []
    assert store.find("solver").promoted


def test_of_several_promoters_none_is_lost(store: CheckpointStore) -> None:
    publish(store, content="first")

    def work(number: int) -> None:
        for place in range(5):
            one_more(store, f"{number} {place}")

    pids = [child(partial(work, number)) for number in range(4)]
    assert [ended(pid) for pid in pids] == [0] * 4
    promotions = store.history("solver").promotions
    assert len({each.version for each in promotions}) == len(promotions) == 20
    assert len(store.checkpoints()) == 21


def run(store: CheckpointStore, *arguments: str) -> tuple[int, str, str]:
    """Run a command on the store; return its exit code, and what it wrote and complained."""
    done = CliRunner().invoke(app, [*arguments, "--root", str(store.root)], env={"COLUMNS": "150"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_commands_tell_of_an_empty_store(store: CheckpointStore) -> None:
    assert run(store, "list") == (0, f"{store.root} holds no checkpoints.\n", "")
    code, _, errors = run(store, "show", "solver")
    assert code == 1
    assert errors.startswith("forethought: no version of 'solver' is promoted")
    assert errors.count("\n") == 1


def test_the_commands_list_and_show(store: CheckpointStore) -> None:
    first = promote(store, content="first")
    second = publish(store, content="second", metrics={"loss": 0.25})
    code, listed, _ = run(store, "list")
    rows = [line.split() for line in listed.splitlines()[1:]]
    assert code == 0
    assert [row[:4] for row in rows] == [
        ["solver", each.version, "lora", "org/base"] for each in (first, second)
    ]
    assert rows[0][4:7] == ["yes", "+10.0", "points"]
    code, shown, _ = run(store, "show", second.spec)
    assert code == 0
    for told in (second.spec, second.sha256, '"loss": 0.25', "none yet", first.version):
        assert told in shown
    assert "gain +10.0 points, 95 % interval +5.0 to +15.0" in run(store, "show", "solver")[1]
    (second.path / MANIFEST).unlink()
    code, _, errors = run(store, "list")
    assert (code, errors) == (1, f"{second.path}: {second.path / MANIFEST}: {NO_FILE}\n")


def test_the_commands_verify(store: CheckpointStore) -> None:
    first, second = publish(store, content="first"), publish(store, content="second")
    whole = f"{first.spec}: whole\n"
    assert run(store, "verify") == (0, whole + f"{second.spec}: whole\n", "")
    (second.path / "adapter_model.safetensors").write_text("changed")
    code, told, errors = run(store, "verify")
    assert (code, told) == (1, whole)
    assert "another sha256" in errors
    assert run(store, "verify", first.spec) == (0, whole, "")
    assert run(store, "verify", second.spec) == (1, "", errors)


def test_the_commands_promote_and_take_back(store: CheckpointStore) -> None:
    first, second = promote(store, content="first"), publish(store, content="second")
    code, _, errors = run(store, "promote", second.spec)
    assert (code, errors.count("\n")) == (1, 1)
    assert "it was not evaluated" in errors
    promoted = f"{second.spec} is promoted\n"
    assert run(store, "promote", second.spec, "--force") == (0, promoted, "")
    assert "it was not evaluated" in run(store, "show", "solver")[1]  # the history tells
    assert run(store, "rollback", "solver") == (0, f"{first.spec} is promoted\n", "")
    code, _, errors = run(store, "rollback", "solver")
    assert (code, errors.startswith("forethought: nothing was promoted before")) == (1, True)


def test_the_store_is_a_setting(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORETHOUGHT_CHECKPOINTS", str(store.root))
    first = publish(store)
    assert CliRunner().invoke(app, ["verify"]).stdout == f"{first.spec}: whole\n"
