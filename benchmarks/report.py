"""Write docs/results.md with its plots, and the marked tables of other pages, from the JSON in benchmarks/results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _digit_report, _suite_curves, _suite_plots
from benchmarks._machine import ROOT, verdict
from benchmarks._markdown import table
from benchmarks._precision_report import precisions
from benchmarks._suite import BENCHMARK as SUITE
from benchmarks._suite_compare import SLOWER, NotARun, compare, newest_run, read_run
from benchmarks._suite_compared import text
from benchmarks._suite_report import NO_PLOTS, about, anchor, drawable, report, short, totals
from vaert.atomic import write_atomic

ORDER = (
    SUITE,
    "rate_distortion",
    "precisions",
    "exact_prior",
    "targets",
    "latency",
    "memory",
    "exactness",
    "upscaling",
    "upscaling_detail",
    "downscaling",
    "restoration",
    "restoration_reference",
    "digits",
    "digits_likelihood",
    "digits_inpainting",
    "digits_training",
    "lossless_digits",
)
FULL = "full"  # the run of which the README shows the table and the curves
CURVES = "rd.png"
METHOD = (
    "BD-rate: PCHIP of log(bpp) over PSNR, over the PSNRs at which the measured JPEG spends 0.25 to 1.5 bpp. "
    "Published curves are means over the 24 Kodak images."
)
REPAIR_COLUMNS = (("damaged", ""), ("restored", ""), ("gain", "+"), ("least_gain", "+"))
INTRODUCTION = """# Results

Measured by the scripts in `benchmarks/`; this page is written by `python -m benchmarks.report` from their JSON files in
`benchmarks/results/`, and never by hand. Each section names its command (of paths outside the checkout only the last
part), machine and versions. A figure is reported only if the same run proved its outputs correct.
"""


def main() -> int:
    """Read the results, write the pages."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    options.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of JSON files")
    options.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md", help="page to write")
    options.add_argument(
        "--compare", type=Path, nargs="+", metavar="RUN", help="compare OLD with NEW, or with the newest of --results"
    )
    options.add_argument(
        "--fail-on-slowdown", action="store_true", help="with --compare: code 1 if a row is slower or worse"
    )
    given = options.parse_args()
    if given.fail_on_slowdown and not given.compare:
        options.error("--fail-on-slowdown needs --compare")
    if given.compare:
        return compared(given.compare, given.results, fail=given.fail_on_slowdown)
    return write_pages(read(given.results), given.out)


def compared(paths: Sequence[Path], results: Path, *, fail: bool) -> int:
    """Print how the second run, or the newest of the folder, compares with the first. SystemExit if one is no run."""
    if len(paths) > 2:
        raise SystemExit(f"--compare takes an old and a new run, found {len(paths)}")
    try:
        old = read_run(paths[0])
        new = read_run(paths[1]) if len(paths) > 1 else newest_run(results, besides=paths[0])
    except NotARun as error:
        raise SystemExit(f"--compare: {error}") from error
    found = compare(new, old)
    print("\n".join(text(found)))
    return int(fail and bool(found.of(SLOWER)))


def read(folder: Path) -> list[dict[str, Any]]:
    """All results, in the order of the page. SystemExit if there are none."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise SystemExit(f"{folder} holds no results: run the benchmarks first")

    def place(record: dict[str, Any]) -> tuple[int, str, bool, str]:
        kind, name = record["benchmark"], record.get("name", "")
        return ORDER.index(kind) if kind in ORDER else len(ORDER), kind, name != FULL, name

    return sorted(records, key=place)


def write_pages(records: list[dict[str, Any]], out: Path) -> int:
    """The page `out`, plots in `images` beside it, and the marked tables of pages beside it and of the README."""
    plots = draw(records, out.parent / "images")
    write_atomic(out, page(records, plots).encode(), force=True)
    print(f"{out}: {len(records)} benchmarks, {sum(map(len, plots.values()))} plots")
    for path in (*sorted(out.parent.glob("*.md")), *out.parent.parent.glob("README.md")):
        text = path.read_text("utf-8")
        if path != out and (made := filled(text, records)) != text:
            write_atomic(path, made.encode(), force=True)
            print(f"{path}: tables renewed")
    return 0


def draw(records: list[dict[str, Any]], folder: Path) -> dict[str, dict[str, str]]:
    """Plots of every run, and rd.png of the full run or, without it, of `rate_distortion`: title -> plot -> link."""
    if not drawable():
        print(NO_PLOTS.strip())
        return {}
    found = {}
    for record in records:
        if record["benchmark"] == SUITE:
            found[title(record)] = _suite_plots.draw(record, folder, title(record))
    curves, old = found.get(f"run-{FULL}", {}), [r for r in records if r["benchmark"] == "rate_distortion"]
    if "rd" in curves:
        curves["rd"] = curves["rd"].replace(folder / CURVES)
    elif old:
        folder.mkdir(parents=True, exist_ok=True)
        made, over, kodak = _suite_curves.of_script(old[0]["results"])
        _suite_curves.draw(folder / CURVES, made, over, kodak=kodak)
        found["rate_distortion"] = {"rd": folder / CURVES}
    for stale in set(folder.glob("run-*.png")) - {path for own in found.values() for path in own.values()}:
        stale.unlink()
    return {name: {plot: f"{folder.name}/{path.name}" for plot, path in own.items()} for name, own in found.items()}


def title(record: Mapping[str, Any]) -> str:
    """Of a section, and of a run's files."""
    return f"run-{record['name']}" if record["benchmark"] == SUITE else str(record["benchmark"])


