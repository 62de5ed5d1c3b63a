"""BD-rate on curves whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaert.anchors import published_curves
from vaert.bd_rate import Curve, bd_rate, psnr_interval
from vaert.errors import DataError

BPP = (0.1, 0.25, 0.5, 1.0, 2.0)
PSNR = (26.0, 29.0, 31.5, 34.0, 37.0)
REFERENCE = Curve("reference", BPP, PSNR)


def scaled(factor: float) -> Curve:
    return Curve("scaled", tuple(factor * rate for rate in BPP), PSNR)


@settings(deadline=None)  # the first call imports scipy
@given(st.floats(0.1, 10))
def test_a_curve_with_every_rate_scaled_has_that_bd_rate(factor: float) -> None:
    found = bd_rate(REFERENCE, scaled(factor), interval=(27.0, 36.0))
    assert found.percent == pytest.approx(100 * (factor - 1), abs=1e-9 * (1 + factor))
    assert found.complete


def test_a_fifth_less_rate_is_minus_twenty_percent() -> None:
    assert bd_rate(REFERENCE, scaled(0.8), interval=(26.0, 37.0)).percent == pytest.approx(-20, abs=1e-10)


def test_swapping_the_curves_inverts_the_ratio_of_rates() -> None:
    other = Curve("other", BPP, tuple(value + 0.3 * index for index, value in enumerate(PSNR)))
    one, two = (bd_rate(a, b, interval=(27.0, 36.0)).percent for a, b in ((REFERENCE, other), (other, REFERENCE)))
    assert (1 + one / 100) * (1 + two / 100) == pytest.approx(1, abs=1e-12)
    assert one < -1


def test_straight_lines_in_log_rate_give_the_closed_form() -> None:
    # log(bpp) = a + b * psnr with slopes 0.1 and 0.12, meeting at 30 dB: mean gap over 30..34 dB is 0.02 * 2.
    x = np.linspace(28, 36, 9)
    lines = [Curve(str(slope), tuple(np.exp(slope * (x - 30))), tuple(x)) for slope in (0.1, 0.12)]
    found = bd_rate(lines[0], lines[1], interval=(30.0, 34.0))
    assert found.percent == pytest.approx(100 * math.expm1(0.04), abs=1e-9)


def test_the_order_of_points_does_not_matter() -> None:
    turned = Curve("turned", BPP[::-1], PSNR[::-1])
    assert bd_rate(turned, scaled(0.5), interval=(27.0, 36.0)).percent == pytest.approx(-50, abs=1e-9)


def test_a_part_of_the_interval_is_flagged() -> None:
    short = Curve("short", BPP[1:4], PSNR[1:4])
    found = bd_rate(REFERENCE, short, interval=(27.0, 36.0))
    assert (found.low, found.high, found.complete) == (29.0, 34.0, False)
    assert abs(found.percent) < 1  # the same points, but their slopes at the ends differ


@pytest.mark.parametrize(
    ("curve", "text"),
    [
        (Curve("far", (0.1, 0.2), (50.0, 55.0)), "far and reference share no PSNR between 27.00 and 36.00 dB"),
        (Curve("one", (0.1,), (30.0,)), "one and reference share no PSNR"),
        (Curve("flat", (0.1, 0.2, 0.3), (28.0, 28.0, 30.0)), "flat has two points of the same PSNR"),
    ],
)
def test_curves_that_cannot_be_compared_are_refused(curve: Curve, text: str) -> None:
    with pytest.raises(DataError, match=text):
        bd_rate(REFERENCE, curve, interval=(27.0, 36.0))


def test_interval_ends_lie_on_the_curve() -> None:
    low, high, reached = psnr_interval(REFERENCE, 0.25, 1.0)
    assert (low, high) == pytest.approx((29.0, 34.0))
    assert reached
    low, high, reached = psnr_interval(REFERENCE, 0.05, 1.5)
    assert low == pytest.approx(26.0)
    assert 34.0 < high < 37.0
    assert not reached


def test_an_interval_beside_the_curve_is_refused() -> None:
    with pytest.raises(DataError, match=r"reference spends 0\.100 to 2\.000 bpp, expected rates between 3 and 4"):
        psnr_interval(REFERENCE, 3, 4)


def test_published_curves_agree_with_the_literature() -> None:
    curves = {curve.name: curve for curve in published_curves()}
    assert len(curves) == 14
    assert all((np.diff(c.bpp) > 0).all() and (np.diff(c.psnr) > 0).all() for c in curves.values())
    jpeg = curves["JPEG (Pillow 7.1, 4:2:0)"]
    low, high, reached = psnr_interval(jpeg, 0.25, 1.5)
    assert reached
    rates = {name: bd_rate(jpeg, curve, interval=(low, high)).percent for name, curve in curves.items()}
    assert rates[jpeg.name] == 0
    order = ["VVC intra (VTM)", "HEVC intra (HM)", "bmshj2018-factorized", "WebP", jpeg.name]
    assert sorted(order, key=rates.__getitem__) == order
