"""Rollouts of a running Forethought, or of any server with OpenAI's API."""

from __future__ import annotations

from typing import Any

from server.engines.http import HTTPEngine
from training.rollouts.base import RolloutError, RolloutSettings
from training.rollouts.engine import EngineRollouts, Refresh
from training.rollouts.loop_thread import LoopThread


def open_http(settings: RolloutSettings) -> EngineRollouts:
    """Connect to the server. Raises EngineError where it does not answer."""
    url, model = settings.url, settings.model
    assert url is not None, "the settings were validated"
    assert model is not None, "the settings were validated"
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    return EngineRollouts(settings, lambda: HTTPEngine.start(url, model, api_key=key), _unchanging)


def _unchanging(engine: HTTPEngine) -> Refresh:
    """Refuse new weights: no OpenAI API takes them."""

    def refresh(loop: LoopThread, model: Any, step: int) -> None:  # noqa: ARG001
        raise RolloutError(
            f"the server of {engine.model!r} takes no new weights over HTTP: publish and promote "
            "an adapter in the checkpoint store that it watches, or draw with backend 'vllm'"
        )

    return refresh
