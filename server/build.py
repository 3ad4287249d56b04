"""From settings to everything that runs, and back to nothing when the server ends.

find_models   fetch what the engines load; may take minutes, and Ctrl-C ends it at once
open_state    start the engines, build the verifiers, open store and traces; close all at the end
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

from server.background import working as background
from server.batches.worker import working
from server.cache.fingerprint import fingerprint
from server.checkpoints.configured import CHECKPOINT
from server.checkpoints.in_flight import InFlight
from server.checkpoints.policies import checkpoint_model
from server.configuration import ConfigurationError
from server.consistency import build_verifiers, check, read_tables
from server.engines.http import HTTPEngine
from server.engines.http_upstream import Upstream
from server.engines.scripted import ScriptedEngine
from server.following import make_exchange, make_watcher
from server.keys.ring import KeyRing
from server.metrics import Metrics, ObservedStore
from server.models import ModelDirectory, Progress, SilentProgress, resolve
from server.models.catalogue import read_catalogue
from server.plugins import find_classes
from server.promoted import follows, library_of, promoted_checkpoints
from server.settings import MAIN_ENGINE, EngineSettings, Settings
from server.state import State
from server.store.opening import MEMORY, opened
from server.telemetry.opening import open_tracing
from server.traces.recording import opened_traces
from strategies.admission import Admission
from strategies.request import Service
from verifiers.base import Verifier
from verifiers.equality import AnswerEquality
from verifiers.errors import EngineError
from verifiers.types import Engine

CPU_SLOTS = 32
"""Where a CPU's throughput stops growing with the batch."""
SLOTS = 256
VLLM_LOGGING = Path(__file__).with_name("vllm_logging.json")


def check_settings(settings: Settings) -> None:
    """Check what can be checked before anything is fetched or started. Raises ConfigurationError.

    What is wrong in the settings is told in a second, not after the model is loaded.
    """
    strategies, verifiers = find_classes(settings.plugins)
    check(settings, strategies, build_verifiers(settings, verifiers))
    read_tables(settings)


def find_models(settings: Settings, progress: Progress | None = None) -> dict[str, ModelDirectory]:
    """Fetch the models that vLLM is to load, and import vLLM; by the engine's name.

    Raises:
        ModelError: a model cannot be had.
        ConfigurationError: vLLM is not installed.
    """
    progress = progress or SilentProgress()
    found = {}
    for name, engine in _engines(settings).items():
        if engine.engine == "vllm":
            found[name] = _find_model(settings, engine, progress)
    if found:
        with progress.stage("Importing vLLM"):
            _import_vllm(settings)
    return found


@asynccontextmanager
async def open_state(
    settings: Settings,
    models: Mapping[str, ModelDirectory],
    progress: Progress | None = None,
) -> AsyncIterator[State]:
    """Start everything that the settings ask for; it is closed when the block ends.

    Raises:
        ConfigurationError: the settings do not fit together.
        EngineError: an engine does not start.
        VerifierError: a verifier does not.
        TraceError: the file for traces cannot be used.
        StoreError: the store cannot.
    """
    progress = progress or SilentProgress()
    strategies, judges = find_classes(settings.plugins)
    promoted = promoted_checkpoints(settings)
    verifiers = build_verifiers(settings, judges, promoted)
    check(settings, strategies, verifiers)
    tables = read_tables(settings)
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(aclosing(open_tracing(settings.telemetry)))
        store = await stack.enter_async_context(opened(settings.store or MEMORY))
        traces = await stack.enter_async_context(opened_traces(settings.traces, store))
        equality = await stack.enter_async_context(aclosing(AnswerEquality()))
        engines = await _start_engines(settings, models, progress, stack)
        await equality.start()
        admission = _admission(settings)
        in_flight = InFlight()
        metrics = Metrics(admission, strategies, engines)
        watched = ObservedStore(store, metrics.store)
        state = State(
            settings=settings,
            service=Service(engines, equality, admission, tables),
            strategies=strategies,
            verifiers=verifiers,
            metrics=metrics,
            traces=traces,
            exchange=make_exchange(settings, judges, engines, models, verifiers, in_flight),
            store=watched,
            keys=KeyRing(watched.records, settings.keys),
            models={
                name: library_of(settings).find(each.checkpoint)
                for name, each in models.items()
                if each.checkpoint is not None
            },
            in_flight=in_flight,
            tracing=tracing,
            fingerprint=await asyncio.to_thread(fingerprint, settings, engines, models, tables),
        )
        watcher = make_watcher(state)
        await watcher.begin(promoted.values())
        for name, verifier in verifiers.items():
            stack.push_async_callback(_close, verifiers, name)
            with progress.stage(f"Starting verifier {name}"):
                await verifier.start()
        if follows(settings):
            await stack.enter_async_context(watcher.watching(settings.checkpoints_poll_s))
        await stack.enter_async_context(aclosing(state.flights))
        await stack.enter_async_context(working(state))
        await stack.enter_async_context(background.working(state))
        yield state


