"""Promise 4: tiles change nothing; and groups of the format's grid stand on their own."""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference_prior
from hypothesis import given
from hypothesis import strategies as st

from vaert import bitstream
from vaert.errors import BitstreamError
from vaert.runtime.codec import Codec
from vaert.runtime.groups import Strips, grid
from vaert.runtime.networks import TILE_PIXELS
from vaert.runtime.tiling import Span, cut, round_up, scaled, tile_size, tiles

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
QUALITY = 40.0


@pytest.fixture(scope="module")
def wide() -> Pixels:
    """Two groups side by side, the second one column of hyper-latents wide; edges, waves and noise."""
    y, x = np.mgrid[0:130, 0:2100].astype(np.float64)
    planes = [
        128 + 90 * np.sin(x / (9 + 7 * c) + y / 17) * np.cos(y / (5 + c)) + 40 * ((x // 37 + y // 29) % 2)
        for c in range(3)
    ]
    noise = np.random.default_rng(1).normal(0, 6, (130, 2100, 3))
    return np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def whole() -> Codec:
    return Codec("fast", threads=1, tile=4096)


@pytest.fixture(scope="module")
def data(whole: Codec, wide: Pixels) -> bytes:
    return whole.compress(wide, QUALITY)


@pytest.mark.parametrize("tile", [64, 192, 1024])
def test_a_tiled_decoder_gives_the_same_picture(whole: Codec, data: bytes, tile: int) -> None:
    tiled = Codec("fast", threads=1, tile=tile)
    stream = bitstream.parse_photo(data)
    assert len(stream.latents) == 2
    assert np.array_equal(tiled.decode_latents(stream), whole.decode_latents(stream))
    difference = tiled.decompress(data).astype(int) - whole.decompress(data)
    assert np.abs(difference).max() <= 1
    assert np.count_nonzero(difference) < difference.size / 1000


@pytest.mark.parametrize("tile", [64, 192, 1024])
def test_a_tiled_encoder_gives_the_same_latents(whole: Codec, wide: Pixels, tile: int) -> None:
    tiled = Codec("fast", threads=1, tile=tile)
    a, b = whole.analyse(wide), tiled.analyse(wide)
    latents = whole.package.manifest.config["latents"]
    for one, other in zip(a.parts(), b.parts(), strict=True):
        assert one.latents.shape == other.latents.shape
        assert np.abs(one.latents - other.latents).max() < 1e-4 * np.abs(one.latents).max()
    assert [one.latents.shape for one in a.parts()] == [(12, 132, latents), (12, 8, latents)]
    for one, other in zip(*(codec.attempt(a, round(QUALITY * 256)).groups() for codec in (whole, tiled)), strict=True):
        # a value on the edge between two integers
        assert np.count_nonzero(one.hyper != other.hyper) <= one.hyper.size / 1000


def test_a_tiled_writers_file_is_as_good(whole: Codec, wide: Pixels, data: bytes) -> None:
    tiled = Codec("fast", threads=1, tile=128)
    other = tiled.compress(wide, QUALITY)
    assert len(other) == pytest.approx(len(data), rel=0.001)
    assert np.abs(whole.decompress(other).astype(int) - tiled.decompress(other)).max() <= 1


def test_groups_decode_as_the_reference_says(whole: Codec, data: bytes) -> None:
    latents = whole.decode_latents(bitstream.parse_photo(data))
    assert np.array_equal(latents, reference_prior.decode(whole.package, data))


def test_a_tall_picture_decodes_as_the_reference_says(whole: Codec, wide: Pixels) -> None:
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2)[:, :60])
    data = whole.compress(tall, 70)
    assert np.array_equal(
        whole.decode_latents(bitstream.parse_photo(data)), reference_prior.decode(whole.package, data)
    )


def test_a_grid_of_groups_comes_back_in_order(whole: Codec) -> None:
    """2x2 groups, each of a colour of its own."""
    pixels = np.empty((2080, 2080, 3), np.uint8)
    halves = (slice(0, 2048), slice(2048, 2080))
    colours = [(200, 40, 60), (30, 180, 90), (60, 70, 220), (120, 120, 120)]
    for (rows, columns), colour in zip(itertools.product(halves, halves), colours, strict=True):
        pixels[rows, columns] = colour
    data = whole.compress(pixels, 80)
    assert len(bitstream.parse_photo(data).latents) == 4
    decoded = Codec("fast", threads=1).decompress(data)  # cut into tiles by itself
    for rows, columns in itertools.product(halves, halves):
        inner = (slice(rows.start + 8, rows.stop - 8), slice(columns.start + 8, columns.stop - 8))
        assert np.abs(decoded[inner].astype(int) - pixels[inner]).mean() < 12