def filled(text: str, records: list[dict[str, Any]]) -> str:
    """A page with what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` made from the benchmark NAME.

    NAME `three_way` is the short table of the full run.
    """
    for record in records:
        name = "three_way" if title(record) == f"run-{FULL}" else str(record["benchmark"])
        begin, end = (f"<!-- {word} {name} -->" for word in ("begin", "end"))
        before, found, rest = text.partition(begin)
        detail = DETAILS.get(name)
        if found and (name == "three_way" or detail is not None):
            _, _, after = rest.partition(end)
            lines = detail(record["results"]) if detail is not None else short(record)
            text = "\n".join([before + begin, *lines, end]) + after
    return text


def page(records: list[dict[str, Any]], plots: Mapping[str, Mapping[str, str]]) -> str:
    """The whole page as Markdown: runs of the suite, which begin with their three-way table, then all others."""
    runs = [record for record in records if record["benchmark"] == SUITE]
    others = [record for record in records if record["benchmark"] != SUITE]
    parts = [INTRODUCTION, *(part for record in runs for part in section(record, plots.get(title(record), {})))]
    rows = [
        (f"[{title(r)}](#{anchor(title(r))})", b["what"], b["bar"], b["measured"], verdict(b["met"]))
        for r in others
        for b in r["bars"]
    ]
    if others:
        parts += ["## Bars\n", table(("benchmark", "what", "bar", "measured", ""), rows)]
    parts += [part for record in others for part in section(record, plots.get(title(record), {}))]
    return "\n".join(parts).rstrip("\n") + "\n"


def section(record: dict[str, Any], plots: Mapping[str, str]) -> Iterator[str]:
    """One benchmark: question, command, machine, then what is particular to it."""
    yield f"## {title(record)}\n"
    if record["benchmark"] == SUITE:
        yield totals(record)
        yield from report(record, plots, level=3)
        yield "### The run\n"
    yield from about(record)
    model = record["results"].get("model")
    if model:
        training = ", ".join(f"{key} {value}" for key, value in model["training"].items() if key in ("steps", "hours"))
        yield f"Model: {model['name']} ({model['model_id']}{', ' + training if training else ''}).\n"
    if record["benchmark"] == "rate_distortion" and "rd" in plots:
        yield f"![Rate-distortion curves]({plots['rd']})\n"
    detail = DETAILS.get(record["benchmark"])
    if detail is not None:
        yield from detail(record["results"])


def rate_distortion(results: dict[str, Any]) -> Iterator[str]:
    """BD-rates, then the points of the curve."""
    yield f"Means over {results['images']} images; rates are those of whole files. {METHOD}\n"
    rows = [
        (
            c["reference"],
            "measured here" if c["measured"] else "published",
            "" if c["percent"] is None else f"{c['percent']:+.1f} %",
            "" if c["percent"] is None else f"{c['low']:.2f} to {c['high']:.2f} dB",
            c["remark"],
        )
        for c in results["bd_rates"]
    ]
    yield table(("against", "curve", "BD-rate", "over", "remark"), rows)
    points = [
        (f"{p['quality']:g}", f"{p['bpp']:.3f}", f"{p['psnr']:.2f}", similarity(p["ms_ssim"]))
        for p in results["points"]
    ]
    yield table(("quality", "bpp", "PSNR (dB)", "MS-SSIM"), points)


