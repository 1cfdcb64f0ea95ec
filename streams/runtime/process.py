"""A worker as a process: event loop, signals, endpoints, the ways in which it ends.

    build ──▶ open the log ──▶ endpoints ──▶ worker at work ──▶ stop, commit, release ──▶ close the log
                                                 first signal ┘        second signal: out at once

What must live here: what belongs to a process and not to a worker.  What must not: the command line (``cli.worker``).

A first SIGTERM or SIGINT asks the tasks to commit and let go.  A second one ends the process at once, and so does a
stop that takes too long: by a thread, since what hangs may be the event loop.  Neither loses anything: the next start
goes on from the last commit.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from streams.connectors.embedded.lock import read_holder
from streams.connectors.registry import open_log
from streams.core.capability import Durability
from streams.core.log import Log
from streams.core.membership import Member
from streams.core.telling import Counts, TellsOfPowerFailures
from streams.dsl.app import App
from streams.errors import ConfigurationError, ConnectionBroken, LogLocked, LogUnavailable, StreamsError
from streams.runtime.clock import SystemClock
from streams.runtime.door import published
from streams.runtime.driver import Phase
from streams.runtime.idle import Idle
from streams.runtime.metrics import edge_counters, log_counters
from streams.runtime.outages import Outages
from streams.runtime.places import is_shared, place
from streams.runtime.restore import Progress
from streams.runtime.serving import Serving
from streams.runtime.status import Status
from streams.runtime.stopping import StoppedEarly, unless_stopped
from streams.runtime.stores import RocksStores
from streams.runtime.worker import Worker

__all__ = ["Settings", "StoppedShort", "check_processes", "own_directory", "run_worker", "state_directory"]

logger = logging.getLogger("streams")

LOOK_S = 0.1
"""How often the process looks whether its worker has failed or is idle."""
LOOK_AT_START_S = 0.02
"""The same until all tasks run: what waits for that, the requests of clients first of all, begins at once."""
PATIENCE_S = 5.0
LONGEST_PAUSE_S = 2.0
"""Between two attempts to open a log whose server hangs up."""
GC_THRESHOLDS = (50_000, 20, 50)


class StoppedShort(StreamsError):
    """The worker stopped, but a task didn't commit what it had done."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker process runs.

    port: of the web endpoint on ``host``; None for none, 0 for any.  On a log that workers share there always is one,
    since they ask each other.  advertise: where the others reach it, as host or host:port; "" for where it listens.
    name: of this worker, so that one which comes back under it soon finds its tasks again; "" makes one up.
    until_idle: end once everything on the log is processed and committed.
    liveness_timeout_s: a task that makes no progress for so long is stuck.
    stop_timeout_s: how long tasks may take to commit and let go; two seconds more, and the process ends itself.
    """

    log_url: str
    host: str = "127.0.0.1"
    port: int | None = None
    advertise: str = ""
    name: str = ""
    until_idle: bool = False
    liveness_timeout_s: float = 120.0
    stop_timeout_s: float = 8.0
    uvloop: bool = True


def check_processes(log_url: str, processes: int) -> None:
    """Raise ConfigurationError where so many worker processes can't share the log."""
    if processes < 1:
        raise ConfigurationError(f"--processes {processes}: at least one process is needed")
    scheme = log_url.partition(":")[0]
    if processes > 1 and not is_shared(log_url):
        why = (
            "its lock, held by one process at a time, is what fences a stale worker"
            if scheme == "embedded"
            else "it lives in one process"
        )
        raise ConfigurationError(
            f"--processes {processes}: a log on {scheme}: serves one process ({why}); run one process, or move the "
            f"app to a log that workers can share"
        )


def run_worker(app: App, settings: Settings, progress: Progress) -> None:
    """Run ``app`` until it is stopped by a signal (or is idle).  Blocks; called from the main thread.

    Raises whatever failed the worker.  ``progress`` is told of restores.
    """
    app.build()  # what is wrong with the topology shows before anything is opened or created
    serving = Serving(app)
    log = open_log(settings.log_url)
    with asyncio.Runner(loop_factory=_loop_factory(settings)) as runner, _signals(runner, settings) as stop:
        runner.run(_run(app, log, serving, settings, progress, stop))


def state_directory(app: App, log: Log) -> Path | None:
    """Where the stores of an app lie: what the app says, or beside an embedded log; None for a log in memory.

    On a log that workers share each has a place of its own in there (``runtime.places``).
    """
    if app.state_dir is not None:
        return Path(app.state_dir)
    if log.capabilities.durable is Durability.NONE:
        return None
    scheme, _, path = log.url.partition(":")
    return Path(path) / "state" / app.name if scheme == "embedded" else Path(".streams") / "state" / app.name


