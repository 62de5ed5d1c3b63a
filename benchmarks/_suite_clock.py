"""Where the time of a call goes, without a change to what is called: watches around methods and around graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks._suite import Stats
from vaert.package import Package
from vaert.runtime.backends import Backend, Runner

Watched = Sequence[tuple[Any, str, str]]
"""Owner, name of its function, and the stage that its time belongs to."""


class Clock:
    """Nanoseconds by stage. A stage within another interrupts it, so that nothing counts twice. For one thread."""

    def __init__(self, now: Callable[[], int] = time.perf_counter_ns) -> None:
        self.spent: dict[str, int] = {}
        self._now = now
        self._open: list[str] = []
        self._since = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs within belongs to `name`."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def _book(self) -> None:
        now = self._now()
        if self._open:
            self.spent[self._open[-1]] = self.spent.get(self._open[-1], 0) + now - self._since
        self._since = now

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The same function, as a stage."""

        def watched(*arguments: Any, **named: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **named)

        return watched


@contextmanager
def watching(clock: Clock, watched: Watched) -> Iterator[None]:
    """Functions are replaced by watched ones until the end."""
    with ExitStack() as stack:
        for owner, name, stage in watched:
            stack.enter_context(patch.object(owner, name, clock.timed(getattr(owner, name), stage)))
        yield


class WatchedBackend:
    """A backend whose graphs are stages of a clock by their names; `runs` keeps what went into each while `keeping`."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.name, self.flavour = backend.name, backend.flavour
        self.keeping = False
        self.runs: list[tuple[str, Runner, dict[str, Any]]] = []
        self._backend, self._clock = backend, clock

    def load(self, package: Package, graph: str) -> Runner:
        """See `Backend.load`."""
        return WatchedRunner(self, self._backend.load(package, graph), graph, clock=self._clock)

    def close(self) -> None:
        """The backend belongs to who made it."""


class WatchedRunner:
    """One graph of a WatchedBackend."""

    def __init__(self, owner: WatchedBackend, runner: Runner, graph: str, *, clock: Clock) -> None:
        self._owner, self._runner, self._graph, self._clock = owner, runner, graph, clock

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """See `Runner.run`."""
        if self._owner.keeping:
            self._owner.runs.append((self._graph, self._runner, dict(inputs)))
        with self._clock.stage(self._graph):
            return self._runner.run(inputs)


class Rounds:
    """Times of several things, one of each in turn, in milliseconds; only the last rounds are looked at."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}

    def time(self, name: str, action: Callable[[], object]) -> None:
        """Run it once."""
        started = time.perf_counter_ns()
        action()
        self.add(name, (time.perf_counter_ns() - started) / 1e6)

    def add(self, name: str, ms: float) -> None:
        """Note what one round took."""
        self._times.setdefault(name, []).append(ms)

    def last(self, name: str, count: int) -> list[float]:
        """Times in seconds, without those of the warm-up."""
        return [value / 1000 for value in self._times[name][-count:]]

    def stats(self, name: str, whole: Stats) -> Stats:
        """Of one of them, in the rounds that `whole` is about: without the warm-up."""
        return Stats.of(self.last(name, whole.runs), whole.others_cores)

    def medians(self, count: int) -> dict[str, float]:
        """Of the last `count` rounds, in milliseconds."""
        return {name: median(values[-count:]) for name, values in self._times.items()}
