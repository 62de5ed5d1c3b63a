"""Hidden parts of a digit, inferred by iterating on the latents z of a VAE through its exported graphs alone.

The known pixels x_k say what z can be, p(z | x_k) ~ p(x_k | z) p(z), and z says what the hidden ones are:

1. Explore. Fill the hidden pixels, encode, draw z, decode, fill again (Rezende, Mohamed, Wierstra: Stochastic
   Backpropagation, 2014, appendix F), with many fills at once; between rounds those are kept that explain the known
   pixels best (population Monte Carlo: weights are p(x_k | z) p(z) / q(z), q the mixture of all encodings so far).
2. Climb. From the best few that differ, Gauss-Newton steps to the maximum of p(z | x_k) nearby. The decoder's
   derivatives are differences of decoded batches, as an exported graph has no others.
3. Weigh. Each maximum stands for the mass around it (Laplace's method); the hidden pixels are the mean of the decoded
   pictures under these masses.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from vaert.errors import ImageError, OptionError
from vaert.runtime.digit_vae import DigitVAE, Double, Pixels

Mask = npt.NDArray[np.bool_]
FILLS = 64  # at once, while exploring
ROUNDS = 4
STARTS = 4
STEPS = 8  # of Gauss-Newton at most; four are enough for most digits
LITTLE = 1e-3  # nats: where a step promises less, the top is reached
WIDENED = 1.2  # proposals are that much wider than the encoder's posterior, which is narrow
LEAST_EFFECTIVE = 0.3  # share of the fills that the weights must leave alive, else they are tempered
DIFFERENCE = 1e-2  # step of the finite differences, in standard deviations of the prior
STEP_LENGTHS = np.array([1.0, 0.5, 0.25, 0.1, 0.0])
APART = 20.0  # nats that a start may explain the known pixels worse if its hidden ones differ e times as much


def inpaint(model: DigitVAE, digit: Pixels, hidden: Mask, *, seed: int = 0) -> Pixels:
    """Restore the hidden pixels of one digit.

    Args:
        model: a VAE of digits.
        digit: uint8 (H, W) of the model's size, white on black; what it holds where it is hidden does not matter.
        hidden: bool (H, W).
        seed: of the random draws, at least 0; the same seed gives the same pixels.

    Returns:
        A copy with the hidden pixels restored and all others unchanged.

    Raises:
        ImageError: the digit has another size, the mask is not of the digit's size or hides all of it.
        OptionError: the seed is negative.
        BackendError: the engine failed.
    """
    if seed < 0:
        raise OptionError(f"seed must be at least 0, not {seed}")
    _check(model, digit, hidden)
    restored = digit.copy()
    if hidden.any():
        problem = _Problem(model, digit, hidden)
        z = _explore(problem, np.random.Generator(np.random.Philox(seed)))
        restored[hidden] = np.rint(255 * _weigh(problem, z)).astype(np.uint8)
    return restored


def _check(model: DigitVAE, digit: Pixels, hidden: Mask) -> None:
    size = (model.height, model.width)
    if digit.dtype != np.uint8 or digit.shape != size:
        raise ImageError(
            f"{model.package.manifest.name} restores grey pictures of {model.width}x{model.height} pixels, found "
            f"{digit.dtype} {digit.shape}: crop or scale the picture first"
        )
    if hidden.dtype != np.bool_ or hidden.shape != size:
        raise ImageError(f"the mask must be of the picture's size {size}, found {hidden.dtype} {hidden.shape}")
    if hidden.all():
        raise ImageError("the mask hides every pixel, expected some known ones: use `vaert generate` for new digits")


@dataclass(frozen=True)
class _Moments:
    """Likelihood of the known pixels to second order in the logits: value (N,), slope and curvature (N, known)."""

    value: Double
    slope: Double
    curvature: Double  # expected (Fisher), so never negative


class _Problem:
    """One damaged digit before a model: pixels are flat here, D = H W of them."""

    def __init__(self, model: DigitVAE, digit: Pixels, hidden: Mask) -> None:
        config = model.package.manifest.config
        self.model, self.hidden = model, hidden.ravel()
        self._digit, self._known = digit.ravel(), digit[~hidden] / 255.0
        self._variance = float(config["variance"]) if config["likelihood"] == "gaussian" else None

    def encode(self, levels: Double) -> tuple[Double, Double]:
        """Mean and standard deviation of q(z | x), (N, L), for hidden pixels filled with 0..1, (N, hidden)."""
        filled = np.tile(self._digit, (len(levels), 1))
        filled[:, self.hidden] = np.rint(255 * levels)
        found = self.model.encode(filled.reshape(-1, self.model.height, self.model.width))
        return found.mean.astype(np.float64), found.deviation.astype(np.float64)

    def decode(self, z: Double) -> tuple[Double, Double]:
        """Logits of the known and means (0..1) of the hidden pixels, (N, known) and (N, hidden)."""
        logits = self.model.decode(z).reshape(len(z), -1).astype(np.float64)
        return logits[:, ~self.hidden], _sigmoid(logits[:, self.hidden])

    def moments(self, logits: Double) -> _Moments:
        """log p(x_k | z), up to a constant, and its derivatives by the logits of the known pixels, (N, known)."""
        mean = _sigmoid(logits)
        error, slope = self._known - mean, mean * (1 - mean)
        if self._variance is None:
            return _Moments((self._known * logits - np.logaddexp(0, logits)).sum(1), error, slope)
        v = self._variance
        return _Moments(-np.square(error).sum(1) / (2 * v), error * slope / v, np.square(slope) / v)

    def log_joint(self, z: Double, logits: Double) -> Double:
        """log p(x_k, z) up to a constant, (N,)."""
        return np.asarray(self.moments(logits).value - 0.5 * np.square(z).sum(-1))


@dataclass
class _Population:
    """Draws of z with what they decode to, and the proposals that they were drawn from."""

    z: Double  # (N, L)
    known: Double  # logits, (N, known)
    hidden: Double  # means in 0..1, (N, hidden)
    mean: Double  # of the proposals, (N, L)
    deviation: Double  # (N, L)

    def joined(self, other: _Population) -> _Population:
        """Both as one."""
        return _Population(*(np.concatenate([getattr(one, f.name) for one in (self, other)]) for f in fields(self)))

    def log_weights(self, problem: _Problem) -> Double:
        """log p(x_k, z) / q(z), up to a constant, with q the mixture of all proposals (N,)."""
        return problem.log_joint(self.z, self.known) - _log_mixture(self.z, self.mean, self.deviation)


def _explore(problem: _Problem, generator: np.random.Generator) -> Double:
    """Latents from which to climb, (STARTS, L): draws that explain the known pixels and differ in the hidden ones."""
    shape = (FILLS, problem.model.latents)
    levels = problem.decode(generator.standard_normal(shape))[1]
    population, weights = None, np.empty(0)
    for _ in range(ROUNDS):
        if population is not None:
            levels = population.hidden[_resample(weights, FILLS, generator)]
        mean, deviation = problem.encode(levels)
        deviation *= WIDENED
        z = mean + deviation * generator.standard_normal(shape)
        drawn = _Population(z, *problem.decode(z), mean, deviation)
        population = drawn if population is None else population.joined(drawn)
        weights = population.log_weights(problem)
    assert population is not None
    return population.z[_different(weights, population.hidden, STARTS)]


def _log_mixture(z: Double, mean: Double, deviation: Double) -> Double:
    """Log density of points (N, L) under the even mixture of M diagonal Gaussians (M, L): (N,), up to a constant."""
    precision = 1 / np.square(deviation)
    squares = np.square(z) @ precision.T - 2 * z @ (mean * precision).T + (np.square(mean) * precision).sum(1)
    terms = -0.5 * squares - np.log(deviation).sum(1)
    most = terms.max(1)
    return np.asarray(most + np.log(np.exp(terms - most[:, None]).mean(1)))


def _resample(log_weights: Double, count: int, generator: np.random.Generator) -> npt.NDArray[np.intp]:
    """Indices drawn by weight (systematic resampling); weights are flattened until enough draws stay alive."""
    share = _normalised(log_weights)
    for temperature in np.geomspace(1, 0.01, 24):
        share = _normalised(temperature * log_weights)
        if 1 / np.square(share).sum() >= LEAST_EFFECTIVE * count:
            break
    places = (generator.random() + np.arange(count)) / count
    return np.minimum(np.searchsorted(np.cumsum(share), places), len(share) - 1)


def _normalised(log_weights: Double) -> Double:
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())


def _different(log_weights: Double, hidden: Double, count: int) -> list[int]:
    """Indices of draws with large weights that differ from each other in the hidden pixels, the best one first."""
    chosen = [int(np.argmax(log_weights))]
    distance = np.full(len(hidden), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(hidden - hidden[chosen[-1]]).mean(1))
        chosen.append(int(np.argmax(log_weights + APART * np.log(distance + 1e-6))))
    return chosen


def _derivatives(problem: _Problem, z: Double) -> tuple[Double, Double, Double]:
    """Logits of the known pixels (S, known), their derivatives by z (S, L, known), and the hidden means (S, hidden)."""
    count, latents = z.shape
    steps = DIFFERENCE * np.concatenate([np.zeros((1, latents)), np.eye(latents)])
    logits, hidden = problem.decode((z[:, None] + steps).reshape(-1, latents))
    logits = logits.reshape(count, latents + 1, -1)
    slopes = (logits[:, 1:] - logits[:, :1]) / DIFFERENCE
    return logits[:, 0], slopes, hidden.reshape(count, latents + 1, -1)[:, 0]


def _climb(problem: _Problem, z: Double) -> tuple[Double, Double]:
    """Hidden means (S, hidden) at the maxima of p(z | x_k) near z, (S, L), and the log of the mass around each."""
    for step in range(STEPS + 1):
        logits, slopes, hidden = _derivatives(problem, z)
        moments = problem.moments(logits)
        # The prior's precision, 1, is in it, so that it is positive definite.
        precision = np.einsum("sik,sk,sjk->sij", slopes, moments.curvature, slopes, optimize=True) + np.eye(z.shape[1])
        uphill = np.einsum("sik,sk->si", slopes, moments.slope) - z
        direction = np.linalg.solve(precision, uphill[..., None])[..., 0]
        if step == STEPS or (uphill * direction).sum(1).max() < LITTLE:
            break
        z = _longest_gain(problem, z, direction)
    return hidden, problem.log_joint(z, logits) - 0.5 * np.linalg.slogdet(precision)[1]


def _longest_gain(problem: _Problem, z: Double, direction: Double) -> Double:
    """The best of a few step lengths along a direction, (S, L) -> (S, L); none at all where all of them lose."""
    tried = z[:, None] + STEP_LENGTHS[:, None] * direction[:, None]
    flat = tried.reshape(-1, z.shape[1])
    gains = problem.log_joint(flat, problem.decode(flat)[0]).reshape(len(z), -1)
    return np.asarray(tried[np.arange(len(z)), gains.argmax(1)])


def _weigh(problem: _Problem, starts: Double) -> Double:
    """Hidden pixels, 0..1: mean over the maxima that are reached from the starts, by their masses."""
    hidden, mass = _climb(problem, starts)
    return np.asarray(_normalised(mass) @ hidden)


def _sigmoid(logits: Double) -> Double:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))
