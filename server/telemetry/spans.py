"""What spans of a run say: attributes, and the events of the run as spans below it."""

from __future__ import annotations

from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from server.telemetry.base import Run
from strategies.budget import Stage
from strategies.events import Event, EventKind

_PROVIDER = "forethought"


def workflow_attributes(run: Run) -> dict[str, AttributeValue]:
    """Return what is known of a run before it begins."""
    told: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.workflow.name": run.name,
        "gen_ai.request.model": run.model,
        "gen_ai.response.id": run.id,
        "gen_ai.request.choice.count": run.n,
        "forethought.verifier": run.verifier,
        "forethought.budget.max_tokens": run.request.ledger.budget.max_tokens,
        "forethought.budget.max_calls": run.request.ledger.budget.max_calls,
        "forethought.budget.deadline_s": run.request.ledger.budget.deadline_s,
    }
    if run.sampling is not None:
        told |= {
            "gen_ai.request.max_tokens": run.sampling.max_tokens,
            "gen_ai.request.temperature": run.sampling.temperature,
            "gen_ai.request.top_p": run.sampling.top_p,
            "gen_ai.request.seed": run.sampling.seed,
        }
    return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, slots=True)
class RunSpan:
    """A run that has ended, on its way into spans."""

    tracer: Tracer
    span: Span
    run: Run
    received: int
    """When the request came in, in nanoseconds of Unix time."""

    def finish(self) -> None:
        """Say what it cost and how it ended, and make spans of samples and scores."""
        self._costs()
        below = trace.set_span_in_context(self.span)
        for event in self.run.request.events.events:
            match event.kind:
                case EventKind.SAMPLED | EventKind.FAILED:
                    self._sample(event, below)
                case EventKind.SCORED:
                    self._score(event, below)
                case EventKind.FINISHED:
                    self._finished(event)
                case _:
                    self._note(event)

    def _costs(self) -> None:
        ledger = self.run.request.ledger
        total = ledger.total
        self.span.set_attributes(
            {
                "gen_ai.usage.input_tokens": total.prompt_tokens,
                "gen_ai.usage.cache_read.input_tokens": total.cached_tokens,
                "gen_ai.usage.output_tokens": total.completion_tokens,
                "forethought.queue_seconds": self.run.request.ticket.waited,
            }
        )
        for stage in Stage:
            usage = ledger.usage[stage]
            self.span.set_attributes(
                {
                    f"forethought.{stage}.calls": usage.calls,
                    f"forethought.{stage}.output_tokens": usage.completion_tokens,
                }
            )
        if ledger.stopped_by is not None:
            self.span.set_attribute("forethought.stopped_by", str(ledger.stopped_by))

    def _sample(self, event: Event, below: Context) -> None:
        data = event.data
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _PROVIDER,
            "gen_ai.request.model": data["model"],
            "forethought.candidate.id": data["id"],
        }
        if event.kind is EventKind.SAMPLED:
            attributes["forethought.stage"] = str(data["stage"])
            attributes["gen_ai.usage.output_tokens"] = data["tokens"]
            attributes["gen_ai.response.finish_reasons"] = (data["finish_reason"] or "unfinished",)
            if data["parent"] is not None:
                attributes["forethought.candidate.parent"] = data["parent"]
        span = self._child(f"chat {data['model']}", SpanKind.CLIENT, event, attributes, below)
        if event.kind is EventKind.FAILED:
            span.set_attribute("error.type", data["type"])
            span.set_status(StatusCode.ERROR)
        span.end(self._moment(event.seconds))

    def _score(self, event: Event, below: Context) -> None:
        data = event.data
        name = self.run.verifier or "verifier"
        attributes: dict[str, AttributeValue] = {
            "gen_ai.evaluation.name": name,
            "forethought.candidate.id": data["id"],
            "forethought.abstained": data["abstained"],
        }
        if not data["abstained"]:
            attributes["gen_ai.evaluation.score.value"] = data["score"]
        span = self._child(f"score {name}", SpanKind.INTERNAL, event, attributes, below)
        span.end(self._moment(event.seconds))

    def _finished(self, event: Event) -> None:
        """Keep how it ended; the answer itself is what a model said."""
        self.span.set_attribute("forethought.choices", len(event.data["choices"]))
        if (agreement := event.data["agreement"]) is not None:
            self.span.set_attribute("forethought.agreement", agreement)

    def _note(self, event: Event) -> None:
        """Keep what took no time as an event of the span."""
        told: dict[str, AttributeValue] = {}
        match event.kind:
            case EventKind.PRUNED:
                told["forethought.candidate.id"] = event.data["id"]
            case EventKind.VOTED:
                told["forethought.classes"] = len(event.data["classes"])
                told["forethought.abstentions"] = event.data["abstentions"]
            case EventKind.CHOSEN if event.data["strategy"] is not None:
                told["gen_ai.workflow.name"] = event.data["strategy"]["type"]
        self.span.add_event(str(event.kind), told, self._moment(event.seconds))

    def _child(
        self,
        name: str,
        kind: SpanKind,
        event: Event,
        attributes: dict[str, AttributeValue],
        below: Context,
    ) -> Span:
        began = event.seconds if event.began is None else event.began
        return self.tracer.start_span(name, below, kind, attributes, start_time=self._moment(began))

    def _moment(self, seconds: float) -> int:
        return self.received + int(seconds * 1e9)