async def _start_engines(
    settings: Settings,
    models: Mapping[str, ModelDirectory],
    progress: Progress,
    stack: AsyncExitStack,
) -> dict[str, Engine]:
    """Start all engines, to be closed with the stack. Raises EngineError."""
    engines: dict[str, Engine] = {}
    for name, engine in _engines(settings).items():
        with progress.stage(f"Starting engine {name} ({engine.engine})"):
            try:
                started = await start_engine(engine, models.get(name))
            except EngineError as error:
                place = engine.upstream or engine.engine
                raise EngineError(f"engine {name} ({place}): {error.message}") from error
        engines[name] = await stack.enter_async_context(aclosing(started))
    return engines


async def _close(verifiers: Mapping[str, Verifier], name: str) -> None:
    """Close the verifier that has this name by now."""
    await verifiers[name].aclose()


def _find_model(settings: Settings, engine: EngineSettings, progress: Progress) -> ModelDirectory:
    catalogue = read_catalogue()
    wanted = engine.model or catalogue.default
    if not wanted.startswith(CHECKPOINT):
        return resolve(wanted, progress, catalogue=catalogue)
    with progress.stage(f"Verifying {wanted}"):
        return checkpoint_model(library_of(settings), wanted.removeprefix(CHECKPOINT), catalogue)


async def start_engine(settings: EngineSettings, model: ModelDirectory | None) -> Engine:
    """Start one engine; `model` is what vLLM loads. Raises EngineError."""
    match settings.engine:
        case "scripted":
            return ScriptedEngine(
                model=settings.model or "scripted",
                delay=settings.delay_s,
                adapter_slots=settings.options.adapter_slots,
            )
        case "http":
            return await _start_http(settings)
        case "vllm":
            from server.engines.vllm import VLLMEngine

            assert model is not None, "find_models finds one for each vLLM engine"
            options = settings.options
            if options.tool_parser is None:
                options = options.model_copy(update={"tool_parser": model.tool_parser})
            return await VLLMEngine.start(model.path, model.name, options)


async def _start_http(settings: EngineSettings) -> HTTPEngine:
    assert settings.upstream is not None, "the settings were validated"
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    model = settings.model or await _only_model(settings.upstream, key)
    return await HTTPEngine.start(settings.upstream, model, api_key=key)


async def _only_model(url: str, key: str | None) -> str:
    async with aclosing(Upstream(url, api_key=key)) as upstream:
        listed = await upstream.get("/models")
    match listed:
        case {"data": [{"id": str(name)}]}:
            return name
        case {"data": [{"id": _}, *_] as cards}:
            names = ", ".join(str(card.get("id")) for card in cards)
            raise ConfigurationError([f"model: {url} has {names}; name one of them"])
    raise ConfigurationError([f"model: {url} does not list its models; name one"])


def _engines(settings: Settings) -> dict[str, EngineSettings]:
    return {MAIN_ENGINE: settings, **settings.engines}


def _import_vllm(settings: Settings) -> None:
    """Import vLLM, with less to say than it has by default."""
    os.environ.setdefault(
        "VLLM_LOGGING_LEVEL", "DEBUG" if settings.log_level == "debug" else "WARNING"
    )
    if settings.log_format == "json":  # vLLM's own processes read it too
        os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(VLLM_LOGGING))
    try:
        importlib.import_module("server.engines.vllm")
    except ImportError as error:
        raise ConfigurationError([f"engine: {error}"]) from error


def _admission(settings: Settings) -> Admission:
    chosen = settings.admission
    slots = chosen.slots or (CPU_SLOTS if _on_cpu(settings) else SLOTS)
    return Admission(slots, chosen.per_request or slots, chosen.queue_limit)


def _on_cpu(settings: Settings) -> bool:
    if settings.engine != "vllm":
        return False
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
