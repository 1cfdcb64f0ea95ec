"""How to test an app: no broker, no event loop to manage, and time is yours.

Run it with pytest; on its own it prints:

    test_a_reminder_is_sent_to_those_who_did_not_pay: passed
    test_who_has_paid_is_left_alone: passed
"""

from __future__ import annotations

from streams import App, ProcessContext, State
from streams.testing import TestDriver


class Bill(State):
    open: bool = False


app = App("billing")


@app.stream("bills", value=str).process(state=Bill)
def remind(event: str, bill: Bill, ctx: ProcessContext) -> None:
    bill.open = event == "sent"
    ctx.timer("due", after="14d")


@remind.on_timer("due")
def due(bill: Bill, ctx: ProcessContext) -> None:
    if bill.open:
        ctx.emit("please pay")


remind.to("reminders")


def test_a_reminder_is_sent_to_those_who_did_not_pay() -> None:
    with TestDriver(app) as t:
        t.send("bills", "sent", key="anna", timestamp=0)
        t.send_watermark("bills", 13 * 86_400_000)
        assert t.outputs("reminders") == []
        t.send_watermark("bills", 15 * 86_400_000)
        assert t.outputs("reminders") == [("anna", "please pay")]


def test_who_has_paid_is_left_alone() -> None:
    with TestDriver(app) as t:
        t.send("bills", "sent", key="anna", timestamp=0)
        t.send("bills", "paid", key="anna", timestamp=5 * 86_400_000)
        t.send_watermark("bills", 30 * 86_400_000)
        assert t.outputs("reminders") == []


if __name__ == "__main__":
    for test in (test_a_reminder_is_sent_to_those_who_did_not_pay, test_who_has_paid_is_left_alone):
        test()
        print(f"{test.__name__}: passed")