def test_groups_are_independent(whole: Codec, data: bytes) -> None:
    """Other residuals in one group change no latents of the other, on either side."""
    stream = bitstream.parse_photo(data)
    latents = whole.decode_latents(stream)
    border = 2048 // 16
    for changed in (0, 1):
        columns = slice(0, border) if changed == 0 else slice(border, None)
        other = slice(border, None) if changed == 0 else slice(0, border)
        broken = [replace(section) for section in stream.latents]
        broken[changed] = replace(broken[changed], words=b"", escapes=b"")
        found = decode_in_spite_of_checksums(whole, replace(stream, latents=tuple(broken)))
        assert np.array_equal(found[:, other], latents[:, other])
        assert not np.array_equal(found[:, columns], latents[:, columns])


def decode_in_spite_of_checksums(codec: Codec, stream: bitstream.PhotoStream) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Decode, giving each group the symbol checksum that the decoder asks for."""
    sections = list(stream.latents)
    for _ in range(2 * len(sections)):
        try:
            return codec.decode_latents(replace(stream, latents=tuple(sections)))
        except BitstreamError as error:
            found, wanted = (
                int(word, 16) for word in str(error).replace(",", "").split() if len(word) == 8 and is_hex(word)
            )
            place = next(i for i, section in enumerate(sections) if section.symbol_crc == wanted)
            sections[place] = replace(sections[place], symbol_crc=found)
    raise AssertionError("the checksums did not settle")


def is_hex(word: str) -> bool:
    return all(letter in "0123456789abcdef" for letter in word)


def test_swapped_groups_are_noticed(whole: Codec, data: bytes) -> None:
    stream = bitstream.parse_photo(data)
    first, second = stream.latents
    swapped = (replace(second, group=0), replace(first, group=1))
    with pytest.raises(BitstreamError, match="damaged latents"):
        whole.decode_latents(replace(stream, latents=swapped))
    assert zlib.crc32(first.words) != zlib.crc32(second.words)


def test_groups_are_coded_before_the_next_ones_are_analysed(
    whole: Codec, wide: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So latents of one group are all that is held, forth and back."""
    codec = Codec(whole.package, threads=1)
    seen: list[str] = []

    def watch(owner: object, name: str) -> None:
        inner = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            seen.append(name)
            return inner(*arguments, **named)

        monkeypatch.setattr(owner, name, watched)

    tall = np.ascontiguousarray(np.tile(wide[:128], (1, 3, 1)).transpose(1, 0, 2))  # 6300 rows: four groups
    watch(codec._networks, "analyse")
    watch(codec._coder, "encode")
    data = codec.compress(tall, QUALITY)
    assert seen == ["analyse", "encode"] * 4
    seen.clear()
    watch(codec._networks, "synthesise")
    watch(codec._prior, "decode")
    decoded = codec.decompress(data)
    assert seen == ["decode", "synthesise"] * 4
    assert np.abs(decoded.astype(int) - whole.decompress(data)).max() <= 1


