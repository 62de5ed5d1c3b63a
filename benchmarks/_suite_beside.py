"""The sections of a run's report that put vaert beside others: rates and fidelity, and times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks._markdown import table
from benchmarks._suite_tables import NONE, Row, explained, folded, measured, number, of, ordered, size

SIDES = (("its", "peer"), ("vaert", "vaert"))


def rate_distortion(rows: Sequence[Row]) -> Iterator[str]:
    """BD-rates, then times, then all points."""
    found = measured(rows)
    pictures = ordered(of(row, "images", "pictures") for row in rows)
    for images, count in pictures:
        yield f"{images}, {count} picture{'' if count == '1' else 's'}; rates of whole files.\n"
    yield from _bd_rates([row for row in found if row["name"] == "BD-rate"])
    yield from _codec_times(found)
    points = [row for row in found if row["name"] == "point"]
    lines = []
    for row in points:
        facts = row["facts"]
        similar = NONE if facts["ms_ssim"] is None else f"{facts['ms_ssim']:.4f}"
        measures = (f"{row['value']:.3f}", f"{facts['psnr_db']:.2f}", similar)
        each = (number(facts.get("encode_ms")), number(facts.get("decode_ms")))
        lines.append((*of(row, "codec"), f"{row['parameters']['setting']:g}", *measures, *each))
    head = ("codec", "setting", "bpp", "PSNR (dB)", "MS-SSIM", "encode (ms)", "decode (ms)")
    if lines:
        yield from folded(f"All {len(lines)} points, single times", [table(head, lines)])
    yield from explained(rows)


def _bd_rates(rows: Sequence[Row]) -> Iterator[str]:
    """References down, codecs across."""
    codecs = ordered(row["parameters"]["codec"] for row in rows)
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        cell = f"{row['value']:+.1f} %" + ("*" if row["facts"].get("remark") else "")
        cells.setdefault(of(row, "against", "curve"), {})[row["parameters"]["codec"]] = cell
    if cells:
        yield "BD-rate: bits at equal PSNR, negative where vaert needs fewer.\n"
        lines = [(*key, *(own.get(codec, NONE) for codec in codecs)) for key, own in cells.items()]
        yield table(("against", "curve", *codecs), lines)
    if remarks := ordered(row["facts"]["remark"] for row in rows if row["facts"].get("remark")):
        yield f"\\* {'; '.join(remarks)}.\n"


def _codec_times(rows: Sequence[Row]) -> Iterator[str]:
    pairs: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["name"] in ("encode", "decode"):
            pairs.setdefault(row["parameters"]["codec"], {})[row["name"]] = row
    lines = []
    for codec, own in pairs.items():
        first = next(iter(own.values()))
        facts = first["facts"]
        reached = (f"{first['parameters']['setting']:g}", f"{facts['bpp']:.3f}", f"{facts['psnr_db']:.2f}")
        times = [number(own[name]["value"] if name in own else None) for name in ("encode", "decode")]
        speeds = [
            number(own[name]["facts"].get("megapixels_per_s") if name in own else None) for name in ("encode", "decode")
        ]
        lines.append((codec, *reached, *times, *speeds))
    if lines:
        yield "Times of a picture, in turn, at the setting nearest to the same rate:\n"
        head = ("codec", "setting", "bpp", "PSNR (dB)", "encode (ms)", "decode (ms)", "encode (MP/s)", "decode (MP/s)")
        yield table(head, lines)


def peers(rows: Sequence[Row]) -> Iterator[str]:
    """Codecs beside vaert, then upscalers."""
    found = measured(rows)
    ours = {of(row, "beside", "operation"): row for row in found if row["name"].startswith("vaert ")}
    lines = []
    for row in found:
        if row["parameters"].get("beside") != "vaert":
            continue
        own = ours.get((row["name"], row["parameters"]["operation"]))
        name = NONE if own is None else f"{number(own['value'])} ({own['name']})"
        remark = _remark(row["facts"])
        lines.append((row["name"], *of(row, "operation"), size(row), number(row["value"]), name, _times(row), remark))
    if lines:
        head = ("codec", "operation", "size", "its time (ms)", "vaert (ms)", "times vaert's", "")
        yield table(head, lines)
    lines = [
        (size(row), *of(row, "operation"), row["name"], number(row["value"]), _times(row), _remark(row["facts"]))
        for row in found
        if "beside" not in row["parameters"]
    ]
    if lines:
        yield table(("size", "operation", "", "time (ms)", "times vaert's", ""), lines)
    yield from explained(rows)


def _times(row: Row) -> str:
    times = row["facts"].get("times_faster_is_vaert")
    return "" if times is None else f"{times:.3g}"


def _remark(facts: dict[str, Any]) -> str:
    """Weights, or rate and fidelity of both sides."""
    if "peer_bpp" in facts:
        sides = (f"{side} {facts[f'{name}_bpp']:.3f} bpp, {facts[f'{name}_psnr_db']:.2f} dB" for side, name in SIDES)
        return "; ".join(sides)
    return str(facts.get("weights", ""))
