"""Made pictures to compare backends and packages with, where there are no real ones at hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
SIZES = ((512, 768), (768, 512), (500, 333))  # height, width; the last no multiple of anything
DIGITS = 40


def made_pictures(sizes: tuple[tuple[int, int], ...] = SIZES) -> list[Pixels]:
    """Pictures of these sizes, uint8 RGB (H, W, 3): the same every time, but for rounding by 1 level."""
    return [made_picture(height, width, seed=seed) for seed, (height, width) in enumerate(sizes)]


def made_picture(height: int, width: int, *, seed: int = 0) -> Pixels:
    """Noise with the falling spectrum of photographs, edges, a texture and a flat patch, uint8 RGB (H, W, 3).

    A rate on it is near a photograph's; noise alone or plain waves are far off.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    planes = np.empty((height, width, 3))
    shared = _noise(rng, frequency, (height, width))
    for channel in range(3):
        planes[..., channel] = 120 + 45 * (0.85 * shared + 0.5 * _noise(rng, frequency, (height, width)))
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    disc = (x - 0.3 * width) ** 2 + (y - 0.4 * height) ** 2 < (0.2 * min(height, width)) ** 2
    planes[disc] += (50, -30, -60)
    stripes = (x > 0.6 * width) & (y > 0.6 * height)
    planes[stripes] += 30 * np.sin((x + 0.5 * y)[stripes] / 2.5)[:, None]
    planes[: height // 8, : width // 8] = (200, 190, 170)
    return np.clip(np.rint(planes), 0, 255).astype(np.uint8)


def _noise(
    rng: np.random.Generator, frequency: npt.NDArray[np.float64], shape: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Of mean 0 and deviation 1, its amplitude spectrum falling with frequency to the power 1.5."""
    spectrum = rng.normal(size=(*frequency.shape, 2)) @ np.array([1, 1j])
    plane = np.fft.irfft2(spectrum / frequency**1.5, shape)
    return np.asarray(plane / plane.std())


def made_digits(count: int = DIGITS, *, binary: bool = False) -> Pixels:
    """Drawn digits, white on black, uint8 (count, 28, 28); `binary` for values of 0 and 255 alone."""
    import cv2

    rng, digits = np.random.default_rng(0), np.zeros((count, 28, 28), np.uint8)
    for number, digit in enumerate(digits):
        x, y, thickness = int(rng.integers(5, 9)), int(rng.integers(20, 25)), int(rng.integers(1, 4))
        cv2.putText(digit, str(number % 10), (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, thickness, cv2.LINE_AA)
    return np.where(digits < 128, 0, 255).astype(np.uint8) if binary else digits
