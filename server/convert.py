"""From the body of a request to an order: a strategy, and a session for it to run on.

Everything that can be refused is refused here, before the engine does any work.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import to_json

from server.identity import ANYONE, Identity
from server.prompt import check_powers, make_prompt
from server.resolve import (
    Judge,
    Target,
    check_available,
    choose_budget,
    choose_judge,
    choose_strategy,
    choose_target,
    targets,
)
from server.state import State
from server.wire import ChatRequest
from strategies.base import Need, Strategy
from strategies.budget import Budget, Ledger
from strategies.events import EventLog
from strategies.request import Request
from strategies.selection import drawn
from strategies.session import Session
from verifiers.errors import BadRequest
from verifiers.types import Engine, Prompt, Sampling

TEMPLATE_TOKENS = 2048
"""More than a chat template adds by itself: a default system prompt, how to call tools."""


@dataclass(frozen=True, slots=True)
class Order:
    """One request, understood: what runs, on what, and how the client wants to be answered."""

    id: str
    """Of the response and of the trace."""
    created: int
    """Unix time."""
    wire: ChatRequest
    model: str
    name: str
    """The strategy's."""
    strategy: Strategy
    judge: Judge
    session: Session
    request: Request
    sampling: Sampling
    prompt_tokens: int
    """0 where the engine cannot tell, or was not asked because the prompt surely fits."""
    engine: Engine
    """What answers."""

    @property
    def n(self) -> int:
        """Answers that the client wants."""
        return self.session.n


async def take_order(
    wire: ChatRequest,
    state: State,
    path: str | None,
    received: float,
    plain: Prompt | None = None,
    identity: Identity = ANYONE,
) -> Order:
    """Understand a request; `path` is the strategy in the URL, `received` of `time.monotonic()`.

    `plain` is what is asked in place of the messages, where no chat template is wanted. A budget
    that the request does not name is at most what the key of `identity` allows.

    Raises:
        BadRequest and its kinds: something in the request cannot be served.
        EngineError: the engine cannot count the prompt.
    """
    target = choose_target(targets(state), wire.model)
    strategy = choose_strategy(state, path, target.preset, wire.strategy)
    judge = choose_judge(state, strategy, target.preset, wire.verifier)
    cap = _cap(wire, state)
    least = cap * (wire.n or 1)
    budget = choose_budget(
        state, target.preset, wire.budget, wire.reasoning_effort, least, identity.quota
    )
    check_available(state, strategy[1], judge, target.engine.capabilities)
    strategy[1].check(state.service)
    _check_shape(wire, state, strategy[1])
    if plain is None:
        most = state.settings.limits.max_messages
        prompt = make_prompt(wire, target, most, wire.reasoning_effort)
    else:
        prompt = replace(plain, adapter=target.adapter)
    check_powers(prompt, target.engine.capabilities)
    judge.admit(prompt)
    prompt_tokens = 0
    if wire.dry_run or not _surely_fits(prompt, cap, target.engine):
        prompt_tokens = await target.engine.count_tokens(prompt)
        cap = _fit(cap, target.engine, prompt_tokens)
    for name in sorted(strategy[1].engines()):
        cap = await _fit_elsewhere(prompt, cap, state.service.engines[name])
    if (wire.min_tokens or 0) > cap:
        raise BadRequest(f"a reply has at most {cap} tokens here", param="min_tokens")
    _check_restarts(wire, strategy)
    sampling = _sampling(wire, cap, target, strategy[1], judge)
    ledger = Ledger(budget, received=received)
    events = EventLog(lambda: ledger.seconds)
    request = Request(
        state.service,
        ledger,
        events,
        judge.verifier,
        judge.fields,
        cache_salt=identity.cache_salt,
    )
    return Order(
        f"chatcmpl-{secrets.token_hex(12)}",
        int(time.time()),
        wire,
        target.name,
        *strategy,
        judge,
        Session(request, target.engine, prompt, sampling, n=wire.n or 1),
        request,
        sampling,
        prompt_tokens,
        target.engine,
    )


def dry_run(order: Order) -> dict[str, Any]:
    """Say the most that the order could spend."""
    budget = order.request.ledger.budget
    worst = order.strategy.worst_case(
        order.n, order.sampling.max_tokens, order.judge.verifier, budget
    )
    return {
        "id": order.id,
        "object": "chat.completion.dry_run",
        "created": order.created,
        "model": order.model,
        "strategy": order.name,
        "parameters": order.strategy.model_dump(exclude={"type"}),
        "verifier": order.judge.name,
        "budget": described(budget),
        "prompt_tokens": order.prompt_tokens,
        "worst_case": worst._asdict(),
    }


def describe(order: Order) -> dict[str, Any]:
    """Return what a trace keeps of the request itself."""
    wire, sampling, prompt = order.wire, order.sampling, order.session.prompt
    return {
        "kind": "completion" if prompt.plain else "chat",
        "created": order.created,
        "model": order.model,
        "adapter": prompt.adapter,
        "strategy": order.name,
        "parameters": order.strategy.model_dump(mode="json", exclude={"type"}),
        "verifier": order.judge.name,
        "verifier_fields": dict(order.judge.fields),
        "budget": described(order.request.ledger.budget),
        "n": order.n,
        "messages": prompt.messages,
        "tools": prompt.tools,
        "tool_choice": prompt.tool_choice,
        "response_format": prompt.response_format,
        "max_completion_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "metadata": wire.metadata,
        "tokens": order.request.ledger.total.completion_tokens,
        "drawn": drawn(order.request),
    }


