"""Settings: what wins, and what is said of what is wrong."""

import json
import os
from pathlib import Path

import pytest

from server.build import check_settings
from server.configuration import ConfigurationError, load_settings
from server.consistency import read_tables
from server.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("FORETHOUGHT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "forethought.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def problems(settings: Settings | None = None, config: Path | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        check_settings(settings or load_settings(config))
    return str(caught.value).splitlines()


def test_defaults_are_consistent() -> None:
    settings = load_settings()
    assert (settings.engine, settings.host, settings.port) == ("vllm", "127.0.0.1", 8000)
    check_settings(settings)


def test_command_line_over_environment_over_file_over_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write('model = "file"\nport = 1\ndrain_s = 1\n[limits]\nmax_samples = 1\nmax_calls = 500\n')
    monkeypatch.setenv("FORETHOUGHT_PORT", "2")
    monkeypatch.setenv("FORETHOUGHT_MODEL", "environment")
    monkeypatch.setenv("FORETHOUGHT_LIMITS__MAX_SAMPLES", "2")
    settings = load_settings(model="command line", port=None)
    assert (settings.model, settings.port, settings.drain_s) == ("command line", 2, 1)
    assert (settings.limits.max_samples, settings.limits.max_calls) == (2, 500)
    assert settings.limits.max_messages == 1024


def test_file_is_named_by_option_or_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    write("port = 1")
    monkeypatch.setenv("FORETHOUGHT_CONFIG", str(write("port = 2", "two.toml")))
    assert load_settings().port == 2
    assert load_settings(write("port = 3", "three.toml")).port == 3


def test_constructor_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORETHOUGHT_PORT", "2")
    assert Settings().port == 8000


def test_engine_from_environment_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORETHOUGHT_ENGINES__SMALL__ENGINE", "scripted")
    monkeypatch.setenv("FORETHOUGHT_API_KEY", "sk-secret")
    settings = load_settings()
    assert settings.engines["small"].engine == "scripted"
    assert "sk-secret" not in repr(settings)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-secret"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle = 'x'", "forethought.toml: modle: there is no such setting; did you mean model?"),
        ("[limits]\nmax_sample = 1", "limits.max_sample: there is no such setting; did you mean"),
        ("port = 99999", "port: Input should be less than or equal to 65535, not 99999"),
        ("engine = 'vlm'", "engine: Input should be 'vllm', 'http' or 'scripted', not 'vlm'"),
        ("[engines.a]\nengine = 'http'", "engines.a: engine 'http' needs `upstream`"),
        ("upstream = 'http://a/v1'", "`upstream` is for engine 'http', not 'vllm'"),
        ("engine = 'http'\nupstream = 'ftp://a'", "upstream: String should match pattern"),
        ("[options]\ndtpye = 'float32'", "options.dtpye: there is no such setting; did you mean"),
        ("[presets.a.budget]\nmax_tokens = 1", "presets.a.budget.max_tokens: Input should be"),
        ("[presets.a.budget]\nmax = 1", "presets.a.budget.max: there is no such setting"),
        ("[budget]\nmax_tokens = 99999", "`budget.max_tokens` is over `limits.max_tokens`"),
        ("port = ", "forethought.toml: not TOML: "),
    ],
)
def test_wrong_file(text: str, said: str) -> None:
    write(text)
    assert any(said in line for line in problems()), problems()


def test_every_problem_is_told() -> None:
    write("port = -1\nhots = 'x'\n[limits]\nmax_calls = 'many'\n")
    keys = {line.split(": ")[1] for line in problems()}
    assert keys == {"port", "hots", "limits.max_calls"}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("FORETHOUGHT_PROT", "1", "FORETHOUGHT_PROT: there is no such setting; did you mean port?"),
        ("FORETHOUGHT_PORT", "x", "environment: FORETHOUGHT_PORT: Input should be a valid integer"),
        ("FORETHOUGHT_LIMITS__MAX", "1", "FORETHOUGHT_LIMITS__MAX: there is no such setting"),
        ("FORETHOUGHT_LIMITS", "{", "not JSON"),
        ("FORETHOUGHT_CONFIG", "absent.toml", "absent.toml: No such file or directory"),
    ],
)
def test_wrong_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert any(said in line for line in problems()), problems()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("default_strategy = 'best_of'", "default_strategy: there is no 'best_of'; there are "),
        ("default_verifier = 'x'", "default_verifier: there is no 'x'; there are "),
        ("[verifiers.a]\nmeasure = 'mean'", "verifiers.a.type: is missing; there are "),
        ("[verifiers.a]\ntype = 'logprob'\nwindow = 0", "verifiers.a.window: Input should be"),
        ("[verifiers.a]\ntype = 'judge'\nengine = 'x'", "verifiers.a.engine: there is no 'x'"),
        ("[presets.a]\nstrategy = 'x'", "presets.a.strategy.type: there is no 'x'"),
        ("[presets.a.strategy]\ntype = 'best_of_n'\nn = 0", "presets.a.strategy.n: Input should"),
        ("[presets.a]\nstrategy = 'single'\nmodel = 'x'", "presets.a.model: there is no 'x'"),
        ("[presets.a]\nstrategy = 'single'\nverifier = 'x'", "presets.a.verifier.name: there is"),
        ("[engines.main]\nengine = 'scripted'", "engines.main: that is the name of the engine"),
    ],
)
def test_names_that_do_not_exist(text: str, said: str) -> None:
    write(text)
    assert any(line.startswith(said) for line in problems()), problems()


def test_configured_verifiers_and_presets_are_taken() -> None:
    write(
        '[verifiers.sure]\ntype = "logprob"\nmeasure = "self_certainty"\n'
        '[engines.small]\nengine = "scripted"\n'
        '[presets.careful]\nmodel = "small"\nverifier = "sure"\nbudget = {max_tokens = 100}\n'
        'strategy = {type = "weighted_vote", n = 16}\n'
    )
    settings = load_settings()
    check_settings(settings)
    preset = settings.presets["careful"]
    assert preset.strategy == {"type": "weighted_vote", "n": 16}
    assert preset.verifier == {"name": "sure"}
    assert preset.budget == {"max_tokens": 100}


def test_tables_are_read_before_anything_starts(tmp_path: Path) -> None:
    good = {
        "provenance": {},
        "probes": 4,
        "intercept": 0.5,
        "features": {},
        "thresholds": [],
        "rows": [{"max_tokens": 1, "choices": [[{"type": "self_consistency", "n": 8}]]}],
    }
    path = tmp_path / "mine.json"
    settings = Settings(engine="scripted", tables={"mine": path})
    assert "mine" in problems(settings)[-1]
    path.write_text(json.dumps(good))
    assert {"mine", "gsm8k"} <= set(read_tables(settings))
    path.write_text(json.dumps({**good, "probes": 0}))
    assert "tables.mine.probes: " in problems(settings)[-1]
    choice = {"type": "self_consistency", "n": 8, "temprature": 1}
    path.write_text(json.dumps({**good, "rows": [{"max_tokens": 1, "choices": [[choice]]}]}))
    assert "tables.mine.temprature: " in problems(settings)[-1]
