"""Events in words, for clients that show nothing but text."""

from __future__ import annotations

from strategies.budget import Stage
from strategies.events import Event, EventKind


def describe_event(event: Event) -> str:
    """Return a line about the event, empty where it says nothing to a reader."""
    data = event.data
    match event.kind:
        case EventKind.SAMPLED if data["stage"] == Stage.SAMPLE:
            return f"Sample {data['id']}: {data['tokens']} tokens\n"
        case EventKind.FAILED:
            return f"Sample {data['id']} failed\n"
        case EventKind.SCORED if not data["abstained"]:
            return f"Sample {data['id']} scores {data['score']:.3f}\n"
        case EventKind.PRUNED:
            return f"Sample {data['id']} stopped after {data['tokens']} tokens\n"
        case EventKind.VOTED:
            return _votes(event)
        case EventKind.CHOSEN if data["strategy"] is not None:
            return f"Goes on with {data['strategy']['type']}\n"
        case _:
            return ""


def _votes(event: Event) -> str:
    classes, abstentions = event.data["classes"], event.data["abstentions"]
    voters = sum(each["votes"] for each in classes) + abstentions
    if not classes:
        return f"{voters} samples, none has an answer that can be compared\n"
    best = classes[0]
    return f"{voters} samples, {best['votes']} agree on {best['answer']}\n"
