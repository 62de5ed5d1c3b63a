"""Reader and writer of the .vaert container, version 1. `docs/format.md` is the specification.

A file is a header and then sections, each with its own CRC-32. The parser checks every size against the bytes that
are there before it builds anything, and every way to be wrong is a `BitstreamError` with its own message.
"""

import struct
import zlib
from dataclasses import dataclass

from vaert._digit_sections import check_digits, check_names, read_digits, write_digits
from vaert._layout import (
    ANCILLARY,
    CRC,
    DIGIT_PIXELS,
    DIGIT_SIDE,
    DOWNSCALE,
    GROUP_SIZE,
    HEADER,
    HEADER_SIZE,
    LOSSLESS_QUALITY,
    MAGIC,
    MAX_PIXELS,
    OVERHEAD,
    VERSION,
    DigitsStream,
    Group,
    Header,
    Hyper,
    Kind,
    Latents,
    PhotoStream,
    SectionType,
    Stream,
)
from vaert._photo_sections import check_photo, read_photo, write_photo
from vaert._sections import SectionReader, section, walk
from vaert._varint import zigzag_decode, zigzag_encode
from vaert.errors import BitstreamError, OptionError

__all__ = [
    "ANCILLARY",
    "DIGIT_PIXELS",
    "DIGIT_SIDE",
    "DOWNSCALE",
    "GROUP_SIZE",
    "HEADER_SIZE",
    "LOSSLESS_QUALITY",
    "MAGIC",
    "MAX_PIXELS",
    "VERSION",
    "DigitsStream",
    "Group",
    "Header",
    "Hyper",
    "Kind",
    "Latents",
    "PhotoStream",
    "Report",
    "SectionReport",
    "SectionType",
    "Stream",
    "check_names",
    "group_grid",
    "inspect",
    "parse",
    "parse_digits",
    "parse_photo",
    "read_header",
    "write",
    "zigzag_decode",
    "zigzag_encode",
]

_DIGITS = (Kind.DIGITS, Kind.LOSSLESS_DIGITS)
_PHOTOS = (Kind.PHOTO, Kind.DOWNSCALED_PHOTO)


@dataclass(frozen=True)
class SectionReport:
    """One section as found in a file: `offset` and `size` in bytes cover the section's head, payload and checksum."""

    name: str
    offset: int
    size: int
    checksum_ok: bool


@dataclass(frozen=True)
class Report:
    """What `inspect` found: `ok` tells whether `parse` accepts the file, `verdict` is "ok" or why it does not.

    `stream` is what `parse` made of it, None if it does not accept the file.
    """

    header: Header
    sections: tuple[SectionReport, ...]
    stream: Stream | None
    verdict: str

    @property
    def ok(self) -> bool:
        """Whether `parse` accepts the file."""
        return self.stream is not None


def group_grid(width: int, height: int) -> list[Group]:
    """Groups of a picture of `width` x `height` pixels, row by row from the top left; those at the far edges are cut.

    Raises:
        OptionError: a side below 1.
    """
    if width < 1 or height < 1:
        raise OptionError(f"a picture has at least 1x1 pixels, found {width}x{height}")
    cells = [(x, y) for y in range(0, height, GROUP_SIZE) for x in range(0, width, GROUP_SIZE)]
    return [
        Group(index, x, y, min(GROUP_SIZE, width - x), min(GROUP_SIZE, height - y))
        for index, (x, y) in enumerate(cells)
    ]


def write(stream: Stream) -> bytes:
    """Bytes of the file that holds `stream`.

    The result has been read back with `parse`, so nothing that a reader would refuse is ever written.

    Raises:
        OptionError: a field does not fit its place in the file.
        BitstreamError: the parts contradict each other (wrong number of groups, alpha without an alpha channel, names
            that cannot be files in one folder, ...).
    """
    header = stream.header
    try:
        head = HEADER.pack(
            MAGIC, VERSION, header.kind, 0, header.model_id, header.width, header.height, header.channels,
            header.quality_u16,
        )  # fmt: skip
        parts = [head, CRC.pack(zlib.crc32(head))]
        parts += write_photo(stream) if isinstance(stream, PhotoStream) else write_digits(stream)
        parts.append(section(SectionType.END, b""))
    except struct.error as error:
        raise OptionError(f"a field does not fit its place in the file: {error}") from error
    data = b"".join(parts)
    parse(data, max_pixels=_no_limit(header, len(data)))
    return data


