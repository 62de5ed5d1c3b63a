"""What `benchmarks.precisions` found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks._markdown import table


def precisions(results: dict[str, Any]) -> Iterator[str]:
    """Sizes and times, then rate, PSNR and latents per quality of every way to run a precision."""
    sizes = ", ".join(f"{name} {count / 1e6:.1f} MB" for name, count in results["bytes"].items())
    yield f"Packages: {sizes}. Milliseconds, two threads, medians:\n"
    times = results["milliseconds"]
    parts = ("encoder", "decoder", "compress", "decompress")
    yield table(
        ("", "fp32", "int8", "ratio"),
        [(p, f"{(a := times[f'fp32 {p}']):.1f}", f"{(b := times[f'int8 {p}']):.1f}", f"{a / b:.2f}") for p in parts],
    )
    for way, found in results["comparisons"].items():
        loss = results["bd_rate_loss_percent"][way]
        yield f"{way}, {found['images']} pictures, BD-rate loss {loss:.2f} %:\n"
        rows = [
            (
                f"{row['quality']:g}",
                f"{row['bpp']:.4f}",
                f"{100 * row['rate_change']:+.3f} %",
                f"{row['psnr']:.3f}",
                f"{row['psnr_change']:+.4f}",
                f"{row['latents_different']} of {row['latents_compared']}",
            )
            for row in found["rows"]
        ]
        yield table(("quality", "bpp", "rate change", "PSNR (dB)", "change", "latents different"), rows)