def similarity(ms_ssim: float | None) -> str:
    """MS-SSIM, or nothing for images too small for it."""
    return "" if ms_ssim is None else f"{ms_ssim:.4f}"


def exact_prior(results: dict[str, Any]) -> Iterator[str]:
    """BD-rates of the variants, then their points."""
    variants = results["bd_rate_against_jpeg_percent"]
    yield f"Means over {results['images']} images; rates by the model's own count.\n"
    yield table(("prior", "BD-rate against JPEG"), [(name, f"{value:+.2f} %") for name, value in variants.items()])
    rows = [
        (quality, f"{100 * share:.1f} %", *(f"{r:.4f} / {p:.2f}" for r, p in points))
        for (quality, share), points in zip(
            results["share_not_coded"].items(), zip(*results["points"].values(), strict=True), strict=True
        )
    ]
    names = tuple(f"{name}, bpp / dB" for name in results["points"])
    yield table(("quality", "elements not coded", *names), rows)


def latency(results: dict[str, Any]) -> Iterator[str]:
    """All times."""
    size = f"{results['width']}x{results['height']}, quality {results['quality']:g}, {results['bytes']} bytes"
    yield f"{results['image']}, {size}, {results['psnr_db']:.2f} dB, {results['threads']} threads.\n"
    warm = [(f"warm {name}", t, results["parts"].get(name, "the whole call")) for name, t in results["warm"].items()]
    cold = [(f"cold {name}", t, "the whole process") for name, t in results["cold"].items()]
    yield times([*warm, *cold])


def memory(results: dict[str, Any]) -> Iterator[str]:
    """What was compressed."""
    reached = f"{results['bpp']:.3f} bpp, every band of rows at {results['psnr_db']:.2f} dB or better"
    yield f"{results['input']}, quality {results['quality']:g}: {reached}.\n"


def exactness(results: dict[str, Any]) -> Iterator[str]:
    """Differences per decoder."""
    qualities = ", ".join(f"{quality:g}" for quality in results["qualities"])
    count = results["latents_each_decoder"]
    yield f"{results['files']} files (qualities {qualities}), {count} latents for each decoder.\n"
    rows = [(name, str(count)) for name, count in results["different_latents"].items()]
    yield table(("decoder", "latents that differ"), rows)
    t = results["tiling"]
    yield f"Tiles: {t['width']}x{t['height']} pixels in {t['groups']} groups, tiles of {t['tile']} against none.\n"


def upscaling(results: dict[str, Any]) -> Iterator[str]:
    """PSNR of every set, then all times."""
    for scale, model in results["models"].items():
        steps = f", steps {model['training']['steps']}" if "steps" in model["training"] else ""
        yield f"{scale}: {model['name']} ({model['model_id']}{steps}).\n"
    yield "PSNR on Y (BT.601), `scale` pixels cut off at every edge, means over the files that `vaert upscale` wrote.\n"
    rows = [
        (f"x{s['scale']}, {s['set']}", str(s["pictures"]), f"{s['psnr_db']:.2f}", f"{s['bicubic_db']:.2f}")
        for s in results["sets"]
    ]
    yield table(("set", "pictures", "vaert (dB)", "bicubic (dB)"), rows)
    work = results["multiply_adds_per_small_pixel"]
    notes = {name: f"{count / 1000:.0f} thousand multiply-adds per small pixel" for name, count in work.items()}
    yield f"128x128 to 512x512, {results['threads']} threads, bytes to bytes; the peers have random weights.\n"
    yield times([(name, t, notes.get(name, "")) for name, t in results["times"].items()])


def upscaling_detail(results: dict[str, Any]) -> Iterator[str]:
    """What z holds and what is drawn from it."""
    yield "![Crops: bicubic, detail 0, 0.5 and 1, original](images/upscaling_detail.png)\n"
    means, channels = results["means"], results["latents_per_small_pixel"]
    active = f"{results['active_channels']} of {channels} channels of z hold more than a hundredth of a nat"
    yield f"{results['images']}, {results['pictures']} pictures. KL {means['kl']:.3f} nats per latent, {active}.\n"
    rows = [("bicubic", f"{means['laplacian_bicubic']:.0f}", "")]
    rows += [(f"detail {d}", f"{means[f'laplacian_{d}']:.0f}", f"{means[f'psnr_{d}']:.2f}") for d in ("0", "0.5", "1")]
    yield table(("", "Laplacian energy", "PSNR on Y (dB)"), [*rows, ("original", f"{means['laplacian_hr']:.0f}", "")])


