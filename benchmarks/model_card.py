"""Put measured rates into a package's manifest and write its model card.

python -m benchmarks.model_card --package vaert/models/fast --rates benchmarks/results/rate_distortion.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from vaert.atomic import write_atomic
from vaert.package import MANIFEST, Manifest, Package

CARD = "MODEL_CARD.md"
DATA = {
    "bsds400": "BSDS500 `train` and `test` (400 photographs, 481x321, JPEG)",
    "imagenet": "826 ImageNet photographs, one per class at most, shrunk to a short side of 288 pixels (JPEG, 4:4:4)",
}


def main() -> int:
    """Read both, refuse figures of another model, write card and manifest."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.model_card", description=__doc__)
    options.add_argument("--package", type=Path, required=True, help="package folder")
    options.add_argument("--rates", type=Path, required=True, help="JSON of benchmarks.rate_distortion")
    given = options.parse_args()
    package, record = Package.open(given.package), json.loads(given.rates.read_text("utf-8"))
    measured = int(record["results"]["model"]["model_id"], 16)
    if measured != package.manifest.model_id:
        raise SystemExit(f"{given.rates} was measured with model {measured:016x}, not {package.manifest.model_id:016x}")
    rates = {
        "measured_on": f"{record['results']['images']} images, means, whole files",
        "points": [{key: p[key] for key in ("quality", "bpp", "psnr")} for p in record["results"]["points"]],
    }
    card = text(package.manifest, record).encode()
    files = {**package.manifest.files, CARD: hashlib.sha256(card).hexdigest()}
    manifest = replace(package.manifest, rates=rates, files=dict(sorted(files.items())))
    write_atomic(given.package / CARD, card, force=True)
    write_atomic(given.package / MANIFEST, manifest.to_json().encode(), force=True)
    print(f"{given.package / CARD}: {len(rates['points'])} qualities")
    return 0


def text(manifest: Manifest, record: dict[str, Any]) -> str:
    """The card as Markdown."""
    training, verification = manifest.training, manifest.verification
    sources = "\n".join(f"- {DATA.get(name, name)}" for name in training["data"])
    jpeg = record["results"]["bd_rates"][0]
    rows = "\n".join(
        f"| {p['quality']:g} | {p['bpp']:.3f} | {p['psnr']:.2f} | {p['ms_ssim']:.4f} |"
        for p in record["results"]["points"]
    )
    return f"""# {manifest.name}: variable-rate image codec, profile `{manifest.profile}`

Model {manifest.model_id:016x}, {manifest.precision}. Compresses photographs to `.vaert` files at any quality from 1 to
100 and back. Not meant for screenshots of text, medical pictures or anything where single pixels decide; a picture
that must not change belongs in a lossless format.

## Training

{sources}

{training["pictures"]} pictures after those held out; never on Kodak, Set5, Set14 or BSD100. {training["steps"]} steps
in {training["hours"]} hours of wall-clock time on {record["machine"]["cpu"]}, {record["machine"]["cores"]} cores, seed
{training["seed"]}; recipe: docs/training.md.

## Rate and distortion

{record["results"]["images"]} images (Kodak), means; whole files; PSNR in RGB on 8 bits. BD-rate against JPEG (Pillow,
4:2:0, optimised): {jpeg["percent"]:+.1f} % over {jpeg["low"]:.2f} to {jpeg["high"]:.2f} dB.

| quality | bpp | PSNR (dB) | MS-SSIM |
|---|---|---|---|
{rows}

## Exactness

Largest absolute sum any row of the prior's layers can reach, of the 2^24 that float32 carries exactly:
{", ".join(f"{name} {bound}" for name, bound in verification["largest_sums"].items())}. Against torch at export:
{verification["latents_different"]} of {verification["latents_compared"]} latents differ, pixels by at most
{verification["largest_pixel_difference"]} level. Weights are stored as float16; the graphs are made from those.

## Licence

Non-commercial research and education only, as the training photographs are: see LICENSE beside this file.
"""


if __name__ == "__main__":
    raise SystemExit(main())
