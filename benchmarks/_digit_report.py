"""The tables of the benchmarks of digits, for `benchmarks.report`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from benchmarks._markdown import table


def digits(results: dict[str, Any]) -> Iterator[str]:
    """Bytes at equal fidelity: models, PCA, formats of pictures."""
    targets = [f"{target:.4g} dB" for target in results["targets_db"]]
    split = results["data"][:1].upper() + results["data"][1:]
    yield f"{split}.\n\n{results['digits']} digits, mean over digits of PSNR at least that of the column.\n"
    rows = []
    for model in results["models"]:
        name = f"{model['model']['name']}, {model['latents']} latents"
        for what, key in (("payload", "payload_bytes_per_digit"), ("whole file with names", "bytes_per_digit")):
            reached = ("not reached" if r is None else f"{r[key]:.2f}" for r in model["at_targets"])
            rows.append((f"{name}, {what}", *reached))
    for name, key in (("clusters", "bytes_per_digit"), ("one table per component", "one_table_per_component")):
        rows.append((f"PCA, entropy-constrained, {name}", *(_bytes(r[key]) for r in results["pca"])))
    for name, forms in results["formats"].items():
        rows += [(f"{name}, {form}", *(f"{r['bytes_per_digit']:.1f}" for r in found)) for form, found in forms.items()]
    yield table(("bytes per digit at", *targets), rows)
    small = results["scaled_down"]
    yield (
        f"For comparison: a digit has {results['raw_bytes']} bytes; scaled down to 16x16, which has 256, and up again, "
        f"by {small['filters']}, it keeps {small['psnr_db']:.2f} dB, the last target.\n"
    )
    first = next(row for row in results["models"][0]["at_targets"] if row is not None)
    yield (
        f"A file's container takes {first['container_bytes']} bytes and each name "
        f"{first['names_bytes_per_digit']:.2f}; a file of a single digit has {first['single_file_bytes']:.1f} bytes on "
        "average.\n"
    )


def _bytes(value: float | None) -> str:
    return "not reached" if value is None or math.isinf(value) else f"{value:.2f}"


def likelihood(results: dict[str, Any]) -> Iterator[str]:
    """ELBO and NLL of every model."""
    rows = [
        (f"{m['model']['name']}, {m['latents']} latents", *(f"{m[key]:.2f}" for key in ("elbo", "nll", "psnr")))
        for m in results["models"]
    ]
    yield "Dynamically binarised pixels, 500 importance samples a digit, nats.\n"
    yield table(("model", "ELBO", "NLL", "reconstruction (dB)"), rows)


def inpainting(results: dict[str, Any]) -> Iterator[str]:
    """PSNR over hidden pixels by every method."""
    yield "![Original, damaged, Telea, ridge regression, ours](images/digits_inpainting.png)\n"
    yield f"{results['digits']} digits; mean over digits of the PSNR over the hidden pixels (dB).\n"
    found = results["psnr_db"]
    methods = list(next(iter(found.values())))
    yield table(("", *methods), [(name, *(f"{row[m]:.2f}" for m in methods)) for name, row in found.items()])


def lossless(results: dict[str, Any]) -> Iterator[str]:
    """Bits per pixel of every coder."""
    yield f"{results['digits']} digits, bits per pixel without any container of ours; every digit came back.\n"
    for kind in ("raw", "binary"):
        row = results[kind]
        ours = (row["model"]["name"], str(row["bits_per_pixel_of_small_files"]["1"]), str(row["bits_per_pixel"]))
        others = [(name, *map(str, (r["per digit"], r["all in one"]))) for name, r in row["others"].items()]
        yield table((f"{kind} digits", "a file per digit", "all in one"), [ours, *others])


DETAILS = {
    "digits": digits,
    "digits_likelihood": likelihood,
    "digits_inpainting": inpainting,
    "lossless_digits": lossless,
}