def downscaling(results: dict[str, Any]) -> Iterator[str]:
    """PSNR at rates of all three ways."""
    yield f"Means over {results['images']} images; the upscaler is {results['upscaler']['name']}.\n"
    for measure, name in (("PSNR", "crossing_bpp"), ("MS-SSIM", "crossing_bpp_ms_ssim")):
        rate = results[name]
        answer = "at no rate that both reach" if rate is None else f"below {rate:.3f} bpp"
        yield f"In {measure} half size beats plain {answer}."
    each = [rate for rate in results["crossing_bpp_of_each"] if rate is not None]
    spread = f", from {min(each):.3f} to {max(each):.3f} bpp" if each else ""
    yield f"Picture by picture, in PSNR, it wins somewhere in {len(each)} of {results['images']}{spread}."
    low = " and ".join(f"{results['lowest_bpp'][name]:.3f} ({name})" for name in ("plain", "half size, upscaler"))
    yield f"The lowest rates, at quality 1, are {low}.\n"
    for measure, style in (("psnr", ".2f"), ("ms_ssim", ".4f")):
        found = results["at_rates"][measure]
        names = list(next(iter(found.values())))
        rows = [
            (rate, *("" if values[n] is None else f"{values[n]:{style}}" for n in names))
            for rate, values in found.items()
        ]
        yield table((f"{'PSNR (dB)' if measure == 'psnr' else 'MS-SSIM'} at bpp", *names), rows)


def restoration(results: dict[str, Any]) -> Iterator[str]:
    """Repair of every set, holes, times, memory."""
    model = results["model"]
    yield "![Crops: JPEG, restored, original; hole, Telea, restored, original](images/restoration.png)\n"
    yield f"{model['name']} ({model['model_id']}, steps {model['training']['steps']}).\n"
    yield "PSNR on Y (BT.601), means over the files that `vaert restore` wrote; damage by Pillow, JPEG in 4:2:0.\n"
    for name, found in results["repair"].items():
        rows = [
            (kind, *(f"{row[f'{key}_db']:{sign}.2f}" for key, sign in REPAIR_COLUMNS), str(row["worse"]))
            for kind, row in found.items()
            if kind != "pictures"
        ]
        head = (f"{name}, {found['pictures']} pictures", "damaged (dB)", "restored (dB)", "gain", "least gain", "worse")
        yield table(head, rows)
    holes = results["inpainting"]
    share = f"{100 * holes['mean_hidden_share']:.1f} % of the picture on average"
    changed = holes["known_pixels_changed"]
    yield f"Holes of {share}, PSNR in RGB of hidden pixels (dB); {changed} known pixels changed.\n"
    kinds = [(kind, row) for kind, row in holes.items() if isinstance(row, dict)]
    columns = list(kinds[0][1])
    names = [name.removesuffix("_db").replace("telea_", "Telea, radius ") for name in columns]
    yield table(("", *names), [(kind, *(f"{row[column]:.2f}" for column in columns)) for kind, row in kinds])
    yield f"Warm library, {results['threads']} threads:\n"
    yield times([(name, t, "") for name, t in results["times"].items()])


def restoration_reference(results: dict[str, Any]) -> Iterator[str]:
    """PSNR of every way to use a second version, one column per case."""
    cases = results["psnr_on_y_db"]
    yield f"{results['images']}, {results['pictures']} pictures, PSNR on Y (dB).\n"
    ways = next(iter(cases.values()))
    yield table(("", *cases), [(way, *(f"{found[way]:.2f}" for found in cases.values())) for way in ways])


def times(rows: Sequence[tuple[str, dict[str, Any], str]]) -> str:
    """A table of timings in milliseconds."""
    shown = [(name, f"{t['p50_ms']:.1f}", f"{t['p95_ms']:.1f}", str(t["runs"]), note) for name, t, note in rows]
    return table(("", "median (ms)", "p95 (ms)", "runs", ""), shown)


DETAILS = {
    "rate_distortion": rate_distortion,
    "precisions": precisions,
    "exact_prior": exact_prior,
    "latency": latency,
    "memory": memory,
    "exactness": exactness,
    "upscaling": upscaling,
    "upscaling_detail": upscaling_detail,
    "downscaling": downscaling,
    "restoration": restoration,
    "restoration_reference": restoration_reference,
    **_digit_report.DETAILS,
}

if __name__ == "__main__":
    raise SystemExit(main())
