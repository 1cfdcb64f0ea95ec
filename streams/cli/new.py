"""``streams new``: a small project that runs, with a test that passes."""

from __future__ import annotations

import json as json_module
import re
from pathlib import Path
from typing import Annotated

import typer

from streams.cli.options import AsJson
from streams.cli.output import json_line
from streams.errors import ConfigurationError

__all__ = ["new"]

_APP = '''\
"""Orders come in, their totals per customer go out and stand in a table."""

from __future__ import annotations

import msgspec

from streams import App, agg, tumbling

app = App({app!r})


class Order(msgspec.Struct):
    customer: str
    amount: float


class Total(msgspec.Struct):
    customer: str
    amount: float


orders = app.stream("orders", value=Order, on_error="dead_letter")
by_customer = orders.filter(lambda order: order.amount > 0).key_by(lambda order: order.customer)
totals = app.table("totals", key=str, value=float, default=float)


@app.agent(by_customer, sinks=["order-totals"])
async def add_up(orders):
    async for order in orders:
        totals[order.customer] += order.amount
        yield Total(order.customer, totals[order.customer])


(
    by_customer.window(tumbling("1h"), grace="5m")
    .aggregate(orders=agg.count(), amount=agg.sum("amount"))
    .final()
    .to("orders-per-hour")
)
'''

_TEST = """\
from __future__ import annotations

from {package}.app import Order, app
from streams.testing.driver import TestDriver


def test_totals_add_up_per_customer() -> None:
    with TestDriver(app) as t:
        t.send("orders", Order("ann", 5.0))
        t.send("orders", Order("bob", 2.0))
        t.send("orders", Order("ann", 7.5))
        assert t.table("totals") == {{"ann": 12.5, "bob": 2.0}}


def test_an_order_that_is_no_order_goes_to_the_dead_letters() -> None:
    with TestDriver(app) as t:
        t.send_bytes("orders", b"not json")
        t.send("orders", Order("ann", 1.0))
        assert len(t.outputs("orders.dead-letters")) == 1
        assert t.table("totals") == {{"ann": 1.0}}


def test_an_hour_is_reported_once_it_is_over() -> None:
    with TestDriver(app) as t:
        hour = t.now_ms() // 3_600_000 * 3_600_000
        t.send("orders", Order("ann", 5.0), timestamp=hour + 1)
        t.send("orders", Order("ann", 6.0), timestamp=hour + 2)
        t.send_watermark("orders", hour + 2 * 3_600_000)
        [(key, result)] = t.outputs("orders-per-hour")
        assert (key, result["orders"], result["amount"]) == ("ann", 2, 11.0)
"""

_README = """\
# {name}

Orders come in on a topic; totals per customer stand in a table and go out on another, exactly once.

```
pip install -e '.[test]'
pytest                                                              # no broker, no waiting
streams topology -A {package}.app                                   # what it does
streams worker -A {package}.app --port 6066                         # run it: Ctrl-C commits and stops
```

In another terminal:

```
streams send orders -A {package}.app '{{"customer": "ann", "amount": 5}}'
streams tail order-totals -A {package}.app
streams tables -A {package}.app totals ann
streams lag -A {package}.app
curl localhost:6066/tables/totals/ann
```

The log lies in `.streams/`. Kill the worker at any moment: the next start goes on from its last commit.
"""

_PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = {name}
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["streams-log"]

[project.optional-dependencies]
test = ["pytest"]

[tool.setuptools]
packages = [{package}]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
"""


def new(
    name: Annotated[str, typer.Argument(help="The project: a folder of that name is made.")],
    json: AsJson = False,
) -> None:
    """Make a project: an app with an agent, a table and a window, its tests, and a README."""
    folder = Path(name)
    label = folder.name
    package = re.sub(r"\W", "_", label).lower()
    if (
        not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", label)
        or not package.isidentifier()
        or package in ("streams", "tests")
    ):
        raise ConfigurationError(f"{name!r} can't name a project; begin with a letter, then letters, digits, - and _")
    files = {
        "README.md": _README.format(name=label, package=package),
        "pyproject.toml": _PROJECT.format(name=json_module.dumps(label), package=json_module.dumps(package)),
        ".gitignore": ".streams/\n__pycache__/\n.pytest_cache/\n*.egg-info/\n",
        f"{package}/__init__.py": "",
        f"{package}/app.py": _APP.format(app=package),
        "tests/test_app.py": _TEST.format(package=package),
    }
    try:
        folder.mkdir(parents=True)
        for path, text in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except FileExistsError:
        raise ConfigurationError(f"{folder} is there already; choose another name") from None
    except OSError as error:
        raise ConfigurationError(f"{folder}: can't be written ({error.strerror}); choose another place") from error
    if json:
        json_line({"folder": str(folder), "files": sorted(files)})
    else:
        print(f"made {folder}: cd {folder} && pytest, then streams worker -A {package}.app")
