"""How a request is understood: names, parameters, budget, sampling; and what the answer says."""

import math
import time
from dataclasses import replace
from typing import Any

import pytest
from pydantic_core import to_json

from server.body import parse_chat_request
from server.convert import Order, dry_run, take_order
from server.engines.scripted import ScriptedEngine
from server.reply import _message, completion, finish_reason
from server.settings import Settings
from strategies.base import run
from tests.server.local import QUESTION, make_state
from verifiers.errors import BadRequest, UnknownModel
from verifiers.types import Candidate, Capabilities, Message

ABLE = ScriptedEngine().capabilities
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
PRESETS = {
    "wise": {"strategy": {"type": "self_consistency", "n": 5}, "budget": {"max_calls": 99}},
    "checked": {
        "strategy": "best_of_n",
        "verifier": {"name": "math", "reference": "42"},
        "model": "small",
    },
}


async def order(
    path: str | None = None, able: Capabilities = ABLE, settings: Any = None, **body: Any
) -> Order:
    wire = parse_chat_request(to_json({"messages": QUESTION, **body}))
    known = Settings(
        engine="scripted",
        engines={"small": {"engine": "scripted"}},
        **{"presets": PRESETS, **(settings or {})},
    )
    engine = ScriptedEngine(capabilities=able, model="big")
    state = make_state(engine, known, others={"small": ScriptedEngine(model="little")})
    return await take_order(wire, state, path, time.monotonic())


async def refused(*args: Any, **body: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        await order(*args, **body)
    return caught.value


async def answer(**body: Any) -> dict[str, Any]:
    taken = await order(**body)
    return completion(taken, await run(taken.strategy, taken.session, taken.request))


@pytest.mark.parametrize(
    ("path", "body", "name", "n"),
    [
        (None, {}, "single", None),
        (None, {"strategy": "best_of_n"}, "best_of_n", 8),
        (None, {"strategy": {"type": "best_of_n", "n": 3}}, "best_of_n", 3),
        ("best_of_n", {}, "best_of_n", 8),
        ("best_of_n", {"strategy": {"n": 2}}, "best_of_n", 2),
        ("best_of_n", {"strategy": "best_of_n"}, "best_of_n", 8),
        (None, {"model": "wise"}, "self_consistency", 5),
        (None, {"model": "wise", "strategy": {"n": 2}}, "self_consistency", 2),
        ("self_consistency", {"model": "wise"}, "self_consistency", 5),
        (None, {"model": "wise", "strategy": "self_consistency"}, "self_consistency", 5),
    ],
)
async def test_path_preset_and_body_name_the_strategy(
    path: str | None, body: dict[str, Any], name: str, n: int | None
) -> None:
    taken = await order(path, **body)
    assert taken.name == name
    assert taken.strategy.model_dump().get("n") == n


async def test_names_that_differ_are_refused() -> None:
    for path, body in [
        ("single", {"strategy": "best_of_n"}),
        ("single", {"model": "wise"}),
        (None, {"model": "wise", "strategy": "single"}),
    ]:
        assert (await refused(path, **body)).param == "strategy"


async def test_auto_is_another_name_of_compute_optimal() -> None:
    for taken in (
        await order(strategy="auto"),
        await order("auto"),
        await order("compute_optimal"),
    ):
        assert taken.name == "compute_optimal"
    both = await order("auto", strategy={"type": "compute_optimal", "n": 5})
    assert both.strategy.model_dump()["n"] == 5


@pytest.mark.parametrize(
    ("model", "engine", "name"),
    [
        (None, "big", "big"),
        ("big", "big", "big"),
        ("main", "big", "big"),
        ("small", "little", "little"),
        ("little", "little", "little"),
        ("checked", "little", "checked"),
        ("lora@1", "big", "lora@1"),
    ],
)
async def test_what_a_model_can_name(model: str | None, engine: str, name: str) -> None:
    taken = await order(model=model, able=replace(ABLE, adapters=("lora@1",)))
    assert taken.session._engine.model == engine
    assert taken.model == name
    assert taken.session.prompt.adapter == (name if "lora" in name else None)


async def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(UnknownModel):
        await order(model="nope")


async def test_verifiers_come_from_body_preset_and_default() -> None:
    assert (await order(strategy="best_of_n")).judge.name == "logprob"
    assert (await order(strategy="single")).judge.verifier is None
    taken = await order(model="checked")
    assert (taken.judge.name, taken.judge.fields) == ("math", {"reference": "42"})
    taken = await order(model="checked", verifier={"reference": "7"})
    assert taken.judge.fields == {"reference": "7"}
    taken = await order(model="checked", verifier="logprob")
    assert (taken.judge.name, taken.judge.fields) == ("logprob", {})
    assert (await refused(strategy="best_of_n", verifier="math")).param == "verifier.reference"


async def test_budget_parts_are_filled_in() -> None:
    settings = {"budget": {"max_tokens": 1000, "max_calls": 10, "deadline_s": 5}}
    budget = (await order(budget={"max_tokens": 200}, settings=settings)).request.ledger.budget
    assert (budget.max_tokens, budget.max_calls, budget.deadline_s) == (200, 10, 5)
    budget = (await order(model="wise", settings=settings)).request.ledger.budget
    assert (budget.max_tokens, budget.max_calls) == (1000, 99)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"reasoning_effort": "low"}, 1024),
        ({"reasoning_effort": "medium"}, 3000),
        ({"reasoning_effort": "high"}, 5000),
        ({"reasoning_effort": "minimal"}, 2000),
        ({"reasoning_effort": "low", "budget": {"max_tokens": 99}}, 99),
        ({"reasoning_effort": "low", "budget": {"max_calls": 9}}, 1024),
        ({"reasoning_effort": "low", "max_completion_tokens": 700}, 1024),
        ({"reasoning_effort": "low", "max_completion_tokens": 1500}, 1500),
        ({"reasoning_effort": "low", "n": 3, "strategy": "best_of_n"}, 3072),
        ({"reasoning_effort": "low", "model": "thrifty"}, 1024),
        ({"model": "thrifty"}, 500),
        ({}, 2000),
    ],
)
async def test_effort_sets_the_budget_of_tokens_where_the_request_names_none(
    body: dict[str, Any], tokens: int
) -> None:
    settings = {
        "reasoning_effort": {"medium": 3000},
        "budget": {"max_tokens": 2000},
        "limits": {"max_tokens": 5000},
        "presets": {"thrifty": {"strategy": "single", "budget": {"max_tokens": 500}}},
    }
    assert (await order(settings=settings, **body)).request.ledger.budget.max_tokens == tokens


