"""State and timers of one's own: visits to a web site, which end after half an hour without a click.

It prints:

    anna: 3 pages in 25 min
    ben: 1 page in 0 min
"""

from __future__ import annotations

from dataclasses import dataclass

from streams import App, ProcessContext, State
from streams.testing import TestDriver

MINUTE = 60_000


@dataclass
class Click:
    user: str
    at: int
    page: str


class Visit(State):
    began: int = 0
    ended: int = 0
    pages: int = 0


app = App("visits")
clicks = app.stream("clicks", value=Click, timestamp=lambda c: c.at).key_by(lambda c: c.user)


@clicks.process(state=Visit)
def visits(click: Click, visit: Visit, ctx: ProcessContext) -> None:
    if not visit.pages:
        visit.began = ctx.time
    visit.ended = ctx.time
    visit.pages += 1
    ctx.timer("idle", after="30m")  # replaces the one that the click before has set


@visits.on_timer("idle")
def close(visit: Visit, ctx: ProcessContext) -> None:
    minutes = (visit.ended - visit.began) // MINUTE
    ctx.emit(f"{visit.pages} page{'s' * (visit.pages > 1)} in {minutes} min")
    visit.clear()


visits.to("visits")

if __name__ == "__main__":
    with TestDriver(app) as t:
        for user, minute, page in [("anna", 0, "/"), ("ben", 5, "/"), ("anna", 10, "/shop"), ("anna", 25, "/pay")]:
            t.send("clicks", Click(user, minute * MINUTE, page))
        t.send_watermark("clicks", 60 * MINUTE)  # nothing before 1:00 comes any more
        for user, visit in sorted(t.outputs("visits")):
            print(f"{user}: {visit}")
