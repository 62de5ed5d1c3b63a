"""Picture formats to compare with, all through Pillow and its plug-ins."""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from vaert.anchors import JPEG_OPTIONS, JPEG_QUALITIES
from vaert.evaluate import JPEG_NAME, Pixels


@dataclass(frozen=True)
class Format:
    """One way to write pictures. `settings` go from small files to large ones; `asked` turns one into options."""

    name: str
    kind: str  # Pillow's name of the format
    settings: tuple[int, ...]
    needs: str = ""  # feature of Pillow, or module of a plug-in
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: str = ""  # option that takes a number of threads
    asked: Callable[[int], dict[str, Any]] = lambda quality: {"quality": quality}

    def missing(self) -> str:
        """Why it cannot be used here, in one line; nothing if it can."""
        return _missing(self.needs)

    def encode(self, pixels: Pixels, setting: int, *, threads: int) -> bytes:
        """The file of a picture, uint8 (H, W, 3)."""
        from PIL import Image

        options = {**self.options, **self.asked(setting)} | ({self.threads: threads} if self.threads else {})
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format=self.kind, **options)
        return stream.getvalue()

    def decode(self, data: bytes) -> Pixels:
        """Its pixels, uint8 (H, W, 3)."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _rate(ratio: int) -> dict[str, Any]:
    """JPEG 2000 is asked for the compression ratio of 24-bit pixels."""
    return {"quality_mode": "rates", "quality_layers": [ratio]}


QUALITIES = (10, 25, 40, 50, 60, 70, 80, 90)
AVIF = Format(
    "AVIF (Pillow, speed 6, 4:2:0)", "AVIF", QUALITIES, "avif", {"speed": 6, "subsampling": "4:2:0"}, "max_threads"
)
FORMATS = (
    Format(JPEG_NAME, "JPEG", JPEG_QUALITIES, "", JPEG_OPTIONS),
    Format("JPEG (Pillow, 4:4:4, optimised)", "JPEG", JPEG_QUALITIES, "", {"subsampling": "4:4:4", "optimize": True}),
    Format("WebP (Pillow, method 6)", "WEBP", (1, 10, 25, 40, 55, 70, 80, 90, 95), "webp", {"method": 6}),
    AVIF,
    Format(
        "JPEG XL (pillow-jxl-plugin, effort 7)",
        "JXL",
        (0, 20, 40, 60, 70, 80, 90, 95),
        "pillow_jxl",
        {"effort": 7},
        "num_threads",
    ),
    # Without mct the three colours are coded apart, which costs 5 dB.
    Format(
        "JPEG 2000 (Pillow, 9/7)",
        "JPEG2000",
        (240, 150, 100, 60, 40, 24, 15, 10),
        "jpg_2000",
        {"irreversible": True, "mct": 1},
        asked=_rate,
    ),
)


@cache
def _missing(needs: str) -> str:
    try:
        from PIL import features
    except ModuleNotFoundError:
        return "Pillow is not installed: pip install 'vaert[eval]'"
    if needs.startswith("pillow_"):
        try:
            importlib.import_module(needs)
        except ModuleNotFoundError:
            return f"Pillow's plug-in {needs} is not installed: pip install 'vaert[peers]'"
        except ImportError as error:
            return f"Pillow's plug-in {needs} cannot be loaded: {error}"
        return ""
    if needs and not features.check(needs):
        return f"this build of Pillow lacks {needs}: pip install 'vaert[eval]'"
    return ""


def timed_ms(action: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the milliseconds it took."""
    started = time.perf_counter_ns()
    result = action()
    return result, (time.perf_counter_ns() - started) / 1e6
