"""What `benchmarks.precisions` found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks._markdown import table


def precisions(results: dict[str, Any]) -> Iterator[str]:
    """Every model in every precision; times; rate, PSNR and latents per quality of every way to run a precision."""
    yield "Every bundled model, exported and verified; the largest changes against fp32 on the export's pictures:\n"
    yield table(
        ("model", "precision", "MB", "in int8 (CPU, TensorRT)", "run by: PSNR, rate, levels", "faults"),
        [_model(row) for row in results["models"]],
    )
    crossed = results["cross_decoding"]
    differing = sum(n for readers in crossed["different"].values() for n in readers.values())
    yield (
        f"Files of the codec by each of {', '.join(crossed['different'])}, decoded by all of them: {differing} of "
        f"{crossed['latents_compared']} latents differ ({crossed['pictures']} pictures, qualities "
        f"{', '.join(f'{q:g}' for q in crossed['qualities'])}).\n"
    )
    yield "Milliseconds, two threads, medians:\n"
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


def _model(row: dict[str, Any]) -> tuple[str, ...]:
    """One package as a row."""
    shares = row["share_in_int8"].items()
    ways = [
        f"{way}: {found['psnr_change']:+.3f} dB, "
        + (f"{100 * found['rate_change']:+.2f} %, " if "rate_change" in found else "")
        + f"{found['levels']:g}"
        for way, found in row["ways"].items()
    ]
    return (
        row["model"],
        row["precision"],
        f"{row['bytes'] / 1e6:.2f}",
        "; ".join(f"{graph} {100 * s['cpu']:.0f}, {100 * s['tensorrt']:.0f} %" for graph, s in shares) or "-",
        "; ".join(ways) or "exact" * (row["known_answers_exact"] is True) or "-",
        "; ".join(row["faults"]) or "none",
    )
