"""How well a VAE of digits models digits that it has not seen: ELBO, importance-weighted likelihood, reconstruction."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vaert.errors import OptionError
from vaert.idx import SIDE, Digits, load_split
from vaert.metrics import psnr

if TYPE_CHECKING:
    from vaert.runtime.digit_vae import DigitVAE

Pixels = npt.NDArray[np.uint8]
Double = npt.NDArray[np.float64]
SAMPLES = 500
SEED = 0
SHOWN = 20  # digits in the plot
_GROUP = 4  # digits whose samples are decoded together


@dataclass(frozen=True)
class Likelihood:
    """How a model reads pixels: `bernoulli` on binarised ones, or `gaussian` on grey ones in 0..1."""

    kind: str
    variance: float | None  # of the Gaussian

    def of(self, x: Double, logits: Double) -> Double:
        """log p(x | z) in nats of pixels in 0..1, (..., D), before logits, (..., D): (...)."""
        if self.variance is None:
            return np.asarray((x * logits - np.logaddexp(0, logits)).sum(-1))
        mean = 0.5 * (1 + np.tanh(0.5 * logits))
        constant = x.shape[-1] * math.log(2 * math.pi * self.variance)
        return np.asarray(-0.5 * (np.square(x - mean).sum(-1) / self.variance + constant))

    def __str__(self) -> str:
        if self.variance is None:
            return f"Bernoulli likelihood, pixels dynamically binarised (seed {SEED})"
        return f"Gaussian likelihood of variance {self.variance:g}, grey pixels in 0..1"


@dataclass(frozen=True)
class DigitEvaluation:
    """What `evaluate_digits` found: means over the digits, in nats and dB."""

    model: str
    model_id: str  # hexadecimal
    digits: int
    split: str
    likelihood: str
    latents: int
    samples: int
    seed: int
    elbo: float
    nll: float  # importance-weighted: an upper bound of -log p(x) that tightens with `samples`
    psnr: float

    def to_dict(self) -> dict[str, object]:
        """The same as types that JSON knows."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for people to read."""
        return [
            f"{self.model} (model {self.model_id}), {self.latents} latents, {self.digits} digits: {self.split}",
            self.likelihood,
            f"ELBO {self.elbo:.2f} nats",
            f"NLL {self.nll:.2f} nats (importance-weighted, {self.samples} samples a digit)",
            f"reconstruction from the posterior mean {self.psnr:.2f} dB",
        ]