@given(height=st.integers(1, 12), width=st.integers(1, 12), tile=st.integers(1, 6), halo=st.integers(0, 3))
def test_tiles_cover_everything_once_with_their_halo(height: int, width: int, tile: int, halo: int) -> None:
    height, width, tile, halo = 64 * height, 64 * width, 64 * tile, 64 * halo
    seen = np.zeros((height // 64, width // 64), int)
    for rows, columns in tiles(Span.whole(height), Span.whole(width), (tile, tile), halo):
        seen[rows.core.start // 64 : rows.core.stop // 64, columns.core.start // 64 : columns.core.stop // 64] += 1
        for span, length in ((rows, height), (columns, width)):
            assert span.outer.start == max(0, span.core.start - halo)
            assert span.outer.stop == min(length, span.core.stop + halo)
            assert span.core.start % tile == 0
            inner = span.inner(16)
            assert (inner.stop - inner.start) * 16 == span.core.stop - span.core.start
            assert span.outer.start + 16 * inner.start == span.core.start
    assert (seen == 1).all()


@given(length=st.integers(1, 5000), multiple=st.integers(1, 128))
def test_round_up(length: int, multiple: int) -> None:
    up = round_up(length, multiple)
    assert up % multiple == 0
    assert length <= up < length + multiple


@pytest.mark.parametrize("side", [1, 5, 63, 64])
def test_cut_repeats_the_last_row_and_column(side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (side, 70, 3), np.uint8)
    part = cut(pixels, slice(0, 64), slice(64, 128))
    expected = pixels[np.minimum(np.arange(64), side - 1)][:, np.minimum(np.arange(64, 128), 69)]
    assert part.flags.c_contiguous
    assert np.array_equal(part[0], expected)


@pytest.mark.parametrize(
    ("height", "width", "count"), [(1024, 1024, 1), (1088, 1920, 2), (64, 32768, 2), (2112, 2048, 6), (2048, 2048, 6)]
)
def test_large_regions_are_cut_by_themselves(whole: Codec, height: int, width: int, count: int) -> None:
    networks = Codec(whole.package, threads=1)._networks
    cut_up = list(networks._tiles((Span.whole(height), Span.whole(width)), "decoder"))
    assert len(cut_up) == count
    assert max(math.prod(span.outer.stop - span.outer.start for span in tile) for tile in cut_up) <= TILE_PIXELS


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), halo=st.integers(0, 3), most=st.integers(1, 400)
)  # in units of 16 pixels
def test_tile_sizes(height: int, width: int, halo: int, most: int) -> None:
    rows, columns = Span.whole(16 * height), Span.whole(16 * width)

    def seen(sides: tuple[int, int]) -> tuple[int, int]:
        areas = [
            math.prod(span.outer.stop - span.outer.start for span in tile)
            for tile in tiles(rows, columns, sides, 16 * halo)
        ]
        return max(areas), sum(areas)

    sides = tile_size(rows, columns, halo=16 * halo, most=256 * most, multiple=16)
    assert all(side % 16 == 0 for side in sides)
    largest, total = seen(sides)
    assert largest <= 256 * most or sides == (16, 16)
    for other in ((16 * height, 16 * width), (16 * height, 16), (16, 16 * width)):
        assert seen(other)[0] > 256 * most or seen(other)[1] >= total


@given(
    height=st.integers(1, 100), width=st.integers(1, 100), encoder=st.integers(1, 3), decoder=st.integers(1, 3)
)  # in units of 64 pixels; groups have 32 of them
def test_groups_get_what_they_must_see(height: int, width: int, encoder: int, decoder: int) -> None:
    """A picture whose elements are all different goes through the strips, to what a whole picture would give."""
    picture = np.arange(height * width).reshape(height, width, 1)
    analysed, synthesised = Strips(width), Strips(width)
    done = np.zeros((height, width), int)
    for row, column in grid((64 * height, 64 * width), encoder=64 * encoder, decoder=64 * decoder):
        region = picture[scaled(row.encoder, 64), scaled(column.encoder, 64)]
        seen = analysed.join(region, rows_kept=row.encoder_kept // 64, columns_kept=column.encoder_kept // 64)
        assert np.array_equal(seen, picture[scaled(row.seen.outer, 64), scaled(column.seen.outer, 64)])
        group = picture[scaled(row.group, 64), scaled(column.group, 64)]
        assert np.array_equal(seen[row.seen.inner(64), column.seen.inner(64)], group)
        for line, length in ((row, height), (column, width)):
            assert line.seen.outer.start == max(0, line.group.start - 64 * encoder)
            assert line.seen.outer.stop >= min(64 * length, line.group.stop + 64 * encoder)
        known = synthesised.join(group, rows_kept=row.decoder_kept // 64, columns_kept=column.decoder_kept // 64)
        assert np.array_equal(known, picture[scaled(row.decoder.outer, 64), scaled(column.decoder.outer, 64)])
        done[scaled(row.decoder.core, 64), scaled(column.decoder.core, 64)] += 1
        for line, length in ((row, height), (column, width)):
            assert line.decoder.outer.start == max(0, line.decoder.core.start - 64 * decoder)
            assert line.decoder.outer.stop == min(64 * length, line.decoder.core.stop + 64 * decoder)
    assert (done == 1).all()
