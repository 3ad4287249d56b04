"""Strategies and verifiers of other installed packages, over the API, and what is said of bad ones.

The packages are real: a folder on the path with a `dist-info` beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from server.build import check_settings
from server.configuration import ConfigurationError, load_settings
from server.settings import Settings
from tests.server.local import local

STRATEGY = '''
"""Longest: the longest of n replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from strategies.base import Parallel
from strategies.session import Session
from verifiers.types import Candidate


class Longest(Parallel):
    """Draw n replies and return the longest."""

    type: Literal["longest"] = "longest"

    async def run(self, session: Session) -> Sequence[Candidate]:
        """Sample, and sort by length."""
        drawn = await session.sample(self.n, temperature=self.temperature)
        return sorted(drawn, key=lambda each: (-each.tokens, each.text))
'''
VERIFIER = '''
"""Brevity: the shorter, the better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from verifiers.base import Verifier
from verifiers.types import Candidate, Powers, Score, Task


class Brevity(Verifier):
    """Score a reply by how short it is."""

    type: Literal["brevity"] = "brevity"

    async def score(
        self, task: Task, candidates: Sequence[Candidate], powers: Powers
    ) -> list[Score]:
        """Return 1 over the tokens."""
        return [Score(1 / max(1, each.tokens)) for each in candidates]
'''
LONGEST = "[forethought.strategies]\nlongest = long_replies.longest\n"
BREVITY = "[forethought.verifiers]\nbrevity = long_replies.brevity:Brevity\n"

Install: TypeAlias = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package on the path: its entry points, and its modules by name."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, entry_points: str, **modules: str) -> None:
        package = tmp_path / name.replace("-", "_")
        package.mkdir()
        (package / "__init__.py").touch()
        for module, text in modules.items():
            (package / f"{module}.py").write_text(text)
        about = tmp_path / f"{package.name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(entry_points)

    yield install
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def problem(*plugins: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_settings(Settings(plugins=plugins))
    [line] = str(caught.value).splitlines()
    return line


def test_a_named_package_is_served_like_our_own(install: Install) -> None:
    install("long-replies", LONGEST + BREVITY, longest=STRATEGY, brevity=VERIFIER)
    presets = {"long": {"strategy": {"type": "longest", "n": 3}}}
    with local(plugins=("long-replies",), presets=presets) as server:
        listed = {each["name"]: each for each in server.http.get("/v1/strategies").json()["data"]}
        assert listed["longest"]["summary"] == "Draw n replies and return the longest."
        assert listed["longest"]["defaults"] == {"n": 8, "temperature": None}
        judges = {each["name"] for each in server.http.get("/v1/verifiers").json()["data"]}
        assert "brevity" in judges

        schemas = server.http.get("/openapi.json").json()["components"]["schemas"]
        asked = schemas["ChatCompletionRequest"]["properties"]["strategy"]["anyOf"]
        [union] = [each for each in asked if "oneOf" in each]
        assert "longest" in union["discriminator"]["mapping"]

        body = server.post("/v1/longest/chat/completions", include=["candidates"]).json()
        tokens = [each["tokens"] for each in body["scaling"]["candidates"]]
        assert body["scaling"]["usage"]["sample"]["calls"] == len(tokens) == 8
        assert server.post(model="long").json()["scaling"]["parameters"]["n"] == 3
        assert server.refused(strategy={"type": "longest", "m": 1})["param"] == "strategy.m"

        scaling = server.post(strategy="best_of_n", verifier="brevity").json()["scaling"]
        assert scaling["verifier"] == "brevity"
        assert 'strategy="longest"' in server.http.get("/metrics").text


def test_a_plugin_is_a_part_of_our_own(install: Install) -> None:
    install("long-replies", LONGEST, longest=STRATEGY)
    stages = [{"strategy": {"type": "longest", "n": 2}}, {"strategy": "longest"}]
    cascade = {"type": "cascade", "stages": stages}
    with local(plugins=("long-replies",), presets={"both": {"strategy": cascade}}) as server:
        for body in ({"strategy": cascade}, {"model": "both"}):
            parameters = server.post(**body).json()["scaling"]["parameters"]
            assert parameters["stages"][0]["strategy"]["type"] == "longest"
    with local() as server:
        assert server.refused(strategy=cascade)["param"] == "strategy.stages.0.strategy.type"


def test_what_is_not_named_is_not_imported(install: Install) -> None:
    install("broken-replies", "[forethought.strategies]\na = broken_replies.a\n", a="1 / 0")
    check_settings(Settings())
    assert "broken_replies" not in sys.modules


def test_plugins_are_a_setting_of_the_file(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("long-replies", LONGEST, longest=STRATEGY)
    monkeypatch.delenv("FORETHOUGHT_CONFIG", raising=False)
    file = tmp_path / "served.toml"
    file.write_text('plugins = ["long-replies"]\ndefault_strategy = "longest"\n')
    check_settings(load_settings(file))
    file.write_text('default_strategy = "longest"\n')
    with pytest.raises(ConfigurationError, match="there is no 'longest'"):
        check_settings(load_settings(file))


def test_names_that_clash_are_told(install: Install) -> None:
    ours = STRATEGY.replace('"longest"', '"self_consistency"')
    install("our-names", "[forethought.strategies]\na = our_names.a\n", a=ours)
    assert problem("our-names") == (
        "plugins: our-names: the name 'self_consistency' is taken by Forethought itself"
    )
    install(
        "auto-names",
        "[forethought.strategies]\na = auto_names.a\n",
        a=STRATEGY.replace('"longest"', '"auto"'),
    )
    assert "the name 'auto' is taken" in problem("auto-names")
    install("long-replies", LONGEST, longest=STRATEGY)
    install("more-replies", "[forethought.strategies]\na = more_replies.a\n", a=STRATEGY)
    assert problem("long-replies", "more-replies") == (
        "plugins: more-replies: the name 'longest' is taken by long-replies"
    )


def test_a_module_and_its_class_may_both_be_named(install: Install) -> None:
    twice = f"{LONGEST}again = long_replies.longest:Longest\n"
    install("long-replies", twice, longest=STRATEGY)
    check_settings(Settings(plugins=("long-replies",), default_strategy="longest"))


def test_a_missing_package_is_told() -> None:
    assert problem("no-such-package") == (
        "plugins: no-such-package: there is no such installed package"
    )
    assert problem("pydantic").startswith("plugins: pydantic: it has no entry points of")


REQUIRED = STRATEGY.replace('= "longest"\n', '= "longest"\n    m: int\n')


@pytest.mark.parametrize(
    ("target", "module", "said"),
    [
        ("odd_one.b", STRATEGY, "No module named 'odd_one.b'"),
        ("odd_one.a:Missing", STRATEGY, "has no attribute 'Missing'"),
        ("odd_one.a", VERIFIER, "it defines no Strategy with a name"),
        ("odd_one.a:Session", STRATEGY, "is no Strategy"),
        ("odd_one.a:Parallel", STRATEGY, "has no name: it needs `type"),
        ("odd_one.a", STRATEGY.replace("def run", "def walk"), "does not define run"),
        ("odd_one.a", REQUIRED, "needs defaults for m"),
    ],
)
def test_what_does_not_fit_is_told(install: Install, target: str, module: str, said: str) -> None:
    install("odd-one", f"[forethought.strategies]\na = {target}\n", a=module)
    line = problem("odd-one")
    assert line.startswith(f"plugins: odd-one: {target}: ")
    assert said in line
