"""Asks a worker for its health, all the time, and notes what it says and how long it takes.

What must live here: asking.  What must not: what a worker should say.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError

from tests.guarantees.kafka.fleet import FleetWorker

__all__ = ["Answer", "Watch", "ask", "watched"]

BETWEEN_S = 0.25
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """at_s: when it was asked, on the monotonic clock.  status: what it said of itself, or why there is no answer.
    tasks: the phase of each."""

    at_s: float
    took_s: float
    status: str
    tasks: dict[str, str]

    @property
    def well(self) -> bool:
        """It says that it works, and that it hears from whom it should hear."""
        return self.status == "ok" and "connecting" not in self.tasks.values()

    def __str__(self) -> str:
        return f"{self.status} {self.tasks}"


def ask(worker: FleetWorker) -> Answer:
    """Its answer, whatever it says; if it gives none, that is the answer."""
    at_s = time.monotonic()
    try:
        with urllib.request.urlopen(f"{worker.address}/health", timeout=PATIENCE_S) as answer:
            found: dict[str, Any] = json.load(answer)
    except HTTPError as error:  # not well, as it says by its status too
        found = json.load(error)
    except OSError as error:
        found = {"status": f"no answer: {error}", "tasks": {}}
    return Answer(at_s, time.monotonic() - at_s, found["status"], found["tasks"])


class Watch:
    """answers: of each worker that is watched, in order."""

    def __init__(self, workers: list[FleetWorker]) -> None:
        self.answers: dict[FleetWorker, list[Answer]] = {worker: [] for worker in workers}
        self._over = threading.Event()

    def noticed_s(self, since_s: float) -> float | None:
        """How long after ``since_s`` the last of them has said that it isn't well; None if not all have."""
        found = [next((each.at_s - since_s for each in self._unwell(worker, since_s)), None) for worker in self.answers]
        known = [each for each in found if each is not None]
        return max(known) if len(known) == len(found) else None

    def took_back(self, since_s: float, until_s: float) -> list[Answer]:
        """Answers until ``until_s`` that all is well, of workers that had said since ``since_s`` that it isn't."""
        found = []
        for worker, answers in self.answers.items():
            first = next(self._unwell(worker, since_s), None)
            if first is not None:
                later = [each for each in answers if first.at_s < each.at_s]
                found += [each for each in later if each.well and each.at_s + each.took_s < until_s]
        return found

    def _unwell(self, worker: FleetWorker, since_s: float) -> Iterator[Answer]:
        return (each for each in self.answers[worker] if each.at_s >= since_s and not each.well)

    def watch(self, worker: FleetWorker) -> None:
        """Ask it until the end."""
        answers = self.answers[worker]
        while not self._over.wait(BETWEEN_S):
            answers.append(ask(worker))

    def end(self) -> None:
        self._over.set()


@contextmanager
def watched(workers: list[FleetWorker]) -> Iterator[Watch]:
    """They are asked meanwhile, until ``end``: a worker that leaves doesn't answer for ever."""
    watch = Watch(workers)
    threads = [threading.Thread(target=watch.watch, args=[worker], daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        watch.end()
        for thread in threads:
            thread.join(PATIENCE_S)
