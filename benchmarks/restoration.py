"""How much damage does restoring undo, how well does it fill holes, how fast and in how much memory?

Pictures are damaged by Pillow, restored by the command line and measured on the files that it writes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._holes import Mask, stored
from benchmarks._machine import ROOT, THREADS, Bar, Timing, finish, interleaved, model_facts, parser, require, summary
from benchmarks._restoration_pictures import draw
from benchmarks.memory import launch, mirrored
from vaert.evaluate import Pixels, find_images, read_rgb
from vaert.evaluate_restorer import CHROMA, compressed, mean, telea
from vaert.image import encode_image
from vaert.metrics import psnr
from vaert.package import Package, find_package
from vaert.runtime.restorer import Restorer
from vaert.super_resolution import LARGE_FOLDER, luma_psnr

NAME = "restoration"
DAMAGES: dict[str, dict[str, Any]] = {
    **{f"JPEG {q}": {"format": "JPEG", "quality": q, "subsampling": CHROMA} for q in (10, 20, 40)},
    **{f"WebP {q}": {"format": "WEBP", "quality": q} for q in (10, 30)},
}
GAIN_BARS = {"JPEG 10": 0.8, "JPEG 40": 0.0}
RADII = (3, 4, 5)  # of OpenCV's inpainting; the best of them is what counts
HOLE_BAR = 0.5
TILE, TILED = 96, 6  # pixels; pictures
SIZES = ((512, 512), (512, 768))  # heights and widths that are timed
LARGE = 3000, 4000
BAR_BYTES = 1.5e9


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME, model="restore")
    options.add_argument("--images", type=Path, required=True, help="folder of clean pictures, or with HR: bsd100")
    options.add_argument("--more", type=Path, nargs="*", default=[], help="further folders, for repair alone")
    options.add_argument("--runs", type=int, default=30, help="runs of each timed call (default: 30)")
    options.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / f"{NAME}.png", help="PNG to draw")
    given = options.parse_args()
    package = find_package(given.model)
    restorer, paths = Restorer(package, threads=THREADS), clean_pictures(given.images)
    sets = {folder.name: repairs(package, clean_pictures(folder)) for folder in (given.images, *given.more)}
    holes = inpainting(package, paths, stored())
    times = speed(restorer, read_rgb(paths[0]), runs=given.runs)
    results = {
        "model": model_facts(package),
        "repair": sets,
        "inpainting": holes,
        "tiles": {"side": TILE, "pictures": TILED, "largest_difference": tiles(restorer, paths)},
        "times": {name: asdict(timing) for name, timing in times.items()},
        "threads": THREADS,
        "memory": peak(package, read_rgb(paths[0])),
    }
    draw(restorer, {path.stem: read_rgb(path) for path in paths}, stored(), given.picture)
    return finish(NAME, given.out, results=results, bars=bars(results, given.images.name))


def clean_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, or of its folder HR."""
    return find_images(folder / LARGE_FOLDER if (folder / LARGE_FOLDER).is_dir() else folder)


def restore(package: Package, *arguments: object) -> dict[str, Any]:
    """Run `vaert restore` as a process; its peak memory and time."""
    line = ["restore", *map(str, arguments), "--model", str(package.path.resolve()), "--threads", str(THREADS)]
    return launch([*line, "--quiet"])


def repairs(package: Package, paths: Sequence[Path]) -> dict[str, Any]:
    """Mean PSNR on Y before and after, of every kind of damage; a folder goes through the command at once."""
    found: dict[str, Any] = {"pictures": len(paths)}
    for name, options in DAMAGES.items():
        before, after = [], []
        with tempfile.TemporaryDirectory() as scratch:
            damaged, restored = Path(scratch, "damaged"), Path(scratch, "restored")
            damaged.mkdir()
            for path in paths:
                Image.fromarray(read_rgb(path)).save(damaged / f"{path.stem}.{options['format'].lower()}", **options)
            restore(package, damaged, restored, "--format", "png")
            for path, file in zip(paths, find_images(damaged), strict=True):
                clean = read_rgb(path)
                before.append(luma_psnr(clean, read_rgb(file), shave=0))
                after.append(luma_psnr(clean, read_rgb(restored / f"{path.stem}.png"), shave=0))
        gains = np.subtract(after, before)
        found[name] = {
            "damaged_db": round(mean(before), 3),
            "restored_db": round(mean(after), 3),
            "gain_db": round(float(gains.mean()), 3),
            "least_gain_db": round(float(gains.min()), 3),
            "worse": int((gains < 0).sum()),
        }
        print(name, found[name], flush=True)
    return found


