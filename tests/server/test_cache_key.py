"""What makes two requests the same: every field is held to change the key, or to leave it alone."""

import json
import shutil
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from server.body import parse_chat_request
from server.cache.fingerprint import fingerprint
from server.cache.key import answer_key, canonical
from server.convert import Order, take_order
from server.engines.scripted import ScriptedEngine
from server.models import ModelDirectory
from server.models.store import MARKER
from server.settings import Settings
from server.wire import ChatRequest
from strategies.allocation import shipped_tables
from tests.server.local import QUESTION, make_state
from verifiers.types import Prompt, Reply, Sampling

PRESETS = {
    "wise": {"strategy": {"type": "best_of_n", "n": 4}},
    "little": {"strategy": {"type": "best_of_n", "n": 4}, "model": "small"},
}
VERIFIERS = {"pattern": {"type": "regex"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
BASE: dict[str, Any] = {
    "messages": QUESTION,
    "strategy": {"type": "best_of_n", "n": 4},
    "verifier": {"name": "math", "reference": "42"},
    "temperature": 0.7,
    "tools": [TOOL],
}
SHIPPED = shipped_tables()
CHANGES: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is 6 times 8?"}],
    "model": "wise",
    "tools": None,
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_object"},
    "chat_template_kwargs": {"enable_thinking": False},
    "strategy": {"type": "best_of_n", "n": 5},
    "verifier": {"name": "math", "reference": "43"},
    "budget": {"max_tokens": 100},
    "include": ["candidates"],
    "max_completion_tokens": 100,
    "max_tokens": 100,
    "n": 2,
    "temperature": 0.8,
    "top_p": 0.5,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "logit_bias": {"5": 1},
    "seed": 1,
    "stop": "x",
    "logprobs": True,
    "reasoning_effort": "low",
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "min_tokens": 2,
    "ignore_eos": True,
    "stop_token_ids": [5],
    "bad_words": ["x"],
    "thinking_token_budget": 9,
}
"""Fields, each with a value that asks for another answer than BASE."""
SAME: dict[str, Any] = {
    "dry_run": False,
    "cache": {"ttl_s": 9},
    "trace": True,
    "background": False,
    "stream": True,
    "stream_options": {"include_usage": True},
    "modalities": ["text"],
    "include_reasoning": False,
    "user": "u",
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "auto",
    "safety_identifier": "s",
    "prompt_cache_key": "p",
    "verbosity": "low",
}
"""Fields that change how an answer is sent, or nothing."""


async def order(settings: dict[str, Any] | None = None, **body: Any) -> Order:
    known = Settings(
        engine="scripted",
        engines={"small": {"engine": "scripted"}},
        presets=PRESETS,
        **{"verifiers": VERIFIERS, **(settings or {})},
    )
    state = make_state(ScriptedEngine(), known, others={"small": ScriptedEngine(model="small")})
    asked = {key: value for key, value in {**BASE, **body}.items() if value is not None}
    wire = parse_chat_request(json.dumps(asked).encode())
    return await take_order(wire, state, None, time.monotonic())


def key(taken: Order, engine: str = "main", fingerprint: str = "f", owner: str = "o") -> str:
    return answer_key(taken, engine, fingerprint, owner)


def test_no_field_is_forgotten() -> None:
    assert not CHANGES.keys() & SAME.keys()
    assert CHANGES.keys() | SAME.keys() | {"top_logprobs"} == set(ChatRequest.model_fields)


async def test_every_field_that_asks_for_another_answer_changes_the_key() -> None:
    bodies = [{}, *({name: value} for name, value in CHANGES.items())]
    bodies.remove({"max_tokens": 100})  # the older name of the same cap
    bodies.append({"logprobs": True, "top_logprobs": 2})
    keys = [key(await order(**body)) for body in bodies]
    assert len(set(keys)) == len(bodies)
    assert key(await order(max_tokens=100)) == key(await order(max_completion_tokens=100))


@pytest.mark.parametrize("name", SAME)
async def test_fields_that_change_no_answer_leave_the_key_alone(name: str) -> None:
    body = {name: SAME[name]}
    if name == "stream_options":
        body["stream"] = True
    assert key(await order(**body)) == key(await order())


async def test_what_is_said_and_what_is_filled_in_are_the_same() -> None:
    said = await order(
        strategy={"n": 4, "type": "best_of_n", "temperature": None},
        verifier={"reference": "42", "name": "math"},
        budget={"max_tokens": 8192, "max_calls": 256, "deadline_s": 120},
        max_completion_tokens=1024,
        n=1,
        messages=[{"content": "What is 6 times 7?", "role": "user"}],
        model="scripted",
    )
    assert key(said) == key(await order())
    assert key(await order(temperature=1)) == key(await order(temperature=1.0))


async def test_zero_without_a_seed_is_seed_zero() -> None:
    assert key(await order(temperature=0)) == key(await order(temperature=0, seed=0))


async def test_what_no_request_says_changes_the_key() -> None:
    taken = await order(verifier={"name": "pattern", "pattern": "4"})
    calibrated = {"type": "regex", "calibration": {"kind": "temperature", "temperature": 2.0}}
    other = await order(
        {"verifiers": {"pattern": calibrated}}, verifier={"name": "pattern", "pattern": "4"}
    )
    keys = {
        key(taken),
        key(other),
        key(taken, engine="small"),
        key(taken, fingerprint="g"),
        key(taken, owner=""),
        key(replace(taken, name="weighted_vote")),
        key(replace(taken, model="other")),
    }
    assert len(keys) == 7


async def test_every_part_of_sampling_changes_the_key_but_for_who_reads_along() -> None:
    taken, keys = await order(), set()
    for field in fields(Sampling):
        value = getattr(taken.sampling, field.name)
        other = {bool: not value, tuple: ("x",), type(None): 1, int: 77, float: 0.123}[type(value)]
        change: dict[str, Any] = {field.name: other}
        changed = key(replace(taken, sampling=replace(taken.sampling, **change)))
        assert (changed == key(taken)) == (field.name == "incremental"), field.name
        keys.add(changed)
    assert len(keys) == len(fields(Sampling))


async def test_every_part_of_the_prompt_changes_the_key_but_the_engines_own_cache() -> None:
    changes: dict[str, Any] = {
        "messages": ({"role": "user", "content": "?"},),
        "tools": (),
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "response_format": {"type": "json_object"},
        "template_arguments": {"a": 1},
        "adapter": "name@0123456789ab",
        "cache_salt": "s",
        "reply": Reply("So"),
        "plain": True,
    }
    assert changes.keys() == {field.name for field in fields(Prompt)}
    whole = await order()
    prompt, before = whole.session.prompt, key(whole)
    for name, value in changes.items():
        whole.session.prompt = replace(prompt, **{name: value})
        assert (key(whole) == before) == (name == "cache_salt"), name


async def test_the_order_of_keys_counts_where_a_chat_template_may_show_it() -> None:
    def tool(*names: str) -> dict[str, Any]:
        properties = {name: {"type": "string"} for name in names}
        schema = {"type": "object", "properties": properties}
        return {"type": "function", "function": {"name": "look", "parameters": schema}}

    assert key(await order(tools=[tool("a", "b")])) != key(await order(tools=[tool("b", "a")]))


async def test_the_key_of_a_request_stays_what_it_is() -> None:
    """Change FORMAT where this has to change: what was kept would be read as something else."""
    taken = await order(tools=None, verifier={"name": "math", "reference": "½"})
    assert canonical(taken)["budget"] == {"max_tokens": 8192, "max_calls": 256, "deadline_s": 120}
    assert key(taken) == "cc684e6d7931f2362385088cfbe669262b1477a4bb7b627a6d85d591b9f82efb"


def test_weights_settings_and_tables_are_in_the_fingerprint(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "weights.safetensors").write_bytes(bytes(17 << 20))
    (model / ".cache").mkdir()

    def fingerprinted(name: str = "model", tables: Any = SHIPPED, **settings: Any) -> str:
        known = Settings(engine="scripted", **settings)
        engines = {"main": ScriptedEngine()}
        return fingerprint(known, engines, {"main": ModelDirectory(tmp_path / name, "m")}, tables)

    first = fingerprinted()
    (model / ".cache" / "when.json").write_text("today")
    (model / MARKER).write_text("yesterday")
    shutil.copytree(model, tmp_path / "copy")
    assert fingerprinted() == fingerprinted("copy") == first
    assert fingerprinted(options={"max_num_seqs": 8, "adapter_slots": 2}, host="::1") == first
    others = [
        fingerprinted(options={"dtype": "float32"}),
        fingerprinted(options={"engine_arguments": {"quantization": "fp8"}}),
        fingerprinted(model="other"),
        fingerprinted(tables={}),
    ]
    (model / "config.json").write_text("{ }")
    others.append(fingerprinted())
    with (tmp_path / "copy" / "weights.safetensors").open("r+b") as weights:
        weights.write(bytes(range(256)) * (17 << 12))  # as trained ones differ: everywhere
    others.append(fingerprinted("copy"))
    assert len({first, *others}) == 7
