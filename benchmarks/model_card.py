"""Put measured figures into a package's model card, and a codec's rates into its manifest.

python -m benchmarks.model_card --package vaert/models/fast --results benchmarks/results/rate_distortion.json
python -m benchmarks.model_card --package vaert/models/mnist-conv --results benchmarks/results/digits.json --only conv
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import Any

from vaert.atomic import write_atomic
from vaert.package import CODEC, DIGITS, LOSSLESS_DIGITS, MANIFEST, RESTORER, UPSCALER, Manifest, Package

CARD = "MODEL_CARD.md"
DATA = {
    "bsds400": "BSDS500 `train` and `test` (400 photographs, 481x321, JPEG)",
    "imagenet": "826 ImageNet photographs, one per class at most, shrunk to a short side of 288 pixels (JPEG, 4:4:4)",
    "mnist": "MNIST, the first 9,000 of the 10,000 digits of t10k-images; its last 1,000 evaluate",
}
HELD_OUT = {True: "never on Kodak, Set5, Set14 or BSD100", False: "never on the digits that evaluate"}
LICENCES = {
    True: "Non-commercial research and education only, as the training photographs are: see LICENSE beside this file.",
    False: "Creative Commons Attribution-Share Alike 3.0, as MNIST is: see LICENSE beside this file.",
}
PURPOSES = {
    CODEC: (
        "variable-rate image codec",
        "Compresses photographs to `.vaert` files at any quality from 1 to 100 and back. Not meant for screenshots of "
        "text, medical pictures or anything where single pixels decide; a picture that must not change belongs in a "
        "lossless format.",
    ),
    DIGITS: (
        "VAE of handwritten digits",
        "Generates, compresses, restores and interpolates grey digits of 28x28 pixels, white on black. It knows "
        "nothing else: other pictures come back as something like a digit.",
    ),
    LOSSLESS_DIGITS: (
        "lossless compression of handwritten digits by bits-back coding",
        "Compresses grey digits of 28x28 pixels without loss. Other pictures of that size come back as exactly, in "
        "larger files.",
    ),
    UPSCALER: (
        "upscaler of photographs",
        "A conditional VAE that enlarges photographs shrunk by bicubic down-scaling. At detail 0 it gives its best "
        "guess; with detail it draws texture that is plausible and not a record: no evidence, no measurement.",
    ),
    RESTORER: (
        "restorer of photographs",
        "A conditional VAE that removes compression damage (JPEG, WebP) and fills holes. What it puts into a hole is "
        "plausible at best and not a record: no evidence, no measurement.",
    ),
}


def main() -> int:
    """Read both, refuse figures of another codec, write card and manifest."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.model_card", description=__doc__)
    options.add_argument("--package", type=Path, required=True, help="package folder")
    options.add_argument("--results", type=Path, action="append", required=True, help="JSON of a benchmark; repeatable")
    options.add_argument("--only", action="append", default=[], help="rows of the results that hold this; repeatable")
    given = options.parse_args()
    package = Package.open(given.package)
    records = [read(path, package.manifest.model_id) for path in given.results]
    rates = dict(package.manifest.rates)
    if package.manifest.kind == CODEC:
        rates = measured_rates(records[0])
    card = text(package.manifest, records, only=given.only).encode()
    files = {**package.manifest.files, CARD: hashlib.sha256(card).hexdigest()}
    manifest = replace(package.manifest, rates=rates, files=dict(sorted(files.items())))
    write_atomic(given.package / CARD, card, force=True)
    write_atomic(given.package / MANIFEST, manifest.to_json().encode(), force=True)
    print(given.package / CARD)
    return 0


def read(path: Path, model_id: int) -> dict[str, Any]:
    """A benchmark's results, refused if they are not those of this model."""
    data = path.read_text("utf-8")
    if f"{model_id:016x}" not in data:
        raise SystemExit(f"{path} holds no results of model {model_id:016x}: run the benchmark with this package")
    record: dict[str, Any] = json.loads(data)
    return record


def measured_rates(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a codec's manifest says of its rates."""
    return {
        "measured_on": f"{record['results']['images']} images, means, whole files",
        "points": [{key: p[key] for key in ("quality", "bpp", "psnr")} for p in record["results"]["points"]],
    }


def text(manifest: Manifest, records: list[dict[str, Any]], *, only: list[str]) -> str:
    """The card as Markdown."""
    what, purpose = PURPOSES[manifest.kind]
    training, photos = manifest.training, "mnist" not in manifest.training["data"]
    sources = "\n".join(f"- {DATA.get(name, name)}" for name in training["data"])
    held_out = "after those held out; " if photos else "to train on; "
    machine = f"{records[0]['machine']['cpu']}, {records[0]['machine']['cores']} cores"
    history = (
        f"{training['pictures']} pictures {held_out}{HELD_OUT[photos]}. {training['steps']} steps in "
        f"{training['hours']} hours of wall-clock time on a shared machine ({machine}), seed {training['seed']}; "
        "recipe: docs/training.md."
    )
    measured = rate_distortion(records[0]) if manifest.kind == CODEC else rows(records, only)
    return f"""# {manifest.name}: {what}

{fill(f"Model {manifest.model_id:016x}, {manifest.precision}. {purpose}", 120)}

## Training

{sources}

{fill(history, 120)}

## Measured

{measured}

## Export

{verification(manifest)}

## Licence

{LICENCES[photos]}
"""


def rate_distortion(record: Mapping[str, Any]) -> str:
    """A codec's rates and fidelities."""
    jpeg = record["results"]["bd_rates"][0]
    points = "\n".join(
        f"| {p['quality']:g} | {p['bpp']:.3f} | {p['psnr']:.2f} | {p['ms_ssim']:.4f} |"
        for p in record["results"]["points"]
    )
    return f"""{record["results"]["images"]} images (Kodak), means; whole files; PSNR in RGB on 8 bits. BD-rate against
JPEG (Pillow, 4:2:0, optimised): {jpeg["percent"]:+.1f} % over {jpeg["low"]:.2f} to {jpeg["high"]:.2f} dB.

| quality | bpp | PSNR (dB) | MS-SSIM |
|---|---|---|---|
{points}"""


def rows(records: list[dict[str, Any]], only: list[str]) -> str:
    """What the benchmarks found, beside what was asked for."""
    bars = [bar for record in records for bar in record["bars"]]
    chosen = [bar for bar in bars if not only or any(part in bar["what"] for part in only)]
    if not chosen:
        raise SystemExit(f"no row of the results holds {' or '.join(only)}: there are {[b['what'] for b in bars]}")
    lines = "\n".join(f"| {bar['what']} | {bar['measured']} | {bar['bar']} |" for bar in chosen)
    commands = ", ".join(f"`{record['command']}`" for record in records)
    return f"{commands}\n\n| what | measured | bar |\n|---|---|---|\n{lines}"


def verification(manifest: Manifest) -> str:
    """How the package was checked when it was made."""
    found = dict(manifest.verification)
    sums = found.pop("largest_sums", {})
    found.pop("against", None)  # torch, always
    against = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.items())
    parts = [f"Graphs compared with torch: {against}. Weights are stored as float16; the graphs are made from those."]
    if sums:
        listed = ", ".join(f"{name} {bound}" for name, bound in sums.items())
        parts = [
            f"Largest absolute sum any row of the exact layers can reach, of the 2^24 that float32 carries: {listed}.",
            f"Graphs compared with torch: {against}.",
        ]
    return "\n\n".join(fill(part, 120) for part in parts)


if __name__ == "__main__":
    raise SystemExit(main())