def inpainting(package: Package, paths: Sequence[Path], masks: Mapping[str, Mask]) -> dict[str, Any]:
    """Mean PSNR in the holes, RGB; every known pixel of every file is compared."""
    require({path.stem for path in paths} == set(masks), "the stored holes are not those of these pictures")
    rows: list[list[float]] = []
    for path in paths:
        clean, hidden = read_rgb(path), masks[path.stem]
        holed = np.where(hidden[..., None], 0, clean).astype(np.uint8)
        with tempfile.TemporaryDirectory() as scratch:
            source, mask, target = (Path(scratch, name) for name in ("in.png", "mask.png", "out.png"))
            source.write_bytes(encode_image(holed, format="png"))
            mask.write_bytes(encode_image(255 * hidden.astype(np.uint8), format="png"))
            restore(package, source, target, "--mask", mask)
            filled = read_rgb(target)
        require(np.array_equal(filled[~hidden], clean[~hidden]), f"{path.stem}: a known pixel changed")
        made = [filled, *(telea(holed, hidden, radius) for radius in RADII)]
        rows.append([psnr(clean[hidden], picture[hidden]) for picture in made])
    table, shares = np.array(rows), [masks[path.stem].mean() for path in paths]
    strokes = np.array([number % 2 == 1 for number in range(len(paths))])
    kinds = {"all": strokes | ~strokes, "rectangles": ~strokes, "strokes": strokes}
    names = ["vaert_db", *(f"telea_{radius}_db" for radius in RADII)]
    return {
        "pictures": len(paths),
        "mean_hidden_share": round(float(np.mean(shares)), 4),
        "known_pixels_changed": 0,
        **{
            kind: {name: round(float(value), 3) for name, value in zip(names, table[some].mean(0), strict=True)}
            for kind, some in kinds.items()
        },
        "worse_than_telea": int((table[:, 0] < table[:, 1:].max(1)).sum()),
    }


def tiles(restorer: Restorer, paths: Sequence[Path]) -> int:
    """Largest difference in levels between tiled and untiled runs, of repair and of holes; odd sizes."""
    largest, masks = 0, stored()
    for path in paths[:: len(paths) // TILED][:TILED]:
        picture, mask = read_rgb(path)[:-3, :-13], masks[path.stem][:-3, :-13]
        damaged = compressed(picture, "JPEG", quality=10, subsampling=CHROMA)
        for hidden, strength in ((None, None), (mask, None), (mask, 1.0)):
            whole, tiled = (restorer.restore(damaged, hidden, strength=strength, tile=t) for t in (None, TILE))
            largest = max(largest, int(np.abs(whole.astype(int) - tiled).max()))
    return largest


def speed(restorer: Restorer, picture: Pixels, *, runs: int) -> dict[str, Timing]:
    """Whole calls of the library, warm, in turn."""
    actions = {}
    for height, width in SIZES:
        pixels, hidden = mirrored(picture, height, width), np.zeros((height, width), np.bool_)
        hidden[200:264, 300:364] = True
        actions[f"repair {width}x{height}"] = partial(restorer.restore, pixels)
        actions[f"fill 64x64 in {width}x{height}"] = partial(restorer.restore, pixels, hidden)
    return {name: summary(times) for name, times in interleaved(actions, runs=runs, warm_up=3).items()}


def peak(package: Package, picture: Pixels) -> dict[str, Any]:
    """Peak memory and time of the command on a photograph of 12 megapixels, repaired, and with a large hole too."""
    height, width = LARGE
    hidden = np.zeros((height, width), np.uint8)
    hidden[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 255
    with tempfile.TemporaryDirectory() as folder:
        source, mask, target = (Path(folder, name) for name in ("in.jpg", "mask.png", "out.png"))
        source.write_bytes(encode_image(mirrored(picture, height, width), format="jpg"))
        mask.write_bytes(encode_image(hidden, format="png"))
        facts = {
            "repair": restore(package, source, target),
            "repair and fill a quarter": restore(package, source, target, "--mask", mask, "--strength", 1, "--force"),
        }
        require(read_rgb(target).shape == (height, width, 3), "the command wrote another size")
    return {"width": width, "height": height, "processes": facts}


def bars(results: Mapping[str, Any], images: str) -> list[Bar]:
    """What was promised beside what was found."""
    made, found = [], results["repair"][images]
    for name, limit in GAIN_BARS.items():
        row = found[name]
        text = f"{row['gain_db']:+.2f} dB ({row['damaged_db']:.2f} to {row['restored_db']:.2f})"
        made.append(Bar(f"{name}, {images}, gain on Y", f"at least {limit:+.1f} dB", text, row["gain_db"] >= limit))
    holes = results["inpainting"]
    ours, best = holes["all"]["vaert_db"], max(holes["all"][f"telea_{radius}_db"] for radius in RADII)
    text = f"{ours - best:+.2f} dB ({best:.2f} to {ours:.2f})"
    made.append(Bar("PSNR in holes beside Telea's", f"at least {HOLE_BAR:+.1f} dB", text, ours - best >= HOLE_BAR))
    changed = holes["known_pixels_changed"]
    made.append(Bar("known pixels of all pictures", "unchanged", f"{changed} changed", changed == 0))
    largest = results["tiles"]["largest_difference"]
    made.append(Bar("tiled and untiled", "within 1 level", f"{largest} levels", largest <= 1))
    for name, facts in results["memory"]["processes"].items():
        text = f"{facts['peak_bytes'] / 1e9:.2f} GB ({facts['seconds']:.0f} s)"
        what = f"{name}, 12 megapixels, peak memory"
        made.append(Bar(what, f"below {BAR_BYTES / 1e9:g} GB", text, facts["peak_bytes"] < BAR_BYTES))
    return made


if __name__ == "__main__":
    raise SystemExit(main())
