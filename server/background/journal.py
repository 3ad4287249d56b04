"""The events of a background request, followed by clients: from any replica, and from any place."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from server.background.form import Form
from server.background.work import Work, Works
from server.store.base import Store
from server.store.streams import Item
from server.streaming import HEARTBEAT, error_frame
from verifiers.errors import ForethoughtError
from verifiers.types import JSONObject

_PAGE = 1_000


async def follow(
    store: Store, works: Works, form: Form, work: Work, after: int, heartbeat_s: float
) -> AsyncGenerator[bytes, None]:
    """Yield what a client is sent that has the events up to `after`, up to the end.

    Events of a worker that was thought dead, and writes on while another has begun, are left out.
    """
    reader = _Reader(after)
    try:
        if after > 0:
            reader.told(await store.streams.read(work.id, after=after - 1, limit=1))
        while not reader.ended:
            wait_s = 0.0 if work.ended else heartbeat_s
            items = await store.streams.read(work.id, after=reader.after, wait_s=wait_s)
            frames = b"".join(form.frame(*each) for each in reader.told(items))
            if not items or reader.ended:
                work = await works.find(work.kind, work.id, work.record.owner)
            if reader.ended or (work.ended and not items and wait_s == 0):
                # Without its mark where a worker died between the end and the telling of it.
                frames += form.frame(reader.place, form.last(work))
                reader.ended = True
            yield frames or HEARTBEAT
        yield form.end
    except ForethoughtError as error:  # deleted meanwhile, or the store is away
        yield error_frame(error, work.id)


async def past_events(store: Store, work_id: str) -> list[JSONObject]:
    """Read all events until now that a client would see."""
    reader = _Reader(0)
    events: list[JSONObject] = []
    while items := await store.streams.read(work_id, after=reader.after, limit=_PAGE):
        events += [event for _, event in reader.told(items)]
    return events


class _Reader:
    """How far a stream was read."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.ended = False
        self._turn = 0

    @property
    def place(self) -> int:
        """The number of the last event: its mark's, or the one behind all there is."""
        return self.after if self.ended else self.after + 1

    def told(self, items: Sequence[Item]) -> list[tuple[int, JSONObject]]:
        """Take in items; return the events among them that count, with their numbers."""
        events = []
        for number, value in items:
            self.after = number
            if value["turn"] < self._turn:
                continue
            self._turn = value["turn"]
            self.ended |= "end" in value
            if "event" in value:
                events.append((number, value["event"]))
        return events