async def test_the_new_name_of_the_length_wins_and_the_context_clamps() -> None:
    assert (await order()).sampling.max_tokens == 1024
    assert (await order(max_tokens=5)).sampling.max_tokens == 5
    assert (await order(max_tokens=5, max_completion_tokens=7)).sampling.max_tokens == 7
    short = replace(ABLE, context_length=100)
    assert (await order(able=short)).sampling.max_tokens == 100 - 5
    error = await refused(messages=[{"role": "user", "content": "x " * 100}], able=short)
    assert (error.param, error.code) == ("messages", "context_length_exceeded")


@pytest.mark.parametrize(
    ("body", "seed"),
    [
        ({}, None),
        ({"seed": 5}, 5),
        ({"temperature": 0}, None),
        ({"temperature": 0, "n": 2}, 0),
        ({"temperature": 0, "strategy": "best_of_n"}, 0),
        ({"temperature": 0, "strategy": "best_of_n", "seed": 3}, 3),
        ({"temperature": 1, "strategy": "best_of_n"}, None),
    ],
)
async def test_seeds(body: dict[str, Any], seed: int | None) -> None:
    assert (await order(**body)).sampling.seed == seed


@pytest.mark.parametrize(
    ("body", "most", "logprobs"),
    [
        ({}, 20, None),
        ({"logprobs": True}, 20, 0),
        ({"logprobs": True, "top_logprobs": 4}, 20, 4),
        ({"strategy": "self_consistency"}, 20, 0),
        ({"strategy": "self_consistency", "logprobs": True, "top_logprobs": 4}, 20, 4),
        ({"strategy": "self_consistency"}, None, None),
        ({"strategy": "best_of_n", "verifier": "logprob"}, 20, 0),
        ({"n": 3}, 20, None),
    ],
)
async def test_logprobs_are_what_somebody_needs(
    body: dict[str, Any], most: int | None, logprobs: int | None
) -> None:
    assert (await order(able=replace(ABLE, logprobs=most), **body)).sampling.logprobs == logprobs


async def test_a_clients_own_deadline_needs_live_counts() -> None:
    able = replace(ABLE, counts_live=True)
    assert (await order(able=able, budget={"deadline_s": 3})).sampling.incremental
    assert not (await order(able=able)).sampling.incremental
    unable = replace(ABLE, counts_live=False)
    assert not (await order(able=unable, budget={"deadline_s": 3})).sampling.incremental


@pytest.mark.parametrize(
    ("able", "body", "param"),
    [
        ({"logprobs": None}, {"logprobs": True}, "logprobs"),
        ({"logprobs": 2}, {"logprobs": True, "top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": None}, {"strategy": "best_of_n"}, "verifier"),
        ({"tools": False}, {"tools": [TOOL]}, "tools"),
        ({"grammars": False}, {"response_format": {"type": "json_object"}}, "response_format"),
        ({}, {"tools": [TOOL, TOOL]}, "tools"),
        (
            {},
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice.function.name",
        ),
    ],
)
async def test_what_the_engine_cannot_do(
    able: dict[str, Any], body: dict[str, Any], param: str
) -> None:
    assert (await refused(able=replace(ABLE, **able), **body)).param == param