def described(budget: Budget) -> dict[str, Any]:
    """Write a budget down."""
    return {
        "max_tokens": budget.max_tokens,
        "max_calls": budget.max_calls,
        "deadline_s": budget.deadline_s,
    }


def _check_shape(wire: ChatRequest, state: State, strategy: Strategy) -> None:
    if wire.stream_options is not None and not wire.stream:
        raise BadRequest("`stream_options` needs `stream: true`", param="stream_options")
    n, most = wire.n or 1, state.settings.limits.max_samples
    if strategy.at_once(n) > most:
        raise BadRequest(
            f"this server draws at most {most} samples at once for a request",
            param=width_field(strategy),
        )
    if n > (choices := strategy.choices(n)):
        raise BadRequest(f"this strategy gives at most {choices} answers", param="n")


def width_field(strategy: Strategy) -> str:
    """Name the field of the request that says how many samples are drawn."""
    if "n" in type(strategy).model_fields:
        return "strategy.n"
    return "strategy" if strategy.parts() else "n"


def _check_restarts(wire: ChatRequest, strategy: tuple[str, Strategy]) -> None:
    """Refuse what counts from the start of a reply where the strategy goes on with replies."""
    if Need.CONTINUATION not in strategy[1].required():
        return
    for name in ("presence_penalty", "frequency_penalty", "min_tokens", "thinking_token_budget"):
        if getattr(wire, name):
            raise BadRequest(f"{strategy[0]!r} grows replies by pieces: not with this", param=name)


def _cap(wire: ChatRequest, state: State) -> int:
    """Return the longest reply that the client allows, in tokens."""
    most = state.settings.limits.max_completion_tokens
    for name in ("max_completion_tokens", "max_tokens"):
        asked: int | None = getattr(wire, name)
        if asked is not None and asked > most:
            raise BadRequest(f"this server allows at most {most}", param=name)
        if asked is not None:
            return asked
    return state.settings.default_max_completion_tokens


async def _fit_elsewhere(prompt: Prompt, cap: int, engine: Engine) -> int:
    """Check the prompt for another engine that the strategy asks, and clamp the cap."""
    asked = replace(prompt, adapter=None, template_arguments={})
    check_powers(asked, engine.capabilities)
    if _surely_fits(asked, cap, engine):
        return cap
    return _fit(cap, engine, await engine.count_tokens(asked))


def _surely_fits(prompt: Prompt, cap: int, engine: Engine) -> bool:
    """Whether prompt and reply fit even if every byte were a token: then nobody need count."""
    size = len(to_json((prompt.messages, prompt.tools, prompt.template_arguments)))
    return size + TEMPLATE_TOKENS + cap <= engine.capabilities.context_length


def _fit(cap: int, engine: Engine, prompt_tokens: int) -> int:
    """Clamp the cap to the room that the prompt leaves."""
    context = engine.capabilities.context_length
    if prompt_tokens >= context:
        raise BadRequest(
            f"the prompt has {prompt_tokens} tokens, prompt and reply may have {context} together",
            param="messages",
            code="context_length_exceeded",
        )
    return min(cap, context - prompt_tokens)


def _sampling(
    wire: ChatRequest, cap: int, target: Target, strategy: Strategy, judge: Judge
) -> Sampling:
    seed = wire.seed
    if seed is None and wire.temperature == 0 and strategy.samples(wire.n or 1) > 1:
        seed = 0  # many clients send 0 for "the best you have", and want the same answer again
    deadline_given = wire.budget is not None and wire.budget.deadline_s is not None
    return Sampling(
        cap,
        temperature=wire.temperature,
        top_p=wire.top_p,
        top_k=wire.top_k,
        min_p=wire.min_p,
        repetition_penalty=wire.repetition_penalty,
        presence_penalty=wire.presence_penalty,
        frequency_penalty=wire.frequency_penalty,
        logit_bias=wire.logit_bias,
        min_tokens=wire.min_tokens,
        ignore_eos=wire.ignore_eos,
        stop=_words(wire.stop),
        stop_token_ids=tuple(wire.stop_token_ids or ()),
        bad_words=tuple(wire.bad_words or ()),
        thinking_token_budget=wire.thinking_token_budget,
        seed=seed,
        logprobs=_logprobs(wire, target, strategy, judge),
        # A deadline that cuts should cut where the tokens can be counted.
        incremental=deadline_given and target.engine.capabilities.counts_live,
    )


def _logprobs(wire: ChatRequest, target: Target, strategy: Strategy, judge: Judge) -> int | None:
    """Ask for what the client wants, what the verifier needs and what breaks ties."""
    given = target.engine.capabilities.logprobs
    if wire.top_logprobs and not wire.logprobs:
        raise BadRequest("`top_logprobs` needs `logprobs: true`", param="top_logprobs")
    asked = (wire.top_logprobs or 0) if wire.logprobs else None
    if asked is not None and given is None:
        raise BadRequest("this engine gives no log-probabilities", param="logprobs")
    if asked is not None and given is not None and asked > given:
        raise BadRequest(f"this engine gives at most {given}", param="top_logprobs")
    wanted = [asked]
    if judge.verifier is not None:
        wanted.append(judge.verifier.logprobs)
    n = wire.n or 1
    if given is not None and (strategy.samples(n) > n or Need.LOGPROBS in strategy.required()):
        wanted.append(0)
    return max((each for each in wanted if each is not None), default=None)


def _words(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())
