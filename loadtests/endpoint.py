"""An OpenAI-compatible endpoint as the recorder asks it: one sample a request, all about it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Annotated, Any

import httpx
from annotated_types import MinLen
from pydantic import BaseModel, ValidationError

from loadtests.pools import Sample
from verifiers.types import FinishReason, JSONObject

TOP_LOGPROBS = 20
_SECONDS = 1_200.0
_DEADLINE_SECONDS = 600
"""Of our own server's budget: its default would cut what waits for its turn."""
_ATTEMPTS = 5
_PASSING = (408, 409, 425, 429)
"""Refusals that asking again may mend, as may every 5xx."""


class RequestFailed(Exception):
    """A sample was not given, in one sentence. `passing`: asking again may help."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


class Endpoint:
    """Where samples come from. `async with endpoint:` opens it and finds out whose server it is."""

    def __init__(self, url: str, *, logprobs: bool | None = None, first_pause: float = 1.0) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._first_pause = first_pause
        key = os.environ.get("FORETHOUGHT_BENCH_KEY") or os.environ.get("OPENAI_API_KEY")
        self._client = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(_SECONDS, connect=10.0),
            limits=httpx.Limits(max_connections=None),
            headers={"authorization": f"Bearer {key}"} if key else {},
        )
        self._ours = False
        self._logprobs = logprobs
        """Whether to ask for log-probabilities; None until a first request was answered."""

    async def __aenter__(self) -> Endpoint:
        """Ask whether it is Forethought. Raises RequestFailed where nothing answers."""
        try:
            listed = await self._client.get("/v1/strategies")
        except httpx.TransportError as error:
            await self._client.aclose()
            raise RequestFailed(f"nothing answers at {self.url}", passing=True) from error
        self._ours = listed.status_code == httpx.codes.OK
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def sample(self, body: JSONObject, problem: str, number: int) -> Sample:
        """Draw one sample; passing failures are tried again, at doubling intervals.

        Raises:
            RequestFailed: it was refused, or failed each time.
        """
        for attempt in range(_ATTEMPTS):
            try:
                start = time.monotonic()
                answer = await self._ask(body)
                return _sample(
                    answer, problem, number, body["seed"], round(time.monotonic() - start, 2)
                )
            except RequestFailed as failure:
                if not failure.passing or attempt + 1 == _ATTEMPTS:
                    raise
            await asyncio.sleep(self._first_pause * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _ask(self, body: JSONObject) -> _Answer:
        response = await self._post(body, logprobs=self._logprobs is not False)
        if response.status_code == httpx.codes.BAD_REQUEST and self._logprobs is None:
            response = await self._post(body, logprobs=False)
            if response.is_success:
                self._logprobs = False
        elif response.is_success and self._logprobs is None:
            self._logprobs = True
        if not response.is_success:
            status = response.status_code
            reason = f"status {status}: {response.text[:300]}"
            raise RequestFailed(reason, passing=status in _PASSING or status >= 500)
        try:
            answer = _Answer.model_validate_json(response.content)
        except ValidationError as error:
            fault = error.errors()[0]
            reason = f"not a chat completion: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            raise RequestFailed(reason, passing=True) from error
        cut = answer.scaling is not None and answer.scaling.stopped_by == "deadline"
        if cut and "deadline_s" not in body.get("budget", {}):
            raise RequestFailed("the server's deadline cut the reply", passing=True)
        return answer

    async def _post(self, body: JSONObject, *, logprobs: bool) -> httpx.Response:
        asked = dict(body)
        if logprobs:
            asked |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        cap = body.get("max_completion_tokens") or body.get("max_tokens")
        if self._ours and cap:
            own = body.get("budget", {"max_tokens": max(16, cap)})
            asked["budget"] = {"deadline_s": _DEADLINE_SECONDS, **own}
        try:
            return await self._client.post("/v1/chat/completions", json=asked)
        except httpx.HTTPError as error:
            raise RequestFailed(str(error) or type(error).__name__, passing=True) from error


class _Likely(BaseModel):
    logprob: float


class _Token(BaseModel):
    token: str
    logprob: float
    top_logprobs: list[_Likely] = []


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: FinishReason
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Scaling(BaseModel):
    stopped_by: str | None = None


class _Answer(BaseModel):
    """What is read of a chat completion."""

    choices: Annotated[list[_Choice], MinLen(1)]
    usage: _Usage
    scaling: _Scaling | None = None


def _sample(answer: _Answer, problem: str, number: int, seed: Any, seconds: float) -> Sample:
    choice = answer.choices[0]
    tokens = (choice.logprobs and choice.logprobs.content) or []
    text = choice.message.content or ""
    return Sample(
        problem,
        number,
        text,
        choice.finish_reason,
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        lengths=token_lengths([each.token for each in tokens], text),
        logprobs=tuple(round(each.logprob, 3) for each in tokens),
        confidence=_confidence(tokens),
        seconds=seconds,
        seed=seed,
    )


def token_lengths(tokens: Sequence[str], text: str) -> tuple[int, ...]:
    """Return each token's characters in the text; the end token has none. Empty: no match."""
    if "".join(tokens) == text:
        return tuple(map(len, tokens))
    if tokens and "".join(tokens[:-1]) == text:
        return (*map(len, tokens[:-1]), 0)
    return ()


def _confidence(tokens: Sequence[_Token]) -> tuple[float, ...]:
    """Return minus the mean of each token's highest log-probabilities; empty where not given."""
    if not all(each.top_logprobs for each in tokens):
        return ()
    return tuple(
        round(-sum(top.logprob for top in each.top_logprobs) / len(each.top_logprobs), 2)
        for each in tokens
    )