async def test_every_sampling_field_arrives() -> None:
    body = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "logit_bias": {"5": 1.0},
        "min_tokens": 2,
        "ignore_eos": True,
        "thinking_token_budget": 9,
        "seed": 4,
    }
    sampling = (await order(**body, stop="\n", stop_token_ids=[3], bad_words=["no"])).sampling
    assert {name: getattr(sampling, name) for name in body} == body
    assert (sampling.stop, sampling.stop_token_ids) == (("\n",), (3,))
    assert sampling.bad_words == ("no",)
    assert not sampling.keep_stop


async def test_messages_become_what_templates_read() -> None:
    messages = [
        {"role": "developer", "content": "Be brief.", "name": None},
        *QUESTION,
        {"role": "assistant", "content": "42", "refusal": None, "annotations": []},
    ]
    prompt = (await order(messages=messages)).session.prompt
    assert [dict(each) for each in prompt.messages] == [
        {"role": "system", "content": "Be brief."},
        *QUESTION,
        {"role": "assistant", "content": "42"},
    ]


async def test_template_arguments_and_formats() -> None:
    prompt = (
        await order(
            chat_template_kwargs={"enable_thinking": False},
            reasoning_effort="low",
            response_format={"type": "text"},
            tools=[TOOL],
            parallel_tool_calls=False,
        )
    ).session.prompt
    assert prompt.template_arguments == {"enable_thinking": False, "reasoning_effort": "low"}
    assert prompt.response_format is None
    assert prompt.tools == (TOOL,)
    assert prompt.parallel_tool_calls is False


async def test_dry_runs_do_nothing() -> None:
    taken = await order(
        strategy={"type": "best_of_n", "n": 4}, max_tokens=10, budget={"max_calls": 3}
    )
    assert dry_run(taken)["worst_case"] == {"samples": 3, "tokens": 30}
    assert not taken.session._engine.log  # type: ignore[attr-defined]


async def test_usage_counts_the_prompt_once_and_everything_that_was_generated() -> None:
    body = await answer(strategy={"type": "self_consistency", "n": 4}, include=["candidates"])
    candidates = body["scaling"]["candidates"]
    usage = body["usage"]
    generated = sum(each["tokens"] for each in candidates)
    [chosen] = [
        each for each in candidates if each["content"] == body["choices"][0]["message"]["content"]
    ]
    assert len(candidates) == 4
    assert usage["prompt_tokens"] == 5
    assert usage["completion_tokens"] == generated
    assert usage["total_tokens"] == 5 + generated
    hidden = usage["completion_tokens_details"]["reasoning_tokens"]
    assert hidden == generated - chosen["tokens"]
    stage = body["scaling"]["usage"]["sample"]
    assert (stage["calls"], stage["completion_tokens"]) == (4, generated)
    assert stage["prompt_tokens"] == 4 * 5
    assert stage["exact"] is True
    assert body["scaling"]["trace_id"] == body["id"]


async def test_judges_are_counted_in_their_stage() -> None:
    body = await answer(strategy={"type": "best_of_n", "n": 3}, verifier="judge")
    assert body["scaling"]["usage"]["verify"]["calls"] >= 3
    assert body["usage"]["completion_tokens"] == sum(
        stage["completion_tokens"] for stage in body["scaling"]["usage"].values()
    )