def evaluate_digits(
    model: str | os.PathLike[str] | DigitVAE,
    data: Path,
    *,
    samples: int = SAMPLES,
    plot: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> DigitEvaluation:
    """Measure `model` on the digits in the folder `data` that nothing is trained on, through its exported graphs.

    Args:
        model: a bundled model's name or a package folder, of kind digits, or an opened model.
        data: folder with the IDX files of MNIST (`vaert.idx.load_split`).
        samples: draws of z from q(z | x) a digit, at least 1.
        plot: PNG to write; it must not exist.
        progress: called with the number of finished digits and of all digits.
        threads: CPU threads, all cores if None; those of an opened model are its own.

    Raises:
        DataError, ModelError, BackendError, OptionError, OutputError: as the parts say.
    """
    from vaert.runtime.digit_vae import DigitVAE

    if samples < 1:
        raise OptionError(f"samples must be at least 1, not {samples}")
    if plot is not None:
        from vaert.atomic import check_output

        check_output(plot, force=False)
    vae = model if isinstance(model, DigitVAE) else DigitVAE(model, threads=threads)
    split = load_split(data)
    likelihood = _likelihood(vae)
    bounds = _bounds(vae, split.test, likelihood, samples=samples, progress=progress)
    restored = vae.render(vae.encode(split.test).mean)
    if plot is not None:
        _write_plot(plot, vae, split, restored)
    manifest = vae.package.manifest
    return DigitEvaluation(
        model=manifest.name,
        model_id=f"{manifest.model_id:016x}",
        digits=len(split.test),
        split=split.description,
        likelihood=str(likelihood),
        latents=vae.latents,
        samples=samples,
        seed=SEED,
        elbo=float(bounds[:, 0].mean()),
        nll=-float(bounds[:, 1].mean()),
        psnr=math.fsum(psnr(a, b) for a, b in zip(split.test, restored, strict=True)) / len(restored),
    )


def _likelihood(vae: DigitVAE) -> Likelihood:
    config = vae.package.manifest.config
    kind = str(config["likelihood"])
    return Likelihood(kind, float(config["variance"]) if kind == "gaussian" else None)


def _bounds(
    vae: DigitVAE,
    digits: Pixels,
    likelihood: Likelihood,
    *,
    samples: int,
    progress: Callable[[int, int], None] | None,
) -> Double:
    """ELBO and importance-weighted bound of log p(x) in nats of each digit, (N, 2)."""
    generator = np.random.Generator(np.random.Philox(SEED))
    if likelihood.variance is None:
        # Dynamic binarisation (Burda et al. 2016, section 5): every pixel is white with its grey value as probability.
        digits = np.where(generator.random(digits.shape) < digits / 255, 255, 0).astype(np.uint8)
    found = []
    for start in range(0, len(digits), _GROUP):
        group = digits[start : start + _GROUP]
        weights = _log_weights(vae, group, likelihood, samples=samples, generator=generator)
        # log p(x) >= E log mean w >= E mean log w, the last of which is the ELBO (Burda, Grosse, Salakhutdinov:
        # Importance Weighted Autoencoders, 2016, eq. 8 and theorem 1).
        found.append(np.stack([weights.mean(1), _log_mean_exp(weights)], 1))
        if progress is not None:
            progress(start + len(group), len(digits))
    return np.concatenate(found)


def _log_weights(
    vae: DigitVAE, digits: Pixels, likelihood: Likelihood, *, samples: int, generator: np.random.Generator
) -> Double:
    """log p(x, z) / q(z | x) of `samples` draws of z from q(z | x), (N, samples), for digits (N, H, W)."""
    posterior = vae.encode(digits)
    noise = generator.standard_normal((len(digits), samples, vae.latents))
    z = posterior.mean[:, None] + posterior.deviation[:, None] * noise
    logits = vae.decode(z.reshape(-1, vae.latents)).reshape(len(digits), samples, -1)
    x = digits.reshape(len(digits), 1, -1) / 255
    # The constants of both Gaussians, -1/2 log 2 pi for each latent, cancel.
    log_prior = -0.5 * np.square(z).sum(-1)
    log_q = -0.5 * (np.square(noise) + posterior.log_variance[:, None]).sum(-1)
    return np.asarray(likelihood.of(x, logits.astype(np.float64)) + log_prior - log_q)


def _log_mean_exp(values: Double) -> Double:
    """log of the mean of exp, over the last axis."""
    most = values.max(-1)
    return np.asarray(most + np.log(np.exp(values - most[..., None]).mean(-1)))


def _write_plot(path: Path, vae: DigitVAE, split: Digits, restored: Pixels) -> None:
    """Originals over their reconstructions; for two latents also the posterior means, coloured by label."""
    from matplotlib.figure import Figure

    from vaert.atomic import write_atomic

    shown = min(SHOWN, len(restored))
    rows = np.stack([split.test[:shown], restored[:shown]])
    strip = rows.transpose(0, 2, 1, 3).reshape(2 * SIDE, shown * SIDE)
    plane = vae.latents == 2
    figure = Figure(figsize=(10, 8.5 if plane else 1.5), layout="constrained")
    axes = figure.subplots(2, 1, height_ratios=(1, 6)) if plane else [figure.subplots()]
    axes[0].imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes[0].set_axis_off()
    axes[0].set_title(f"{vae.package.manifest.name}: originals over reconstructions", fontsize=9)
    if plane:
        mean = vae.encode(split.test).mean
        points = axes[1].scatter(mean[:, 0], mean[:, 1], c=split.test_labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=8)
        axes[1].set(xlabel="z1", ylabel="z2", title="posterior means", aspect="equal")
        figure.colorbar(points, ax=axes[1], ticks=range(10), label="digit")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    write_atomic(path, stream.getvalue(), force=False)
