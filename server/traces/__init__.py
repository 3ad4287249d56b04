"""Traces: what every recorded run did, event by event.

base.py        what a trace is listed by, and the protocol of what keeps them
sqlite.py      in an SQLite file of their own
shared.py      in the store, where replicas share them
recording.py   which runs are recorded, and for how long
routes.py      `/v1/traces`
"""

from server.traces.base import Filter, Summary, TraceError, Traces
from server.traces.sqlite import TraceStore

__all__ = ["Filter", "Summary", "TraceError", "TraceStore", "Traces"]
