"""The networks of the trainer: transform start, prior, rate and gains."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr

from vaert.trainer.models import dct
from vaert.trainer.models.blocks import Block, clamp_st, floor_st, round_st
from vaert.trainer.models.codec import PROFILES, CodecConfig, CodecVAE, gaussian_bits
from vaert.trainer.models.prior import (
    HIDDEN_MAX,
    MEAN_MAX,
    SCALES,
    SIXTEENTHS,
    ExactPrior,
    Moments,
    neighbours,
    pack,
    scale_of,
    unpack,
)
from vaert.trainer.objective import RateDistortion, psnr

TINY = CodecConfig(
    channels=12, latents=16, hyper=8, hidden=8, mix=12, encoder_blocks=1, decoder_blocks=1, expansion=2, anchors=4
)


def smooth_picture(size: int) -> torch.Tensor:
    """Slow waves of every colour in -1/2..1/2, (1, 3, size, size)."""
    y, x = np.mgrid[:size, :size] / size
    planes = [np.sin(5 * x + 2 * y), np.cos(4 * y - x), np.sin(3 * x * y + 1)]
    return torch.from_numpy(np.stack(planes) * 0.4).float()[None]


@pytest.mark.parametrize("n", [1, 8, 16])
def test_dct_matrix_is_orthonormal(n: int) -> None:
    matrix = dct.dct_matrix(n)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(n), atol=1e-12)


def test_dct_matrix_orders_rows_by_frequency() -> None:
    changes = [np.count_nonzero(np.diff(np.sign(row))) for row in dct.dct_matrix(8)]
    assert changes == list(range(8))


def test_colour_basis_is_orthonormal_and_begins_with_grey() -> None:
    basis = dct.colour_basis()
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(basis[0], np.full(3, 3**-0.5))


def test_lowest_frequencies_are_orthonormal_and_low_first() -> None:
    rows = dct.lowest_frequencies(8, (6, 2, 1))
    assert rows.shape == (9, 192)
    np.testing.assert_allclose(rows @ rows.T, np.eye(9), atol=1e-12)
    np.testing.assert_allclose(rows[0], np.full(192, 192**-0.5))  # the mean of the patch


@pytest.mark.parametrize(("channels", "luma"), [(96, 0.5), (192, 0.7), (7, 0.5), (12, 0.5)])
def test_luma_chroma_split_shares_out_every_channel(channels: int, luma: float) -> None:
    split = dct.luma_chroma_split(channels, luma)
    assert sum(split) == channels
    assert split[0] >= split[2] >= split[1] >= 0


def test_merge_of_a_whole_basis_turns_small_coefficients_into_large_ones() -> None:
    rows8, rows16 = dct.lowest_frequencies(8, (64, 64, 64)), dct.lowest_frequencies(16, (9, 4, 4))
    patch = np.random.default_rng(0).normal(size=(3, 16, 16))
    quarters = patch.reshape(3, 2, 8, 2, 8).transpose(1, 3, 0, 2, 4).reshape(2, 2, 192)
    merged = np.einsum("mcij,ijc->m", dct.merge_2x2(rows16, rows8), quarters @ rows8.T)
    np.testing.assert_allclose(merged, rows16 @ patch.reshape(-1), atol=1e-10)


@pytest.mark.parametrize("profile", ["fast", "base"])
def test_a_new_codec_already_is_one(profile: str) -> None:
    torch.manual_seed(0)
    model = CodecVAE(PROFILES[profile]).eval()
    x = smooth_picture(128)
    with torch.no_grad():
        fine, coarse = (float(psnr((model(x, torch.tensor([q]), None)[0] - x).square().mean())) for q in (100.0, 1.0))
    assert fine > 45  # measured: 52 and 51
    assert 30 < coarse < fine  # measured: 34


def test_a_new_block_is_the_identity() -> None:
    x = torch.randn(1, 6, 5, 7)
    assert torch.equal(Block(6, 4)(x), x)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (round_st, [-2.0, 0.0, 2.0, 3.0]),
        (floor_st, [-2.0, 0.0, 1.0, 2.0]),
    ],
)
def test_straight_through_rounding(function: object, expected: list[float]) -> None:
    x = torch.tensor([-1.6, 0.5, 1.5, 2.7], requires_grad=True)
    y = function(x)  # type: ignore[operator]
    y.sum().backward()
    assert y.tolist() == expected
    assert x.grad is not None
    assert x.grad.tolist() == [1.0] * 4


@pytest.mark.parametrize(("pull", "passes"), [(1.0, [0.0, 1.0, 1.0]), (-1.0, [-1.0, -1.0, 0.0])])
def test_clamp_lets_only_gradients_through_that_pull_back_in(pull: float, passes: list[float]) -> None:
    x = torch.tensor([-3.0, 0.5, 3.0], requires_grad=True)
    y = clamp_st(x, -1, 1)
    (pull * y).sum().backward()  # type: ignore[no-untyped-call]
    assert y.tolist() == [-1.0, 0.5, 1.0]
    assert x.grad is not None
    assert x.grad.tolist() == passes


shapes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_pack_is_what_its_docstring_says_and_unpack_undoes_it(shape: tuple[int, int, int, int]) -> None:
    n, c, h, w = shape[0], shape[1], 2 * shape[2], 2 * shape[3]
    x = torch.arange(n * c * h * w).reshape(n, c, h, w)
    anchors, rest = pack(x)
    for y in range(h):
        for j in range(w // 2):
            assert torch.equal(anchors[:, :, y, j], x[:, :, y, 2 * j + y % 2])
            assert torch.equal(rest[:, :, y, j], x[:, :, y, 2 * j + 1 - y % 2])
    assert torch.equal(unpack(anchors, rest), x)


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_neighbours_against_a_loop_over_positions(shape: tuple[int, int, int, int]) -> None:
    n, c, h, w = shape[0], shape[1], 2 * shape[2], 2 * shape[3]
    x = torch.arange(1, 1 + n * c * h * w).reshape(n, c, h, w)
    found = neighbours(pack(x)[0])
    padded = torch.zeros(n, c, h + 2, w + 2, dtype=x.dtype)
    padded[:, :, 1:-1, 1:-1] = x
    for y in range(h):
        for j in range(w // 2):
            column = 2 * j + 1 - y % 2  # of the element that is not an anchor
            around = [(y - 1, column), (y + 1, column), (y, column - 1), (y, column + 1)]
            expected = torch.cat([padded[:, :, b + 1, a + 1] for b, a in around], 1)
            assert torch.equal(found[:, :, y, j], expected)


@pytest.mark.parametrize("scale", [0.11, 0.5, 1.0, 7.0, 200.0])
def test_gaussian_bits_against_scipy(scale: float) -> None:
    v = np.linspace(-4 * scale - 1, 4 * scale + 1, 41)
    upper, lower = log_ndtr((0.5 - np.abs(v)) / scale), log_ndtr((-0.5 - np.abs(v)) / scale)
    expected = np.minimum(-(upper + np.log1p(-np.exp(lower - upper))) / math.log(2), -math.log2(1e-9))
    found = gaussian_bits(torch.from_numpy(v), torch.tensor(scale, dtype=torch.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_gaussian_bits_of_all_integers_are_a_distribution() -> None:
    v = torch.arange(-50, 51).double()
    assert float(torch.exp2(-gaussian_bits(v, torch.tensor(2.5))).sum()) == pytest.approx(1, abs=1e-5)


def test_hyper_latent_density_is_a_distribution() -> None:
    density = CodecVAE(TINY).density
    z = torch.arange(-127.0, 128.0).repeat(1, TINY.hyper, 1, 1)
    np.testing.assert_allclose(density.probability(z).sum(-1).detach(), 1, atol=1e-4)


def test_gains_are_the_anchors_and_geometric_means_between() -> None:
    model = CodecVAE(TINY)
    with torch.no_grad():
        model.log_gain.copy_(torch.randn_like(model.log_gain))
        quality = torch.linspace(1, 100, TINY.anchors)
        gain, inverse = model.gains(quality)
        np.testing.assert_allclose(gain[:, :, 0, 0], torch.exp(model.log_gain), rtol=1e-4)
        np.testing.assert_allclose(inverse[:, :, 0, 0], torch.exp(model.log_inverse_gain), rtol=1e-4)
        middle = model.gains((quality[:1] + quality[1:2]) / 2)[0][0, :, 0, 0]
    np.testing.assert_allclose(middle, torch.sqrt(gain[0] * gain[1])[:, 0, 0], rtol=1e-4)


def test_lambda_runs_from_its_smallest_to_its_largest_value() -> None:
    model = CodecVAE(TINY)
    found = model.lagrange(torch.tensor([1.0, 50.5, 100.0]))
    low, high = TINY.lambda_min, TINY.lambda_max
    np.testing.assert_allclose(found, [low, math.sqrt(low * high), high], rtol=1e-5)


def test_the_loss_is_rate_and_weighted_distortion() -> None:
    torch.manual_seed(0)
    model = CodecVAE(TINY)
    batch = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    loss, metrics = RateDistortion(model)(batch, torch.Generator().manual_seed(3))
    u = torch.rand((3, 1), generator=torch.Generator().manual_seed(3))
    t = (u[1] + u[2]) / 2 if u[0] < 0.5 else u[1]
    lagrange = float(model.lagrange(1 + 99 * t))
    mse = 10 ** (-float(metrics["psnr"]) / 10)
    weight = math.sqrt(math.sqrt(TINY.lambda_min * TINY.lambda_max) / lagrange)
    assert float(loss.detach()) == pytest.approx((float(metrics["bpp"]) + lagrange * 255**2 * mse) * weight, rel=1e-4)


def observed_prior(spread: float = 30) -> tuple[ExactPrior, torch.Tensor, torch.Tensor]:
    """A prior with lively outputs that has seen these hyper-latents and anchors."""
    torch.manual_seed(1)
    prior = ExactPrior(latents=16, hyper=8, hidden=16, mix=24)
    with torch.no_grad():
        for out in (prior.o0, prior.o1):
            torch.nn.init.normal_(out.weight, std=0.2)
    z = torch.randint(-20, 21, (2, 8, 4, 4)).float()
    anchors = spread * torch.randn(2, 16, 16, 8)
    prior.observe(True)
    with torch.no_grad():
        for _ in range(3):
            moments_of(prior, z, anchors)
    prior.observe(False)
    return prior, z, anchors


def moments_of(prior: ExactPrior, z: torch.Tensor, anchors: torch.Tensor) -> tuple[Moments, Moments]:
    features = pack(prior.hyper_features(z))
    return prior.anchor_moments(features[0]), prior.context_moments(features[1], anchors)


@pytest.mark.parametrize("spread", [3, 300])  # 300 is beyond what the context sees without dropping bits
def test_freezing_gives_whole_numbers_in_range(spread: float) -> None:
    prior, z, anchors = observed_prior(spread)
    prior.freeze()
    assert (float(prior.context_shift.max()) > 4) == (spread > 127)
    with torch.no_grad():
        features = prior.hyper_features(z)
        moments = moments_of(prior, z, anchors)
    assert torch.equal(features, features.round())
    assert 0 <= float(features.min()) < float(features.max()) <= HIDDEN_MAX
    for part in moments:
        sixteenths = part.mean * SIXTEENTHS
        assert torch.equal(sixteenths, sixteenths.round())
        assert float(sixteenths.abs().max()) <= MEAN_MAX
        assert torch.equal(part.index, part.index.round())
        assert 0 <= float(part.index.min()) < float(part.index.max()) <= SCALES - 1


def test_freezing_hardly_changes_the_bits() -> None:
    prior, z, anchors = observed_prior()
    with torch.no_grad():
        before = moments_of(prior, z, anchors)
        prior.freeze()
        after = moments_of(prior, z, anchors)
        for a, b in zip(before, after, strict=True):
            symbols = a.mean + scale_of(a.index) * torch.randn_like(a.mean)
            float_bits, integer_bits = (gaussian_bits(symbols - m.mean, scale_of(m.index)).sum() for m in (a, b))
            assert float(integer_bits / float_bits) == pytest.approx(1, abs=0.03)  # measured: 1.007 and 1.011


def test_exported_integers_are_what_the_frozen_layers_compute() -> None:
    prior, z, _ = observed_prior()
    prior.freeze()

    def run(name: str, a: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        layer = prior.layers()[name].export()
        weight, bias, shift = (part.astype(np.int64) for part in (layer.weight, layer.bias, layer.shift))
        total = np.einsum("oi,nihw->nohw", weight, a) + bias[:, None, None]
        y: npt.NDArray[np.int64] = total >> shift[:, None, None]
        return np.clip(y, 0, HIDDEN_MAX) if prior.layers()[name].hidden else y

    with torch.no_grad():
        first = prior.h1(z)
        packed = torch.nn.functional.pixel_shuffle(first, 2)
        second = prior.h2(packed)
        out = prior.o0(prior.a0(torch.nn.functional.pixel_shuffle(second, 2)))
    np.testing.assert_array_equal(run("h1", z.numpy().astype(np.int64)), first)
    np.testing.assert_array_equal(run("h2", packed.numpy().astype(np.int64)), second)
    shuffled = torch.nn.functional.pixel_shuffle(second, 2).numpy().astype(np.int64)
    np.testing.assert_array_equal(run("o0", run("a0", shuffled)), out)


def test_a_frozen_prior_stays_frozen_when_it_is_loaded() -> None:
    prior, z, anchors = observed_prior()
    prior.freeze()
    other = ExactPrior(latents=16, hyper=8, hidden=16, mix=24)
    other.load_state_dict(prior.state_dict())
    assert other.integer
    with torch.no_grad():
        for a, b in zip(moments_of(prior, z, anchors), moments_of(other, z, anchors), strict=True):
            assert torch.equal(a.mean, b.mean)
            assert torch.equal(a.index, b.index)


def test_elements_with_index_zero_cost_nothing_and_carry_nothing() -> None:
    torch.manual_seed(0)
    model = CodecVAE(TINY)
    model.prior.observe(True)
    x = smooth_picture(64)
    with torch.no_grad():
        model(x, torch.tensor([50.0]), None)
        model.prior.freeze()
        for out in (model.prior.o0, model.prior.o1):
            out.bias[model.prior.latents :] = -100.0
        rate = model.rate(torch.randn(1, TINY.latents, 4, 4) * 50, torch.zeros(1, TINY.hyper, 1, 1), None)
        zeros = model.rate(torch.zeros(1, TINY.latents, 4, 4), torch.zeros(1, TINY.hyper, 1, 1), None)
    assert float(rate.bits.abs().max()) == 0
    assert torch.equal(rate.latents, zeros.latents)
