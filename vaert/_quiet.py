"""What native decoders print, caught instead of shown: libjpeg says that a file is damaged only on stderr."""

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

_Result = TypeVar("_Result")
# File descriptor 2 belongs to the whole process, so one caller at a time.
_LOCK = threading.Lock()
_OURS = ("Corrupt JPEG", "Premature end", "libpng ", "Warning", "Invalid ", "Inconsistent ", "Unsupported ", "Unknown ")


def call_quietly(cv2: ModuleType, work: Callable[[], _Result]) -> tuple[_Result, tuple[str, ...]]:
    """Result of `work`, and the lines that image libraries wrote to stderr meanwhile.

    Lines of anyone else (another thread) are passed on to stderr afterwards; OpenCV's own log is off for the time.
    """
    with _LOCK:
        logging = cv2.utils.logging
        level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        try:
            return _with_stderr_caught(work)
        finally:
            logging.setLogLevel(level)


def _with_stderr_caught(work: Callable[[], _Result]) -> tuple[_Result, tuple[str, ...]]:
    try:
        saved = os.dup(2)
    except OSError:  # the process runs without stderr: nothing to catch
        return work(), ()
    try:
        with tempfile.TemporaryFile() as caught:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(caught.fileno(), 2)
            try:
                result = work()
            finally:
                os.dup2(saved, 2)
                caught.seek(0)
                lines = caught.read().decode(errors="replace").splitlines(keepends=True)
                foreign = "".join(line for line in lines if not line.startswith(_OURS))
                if foreign:
                    os.write(2, foreign.encode())
        return result, tuple(line.strip() for line in lines if line.startswith(_OURS))
    finally:
        os.close(saved)
