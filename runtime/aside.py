"""One thread beside the caller's, for work that needs no interpreter: sorting, checksums."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Aside:
    """Runs functions in one thread of its own, one after the other; in the caller's where there is no second core.

    threads: that the owner may use; as many as there are cores if None.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._alone = min(threads or 2, len(os.sched_getaffinity(0))) < 2

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="vaert")

    def __call__(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
        """Begin; what is returned gives the result, or raises what the function raised."""
        if self._alone:
            result = action(*args, **kwargs)
            return lambda: result
        return self._pool.submit(action, *args, **kwargs).result