@contextmanager
def own_directory(app: App, log: Log, name: str = "") -> Iterator[Path]:
    """A folder for stores that no other process uses inside of the block.  Raises ConfigurationError."""
    root = state_directory(app, log)
    if root is None:
        import tempfile  # here: a log in memory is for trying things out

        with tempfile.TemporaryDirectory(prefix="streams-") as temporary:
            yield Path(temporary)
    elif is_shared(log.url):
        with place(root, name) as folder:
            yield folder
    else:
        yield root


def _loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not settings.uvloop:
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


# ── signals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Stop:
    """Says when to stop: by a signal, or because the worker has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        self.event = asyncio.Event()
        self._loop = loop
        self._deadline_s = deadline_s
        self._watchdog: threading.Timer | None = None
        self._asked = False

    def on_signal(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._asked:
            _say(f"{name} again: stopped at once; what wasn't committed will be done again")
            os._exit(128 + number)
        self._asked = True
        _say(f"{name}: committing and leaving; once more stops at once")
        self.watch()
        with suppress(RuntimeError):  # the loop has just been closed: there is nothing left to stop
            self._loop.call_soon_threadsafe(self.event.set)

    def watch(self) -> None:
        """From now on the process has a deadline."""
        if self._watchdog is None:
            self._watchdog = threading.Timer(self._deadline_s, self._give_up)
            self._watchdog.daemon = True
            self._watchdog.start()

    def _give_up(self) -> None:
        _say(f"error: didn't come to an end within {self._deadline_s:g} s; what wasn't committed will be done again")
        os._exit(1)

    def over(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()


def _say(line: str) -> None:
    # Straight to the descriptor: a handler may come in the middle of a print.
    with suppress(OSError):  # a full disk, where stderr is a file on it
        os.write(2, f"streams: {line}\n".encode())


@contextmanager
def _signals(runner: asyncio.Runner, settings: Settings) -> Iterator[_Stop]:
    stop = _Stop(runner.get_loop(), settings.stop_timeout_s + 2.0)
    before = {number: signal.signal(number, stop.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        stop.over()
        for number, handler in before.items():
            signal.signal(number, handler)


# ── running ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _run(app: App, log: Log, serving: Serving, settings: Settings, progress: Progress, stop: _Stop) -> None:
    asyncio.get_running_loop().set_exception_handler(_tell)
    async with AsyncExitStack() as stack:
        stack.enter_context(suppress(StoppedEarly))
        await _open(log, stop)
        stack.push_async_callback(log.close)
        directory = stack.enter_context(own_directory(app, log, settings.name))
        status = await stack.enter_async_context(_endpoints(app, log, directory, settings, progress))
        worker = status.worker
        stack.push_async_callback(serving.close)  # what tasks answer when they commit for the last time is still sent
        try:
            async with worker.working(stop.event):
                status.working = True
                logger.info("app %s works on %s", app.name, log.url)
                failed = True
                try:
                    if isinstance(log, TellsOfPowerFailures):
                        told = await log.power_failure(app.name)
                        logger.log(logging.INFO if told.safe else logging.WARNING, "%s", told.text)
                    await _wait(status, serving, settings, stop)
                    failed = False
                finally:
                    status.stopping = True
                    stop.watch()
                    await serving.end(patient=not failed)
        finally:
            stop.watch()
        short = sorted(driver.id for driver in worker.drivers.values() if driver.phase is Phase.RUNNING)
        if short:
            raise StoppedShort(
                f"stopped, but {', '.join(short)} didn't come to commit within {settings.stop_timeout_s:g} s; that "
                f"work will be done again from the last commit"
            )


def _tell(loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
    """One line for an error that nobody was left to hear of, in place of a traceback of somebody else's code."""
    if os.environ.get("STREAMS_TRACEBACK", "") not in ("", "0"):
        loop.default_exception_handler(about)
        return
    error = about.get("exception")
    why = f": {type(error).__name__}: {' '.join(str(error).split())}" if error is not None else ""
    logger.warning("%s%s (STREAMS_TRACEBACK=1 shows the traceback)", about["message"], why)


