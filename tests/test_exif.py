"""EXIF blocks: what is corrected in them, and damaged ones."""

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata_files import png, tiff
from PIL import ExifTags, Image

from vaert._exif import corrected_exif
from vaert._ifd import exif_facts, read_directory
from vaert.metadata import Metadata, read_metadata


@pytest.mark.parametrize("order", ["<", ">"])
def test_corrected_exif(order: str) -> None:
    thumbnail = [(0x0201, 4, 1, 0), (0x0112, 3, 1, 6)]
    inner = [(0xA002, 3, 1, 10), (0xA003, 4, 1, 20), (0x0112, 3, 1, 6)]
    block = tiff(
        order, [(0x0100, 3, 1, 10), (0x0101, 3, 1, 20), (0x0112, 3, 1, 8), (0x8769, 4, 1, 1)], inner, thumbnail
    )
    fixed = corrected_exif(block, width=70000, height=60000)
    expected = tiff(
        order,
        [(0x0100, 4, 1, 70000), (0x0101, 3, 1, 60000), (0x0112, 3, 1, 1), (0x8769, 4, 1, 1)],
        [(0xA002, 4, 1, 70000), (0xA003, 4, 1, 60000), (0x0112, 3, 1, 6)],
        thumbnail,
    )
    end = 8 + 2 + 12 * 4
    assert fixed == expected[:end] + bytes(4) + expected[end + 4 :]
    assert corrected_exif(fixed, width=70000, height=60000) == fixed


def test_the_thumbnail_is_not_found_any_more() -> None:
    data = tiff("<", [(0x0112, 3, 1, 1)], [(0x0100, 3, 1, 160)])
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + data)
    assert exif.get_ifd(ExifTags.IFD.IFD1)
    fixed = corrected_exif(data, width=1, height=1)
    assert fixed is not None
    exif.load(b"Exif\0\0" + fixed)
    assert not exif.get_ifd(ExifTags.IFD.IFD1)


def test_odd_orientations_become_plain() -> None:
    for kind, count, value in ((4, 1, 6), (1, 1, 6), (3, 2, 6), (2, 1, 6), (99, 7, 6)):
        fixed = corrected_exif(tiff("<", [(0x0112, kind, count, value)]), width=1, height=1)
        assert fixed == tiff("<", [(0x0112, 4 if kind == 4 else 3, 1, 1)])


def test_damaged_exif_is_no_exif() -> None:
    good = tiff("<", [(0x0112, 3, 1, 6), (0x8769, 4, 1, 1)], [(0xA002, 3, 1, 10)])
    assert corrected_exif(good[: len(good) - 4], width=1, height=1)  # the offset behind the last directory may miss
    for length in range(len(good) - 4):
        assert corrected_exif(good[:length], width=1, height=1) is None
    at = good.index(struct.pack("<HHI", 0x8769, 4, 1)) + 8
    for inner in (0, 4, 8, 10, 36, len(good) - 1, 2**32 - 1):
        wrong = good[:at] + struct.pack("<I", inner) + good[at + 4 :]
        assert corrected_exif(wrong, width=1, height=1) is None, inner
    assert corrected_exif(tiff("<", [(0x0110, 3, 9, 2**16 - 1)]), width=1, height=1) is None
    found = read_metadata(png((b"eXIf", good[:20])))
    assert found == Metadata(problems=("EXIF not kept: it is damaged",))


def test_a_text_outside_the_block_does_not_cost_the_rest() -> None:
    block = tiff("<", [(0x010F, 2, 900, 2**31), (0x0112, 3, 1, 6)])
    assert read_metadata(png((b"eXIf", block))) == Metadata(exif=block)
    assert corrected_exif(block, width=1, height=1) == tiff("<", [(0x010F, 2, 900, 2**31), (0x0112, 3, 1, 1)])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_random_exif_is_corrected_or_refused_as_the_reader_of_orientations_does(choices: st.DataObject) -> None:
    order = choices.draw(st.sampled_from("<>"))
    block = bytearray(tiff(order, [(0x0100, 3, 1, 9), (0x0112, 3, 1, 6), (0x8769, 4, 1, 1)], [(0xA002, 4, 1, 9)]))
    for _ in range(choices.draw(st.integers(0, 3))):
        block[choices.draw(st.integers(0, len(block) - 1))] = choices.draw(st.integers(0, 255))
    fixed = corrected_exif(bytes(block), width=33, height=44)
    try:
        read_directory(bytes(block))
    except ValueError:
        assert fixed is None
        return
    if fixed is not None:
        assert len(fixed) == len(block)
        assert exif_facts(fixed)[0] == 1
        directory = read_directory(fixed)
        assert directory.next == 0
        assert directory.first(0x0100, 33) == 33


def test_tags_that_all_cover_the_whole_block_are_refused_at_once() -> None:
    count = 2000
    tags = b"".join(struct.pack("<HHII", 1000 + n, 1, 8 + 2 + 12 * count + 4, 0) for n in range(count))
    block = b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4)
    tracemalloc.start()
    assert exif_facts(block) == (1, True)
    assert corrected_exif(block, width=3, height=2) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(block)
