"""Ctrl-C and SIGTERM as a request that the loop answers between two steps, where its state is whole."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

PATIENCE = 1.0  # seconds; torchrun passes a Ctrl-C on that its processes have got as well, which is no second wish


class StopRequest:
    """Inside `with`, `asked` says whether the process was asked to stop; a second Ctrl-C stops it at once."""

    def __init__(self) -> None:
        self.asked = False
        self._asked_at = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal itself returned

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked and now - self._asked_at > PATIENCE:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._asked_at = True, now
