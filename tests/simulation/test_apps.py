"""The apps that the simulator torments leave no operator out."""

from __future__ import annotations

import importlib
import pkgutil

from streams import operators
from streams.operators.base import Operator
from streams.operators.matching import Matching
from streams.operators.process import Process
from streams.testing import sim_app, sim_errands


def every(kind: type[Operator]) -> set[type[Operator]]:
    return {kind}.union(*map(every, kind.__subclasses__()))


def test_every_operator_is_in_an_app_that_is_simulated() -> None:
    for module in pkgutil.iter_modules(operators.__path__):
        importlib.import_module(f"streams.operators.{module.name}")
    known = {each for each in every(Operator) if each.__module__.startswith("streams.")} - {Operator}
    apps = [sim_app.make_app(), sim_errands.make_app()]
    found = {type(node) for app in apps for each in app.build().subtopologies for node in each.nodes}
    # Topics by a pattern are a merge of the sources that there are at the start.
    assert known - found == {Matching}
    assert Process in found


def test_what_else_an_app_has_is_simulated_too() -> None:
    app = sim_errands.make_app()
    blueprint = app.build()
    assert blueprint.outboxes, "a topic on another log"
    assert {bool(timer.cron) for timer in app.timers if timer.topic is not None} == {True, False}
    assert any(timer.topic is None for timer in app.timers), "a timer of each worker"
    assert len(app.agents) >= 3, "agents that call each other"