def read_header(data: bytes) -> Header:
    """Header of the file that starts with `data` (at least `HEADER_SIZE` bytes); sections are not looked at.

    Raises:
        BitstreamError: not a vaert file, another version, or a damaged header.
    """
    _check_magic(data)
    # The place of the version number is the same in all versions; what follows it is not.
    if len(data) >= 10 and (version := int.from_bytes(data[8:10], "little")) != VERSION:
        raise BitstreamError(
            f"the file has format version {version}, this reader knows version {VERSION}: update vaert"
        )
    if len(data) < HEADER_SIZE:
        raise BitstreamError(f"the header is cut: found {len(data)} of {HEADER_SIZE} bytes, get the whole file again")
    if zlib.crc32(data[: HEADER.size]) != CRC.unpack_from(data, HEADER.size)[0]:
        raise BitstreamError("the header's checksum does not match: the file is damaged, get it again")
    _, _, kind, flags, model_id, width, height, channels, quality = HEADER.unpack_from(data)
    if kind not in Kind._value2member_map_:
        raise BitstreamError(f"unknown kind {kind}, expected 1 to {max(Kind)}: update vaert")
    if flags:
        raise BitstreamError(f"reserved header flags are set (0x{flags:02x}, expected 0): update vaert")
    if width == 0 or height == 0:
        raise BitstreamError(f"the header says {width}x{height} pixels, expected at least 1x1: the file is damaged")
    if not 1 <= channels <= 4:
        raise BitstreamError(f"the header says {channels} channels, expected 1 to 4: the file is damaged")
    if not 256 <= quality <= 25600:
        raise BitstreamError(f"the header says quality {quality / 256}, expected 1 to 100: the file is damaged")
    return Header(Kind(kind), model_id, width, height, channels, quality)


def parse(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Stream:
    """The whole file `data`, with every checksum, order and count checked.

    Args:
        data: the bytes of the file.
        max_pixels: refuse a picture, or digits, of more than this many pixels before anything is built.

    Raises:
        BitstreamError: the file is damaged, cut, not ours, too large or of another version.
    """
    header = read_header(data)
    sections = SectionReader(data)
    stream: Stream
    if header.kind in _DIGITS:
        check_digits(header)
        stream = read_digits(header, sections, max_pixels=max_pixels)
    else:
        check_photo(header, len(data), max_pixels=max_pixels)
        stream = read_photo(header, sections)
    sections.finish()
    return stream


def parse_photo(data: bytes, *, max_pixels: int = MAX_PIXELS) -> PhotoStream:
    """The same for a file that must hold a photo, down-scaled or not. BitstreamError also for any other kind."""
    _check_kind(data, _PHOTOS, "a photo; this codec cannot decode it")
    stream = parse(data, max_pixels=max_pixels)
    assert isinstance(stream, PhotoStream)  # for the type checker: the kind decides
    return stream


def parse_digits(data: bytes, *, max_pixels: int = MAX_PIXELS) -> DigitsStream:
    """The same for a file that must hold digits, lossless or not. BitstreamError also for any other kind."""
    _check_kind(data, _DIGITS, "digits; this model cannot decode it")
    stream = parse(data, max_pixels=max_pixels)
    assert isinstance(stream, DigitsStream)  # as above
    return stream


def inspect(data: bytes) -> Report:
    """Facts about the file `data` for a person to read; damage after the header is reported, not raised.

    Raises:
        BitstreamError: the header itself cannot be read.
    """
    header = read_header(data)
    found: list[SectionReport] = []
    try:
        for part in walk(data):
            size = len(part.payload) + OVERHEAD
            found.append(SectionReport(part.name, part.offset, size, part.checksum_ok))
        stream = parse(data, max_pixels=_no_limit(header, len(data)))
    except BitstreamError as error:
        return Report(header, tuple(found), None, str(error))
    return Report(header, tuple(found), stream, "ok")


def _no_limit(header: Header, size: int) -> int:
    """A bound on pixels that a picture's own header meets; of digits one that their names' memory sets."""
    return max(header.width * header.height, MAX_PIXELS) if header.kind in _DIGITS else header.width * header.height


def _check_kind(data: bytes, kinds: tuple[Kind, ...], wanted: str) -> None:
    if (kind := read_header(data).kind) not in kinds:
        raise BitstreamError(f"the file holds {kind.name.lower()}, not {wanted}")


def _check_magic(data: bytes) -> None:
    if data[: len(MAGIC)] == MAGIC:
        return
    if not data:
        raise BitstreamError("not a vaert file: it is empty")
    if len(data) < len(MAGIC) and MAGIC.startswith(data):
        raise BitstreamError(f"the header is cut: found {len(data)} of {HEADER_SIZE} bytes, get the whole file again")
    if data[:4] == MAGIC[:4]:
        raise BitstreamError("line ends in the file were converted: transfer it in binary mode, not as text")
    raise BitstreamError(f"not a vaert file: it starts with {data[: len(MAGIC)].hex(' ')}, not {MAGIC.hex(' ')}")