async def _open(log: Log, stop: _Stop) -> None:
    """Open the log.  While only a tool holds it (a ``streams send``, say), wait a little for that to end; once a server
    was reached that hangs up, wait until it doesn't, or the start is cut short."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    pause_s = LOOK_S
    reached, outages = False, Outages()
    while True:
        try:
            # What is opened in this process is never cut short: it has nobody to wait for.
            await (unless_stopped(log.open(), stop.event) if is_shared(log.url) else log.open())
        except LogUnavailable as error:
            if not reached and not isinstance(error, ConnectionBroken):
                raise  # nobody is there: the address may be wrong
            reached = True
            outages.failed("opening the log", error)
            try:
                await unless_stopped(asyncio.sleep(pause_s * random.uniform(0.5, 1.0)), stop.event)
            except StoppedEarly:
                await log.close()
                raise
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        except StoppedEarly:
            await log.close()
            raise
        except LogLocked:
            # A worker has a control port as soon as it holds the log; a tool has none.
            scheme, _, path = log.url.partition(":")
            holder = read_holder(path) if scheme == "embedded" else None
            if (holder is not None and holder.port is not None) or loop.time() >= deadline or stop.event.is_set():
                raise
            await asyncio.sleep(LOOK_S)
        else:
            outages.works(log.url)
            return


@asynccontextmanager
async def _endpoints(
    app: App, log: Log, directory: Path, settings: Settings, progress: Progress
) -> AsyncIterator[Status]:
    """A worker, not started yet, with the endpoints that tell of it."""

    def note(task: str, done: int, total: int) -> None:
        status.note_restore(task, done, total)
        progress(task, done, total)

    stores = RocksStores(directory)
    worker = Worker(
        app,
        log,
        stores,
        SystemClock(),
        progress=note,
        liveness_timeout_s=settings.liveness_timeout_s,
        shutdown_timeout_s=settings.stop_timeout_s,
    )
    status = Status(worker, settings.liveness_timeout_s)
    if isinstance(log, Counts):
        worker.metrics.told.append(log_counters(log))
    worker.metrics.told.append(edge_counters(lambda: worker.outside.edges.values()))
    async with AsyncExitStack() as stack:
        publish = getattr(log, "publish_endpoint", None)
        if publish is not None:
            await stack.enter_async_context(published(status, publish))
        shared = is_shared(log.url)
        address = ""
        if settings.port is not None or shared:
            # Here: a worker that serves nobody does without.
            from streams.runtime.web import serve, web_app

            web = web_app(status, peers=shared)
            port = await stack.enter_async_context(serve(web, settings.host, settings.port or 0))
            logger.info("health, metrics and tables on http://%s:%d", settings.host, port)
            address = _address(settings, port) if shared else ""
        worker.member = Member(name=settings.name, address=address, stored=stores.stored())
        yield status


def _address(settings: Settings, port: int) -> str:
    """Where other workers reach this one, as host:port."""
    if settings.advertise:
        host, _, given = settings.advertise.rpartition(":")
        return settings.advertise if host and given.isdecimal() else f"{settings.advertise}:{port}"
    anywhere = settings.host in ("0.0.0.0", "::", "")
    return f"{socket.gethostname() if anywhere else settings.host}:{port}"


async def _wait(status: Status, serving: Serving, settings: Settings, stop: _Stop) -> None:
    """Return when the worker is to stop; raise what failed it."""
    worker = status.worker
    idle = Idle(worker)
    settled = False
    while not stop.event.is_set():
        worker.check()
        serving.check()
        if not settled and status.running:
            settled = True
            serving.start(worker)
            _settle_gc()
        if settings.until_idle and settled and await idle.look():
            logger.info("app %s: everything is processed and committed", worker.app.name)
            return
        try:
            await asyncio.wait_for(stop.event.wait(), LOOK_S if settled else LOOK_AT_START_S)
        except TimeoutError:
            continue
    worker.check()


def _settle_gc() -> None:
    """What was made up to here stays: never look at it again, and look at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def set_up_logging(level: int) -> None:
    """Plain lines on stderr, whatever that is at the moment: a progress bar may stand in for it."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("streams: %(levelname)s%(message)s"))
    handler.addFilter(_word)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    # It warns of each write to a connection that has gone, which its owner hears of anyway.
    logging.getLogger("asyncio").setLevel(logging.ERROR)


def _word(record: logging.LogRecord) -> bool:
    record.levelname = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
    return True


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # A full disk or a reader that has gone: what can't be told must not fail the work that it tells of.
        with suppress(OSError):
            sys.stderr.write(self.format(record) + "\n")