async def test_the_n_best_come_best_first() -> None:
    body = await answer(strategy={"type": "best_of_n", "n": 5}, n=3)
    scores = body["scaling"]["scores"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert scores == sorted(scores, reverse=True)
    assert all(math.isfinite(score) for score in scores)


async def test_log_probabilities_only_for_those_who_asked() -> None:
    body = await answer(strategy="best_of_n")
    assert body["choices"][0]["logprobs"] is None
    body = await answer(strategy="best_of_n", logprobs=True, top_logprobs=2)
    content = body["choices"][0]["logprobs"]["content"]
    text = body["choices"][0]["message"]["content"]
    assert "".join(entry["token"] for entry in content) == text
    assert {len(entry["top_logprobs"]) for entry in content} == {2}
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == text


async def test_a_spent_budget_is_told_beside_the_finish_reason() -> None:
    body = await answer(
        strategy={"type": "self_consistency", "n": 8}, budget={"max_calls": 3}, seed=1
    )
    assert body["scaling"]["stopped_by"] == "calls"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert finish_reason(Candidate("0", finish_reason=None)) == "length"


def test_reasoning_is_told_under_both_names_or_not_at_all() -> None:
    choice = Candidate("0", message=Message("42", "6 times 7"))
    told = _message(choice, reasoning=True)
    assert told["reasoning"] == told["reasoning_content"] == "6 times 7"
    assert _message(choice, reasoning=False).keys() == {"role", "content", "refusal"}


def two_stages(*stages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "cascade", "stages": list(stages), **more}


VOTE = {"strategy": {"type": "self_consistency", "n": 3}}


@pytest.mark.parametrize(
    ("stage", "param"),
    [
        ({"strategy": "nope"}, "strategy.stages.1.strategy"),
        ({"strategy": {"type": "nope"}}, "strategy.stages.1.strategy.type"),
        ({"strategy": {"n": 2}}, "strategy.stages.1.strategy.type"),
        ({"strategy": {"type": "best_of_n", "n": "2"}}, "strategy.stages.1.strategy.n"),
        ({"strategy": {"type": "best_of_n", "m": 2}}, "strategy.stages.1.strategy.m"),
        ({"strategy": "single", "engine": "nope"}, "strategy.stages.1.engine"),
        ({"strategy": "single", "engine": "http://127.0.0.1"}, "strategy.stages.1.engine"),
        ({"strategy": "single", "url": "http://127.0.0.1"}, "strategy.stages.1.url"),
        (
            {"strategy": two_stages(VOTE, {"strategy": {"type": "single", "n": 1}})},
            "strategy.stages.1.strategy.stages.1.strategy.n",
        ),
        (
            {"strategy": two_stages(VOTE, {"strategy": "single", "engine": "nope"})},
            "strategy.stages.1.strategy.stages.1.engine",
        ),
        (
            {"strategy": {"type": "compute_optimal", "table": "nope"}},
            "strategy.stages.1.strategy.table",
        ),
    ],
)
async def test_what_is_wrong_in_an_inner_strategy_is_named(
    stage: dict[str, Any], param: str
) -> None:
    assert (await refused(strategy=two_stages(VOTE, stage))).param == param


async def test_what_is_wrong_in_an_agents_strategy_is_named() -> None:
    wrong = {"type": "mixture", "inner": {"type": "best_of_n", "n": 0}}
    assert (await refused(strategy=wrong)).param == "strategy.inner.n"


async def test_an_inner_strategys_needs_are_the_whole_ones() -> None:
    scored = two_stages(VOTE, {"strategy": "best_of_n"})
    assert (await order(strategy=scored)).judge.name == "logprob"
    assert (await refused(strategy=two_stages(VOTE, VOTE), verifier="logprob")).param == "verifier"
    steps = two_stages(VOTE, {"strategy": "beam"})
    assert (await refused(strategy=steps, min_tokens=3)).param is not None
    error = await refused(strategy=two_stages(VOTE, VOTE), settings={"limits": {"max_samples": 5}})
    assert (error.param, "at most 5" in error.message) == ("strategy", True)


async def test_dry_run_of_a_nested_strategy() -> None:
    plan = two_stages(VOTE, {"strategy": {"type": "best_of_n", "n": 5}, "engine": "small"})
    told = dry_run(await order(strategy=plan, dry_run=True, max_completion_tokens=100))
    assert told["worst_case"] == {"samples": 8, "tokens": 800}
    assert told["parameters"]["stages"][1]["strategy"]["type"] == "best_of_n"
    assert (told["strategy"], told["verifier"]) == ("cascade", "logprob")
    assert to_json(told)


async def test_another_engine_has_to_be_able_to_answer() -> None:
    plan = two_stages(VOTE, {"strategy": "single", "engine": "small"})
    short = ScriptedEngine(model="little", capabilities=replace(ABLE, context_length=60))
    mute = ScriptedEngine(model="little", capabilities=replace(ABLE, tools=False))
    for small, body, param in (
        (short, {"messages": [{"role": "user", "content": "word " * 70}]}, "messages"),
        (mute, {"tools": [TOOL]}, "tools"),
    ):
        state = make_state(ScriptedEngine(), others={"small": small})
        told = {"messages": QUESTION, "strategy": plan, **body}
        with pytest.raises(BadRequest) as caught:
            await take_order(parse_chat_request(to_json(told)), state, None, time.monotonic())
        assert caught.value.param == param
    state = make_state(ScriptedEngine(), others={"small": short})
    wire = parse_chat_request(to_json({"messages": QUESTION, "strategy": plan}))
    assert (await take_order(wire, state, None, time.monotonic())).sampling.max_tokens == 60 - 5


async def test_a_cascade_answers_over_another_engine() -> None:
    plan = two_stages(VOTE, {**VOTE, "engine": "small"}, accept={"minimum_agreement": 1.0})
    answered = await answer(strategy=plan, seed=1)
    assert answered["scaling"]["strategy"] == "cascade"
    assert answered["scaling"]["usage"]["sample"]["calls"] == 6
    assert answered["scaling"]["agreement"] is not None
