"""Reader and writer of the .vaert container, version 1. `docs/format.md` is the specification.

A file is a header and then sections, each with its own CRC-32. The parser checks every size against the bytes that
are there before it builds anything, and every way to be wrong is a `BitstreamError` with its own message.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from vaert._layout import (
    ANCILLARY,
    CRC,
    GROUP_SIZE,
    HEADER,
    HEADER_SIZE,
    LATENTS,
    MAGIC,
    MAX_PIXELS,
    OVERHEAD,
    PNG_FIXED,
    PNG_START,
    SECTION,
    VERSION,
    Group,
    Header,
    Hyper,
    Kind,
    Latents,
    SectionType,
    Stream,
)
from vaert._varint import zigzag_decode, zigzag_encode
from vaert.errors import BitstreamError, OptionError

__all__ = [
    "ANCILLARY",
    "GROUP_SIZE",
    "HEADER_SIZE",
    "MAGIC",
    "MAX_PIXELS",
    "VERSION",
    "Group",
    "Header",
    "Hyper",
    "Kind",
    "Latents",
    "Report",
    "SectionReport",
    "SectionType",
    "Stream",
    "group_grid",
    "inspect",
    "parse",
    "read_header",
    "write",
    "zigzag_decode",
    "zigzag_encode",
]


@dataclass(frozen=True)
class SectionReport:
    """One section as found in a file: `offset` and `size` in bytes cover the section's head, payload and checksum."""

    name: str
    offset: int
    size: int
    checksum_ok: bool


@dataclass(frozen=True)
class Report:
    """What `inspect` found: `ok` tells whether `parse` accepts the file, `verdict` is "ok" or why it does not."""

    header: Header
    sections: tuple[SectionReport, ...]
    ok: bool
    verdict: str


@dataclass(frozen=True)
class _Section:
    code: int
    offset: int
    payload: bytes
    checksum_ok: bool

    @property
    def name(self) -> str:
        if self.code in SectionType._value2member_map_:
            return SectionType(self.code).name
        return f"{'ancillary' if self.code & ANCILLARY else 'unknown'} 0x{self.code:04x}"

    @property
    def ancillary(self) -> bool:
        return bool(self.code & ANCILLARY)


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
        BitstreamError: the parts contradict each other (wrong number of groups, alpha without an alpha channel, ...).
    """
    header = stream.header
    try:
        head = HEADER.pack(
            MAGIC, VERSION, header.kind, 0, header.model_id, header.width, header.height, header.channels,
            header.quality_u16,
        )  # fmt: skip
        parts = [head, CRC.pack(zlib.crc32(head))]
        parts.append(_section(SectionType.HYPER, CRC.pack(stream.hyper.symbol_crc) + stream.hyper.words))
        for item in stream.latents:
            start = LATENTS.pack(item.group, item.symbol_crc, len(item.escapes))
            parts.append(_section(SectionType.LATENTS, start + item.escapes + item.words))
        if stream.alpha is not None:
            parts.append(_section(SectionType.ALPHA, stream.alpha))
        parts.append(_section(SectionType.END, b""))
    except struct.error as error:
        raise OptionError(f"a field does not fit its place in the file: {error}") from error
    data = b"".join(parts)
    parse(data, max_pixels=header.width * header.height)
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
        max_pixels: refuse pictures of more than this many pixels before anything is built.

    Raises:
        BitstreamError: the file is damaged, cut, not ours, too large or of another version.
    """
    header = read_header(data)
    if header.width * header.height > max_pixels:
        raise BitstreamError(
            f"the picture has {header.width}x{header.height} = {header.width * header.height} pixels, "
            f"the limit is {max_pixels}: raise it with --max-pixels"
        )
    groups = _group_count(header)
    least = _least_size(header, groups)
    if len(data) < least:
        raise BitstreamError(
            f"a picture of {header.width}x{header.height} has {groups} groups and takes at least {least} bytes, "
            f"found {len(data)}: the file is cut or damaged"
        )
    return _collect(header, groups, _checked_sections(data))


def inspect(data: bytes) -> Report:
    """Facts about the file `data` for a person to read; damage after the header is reported, not raised.

    Raises:
        BitstreamError: the header itself cannot be read.
    """
    header = read_header(data)
    found: list[SectionReport] = []
    try:
        for section in _walk(data):
            size = len(section.payload) + OVERHEAD
            found.append(SectionReport(section.name, section.offset, size, section.checksum_ok))
        parse(data, max_pixels=header.width * header.height)
    except BitstreamError as error:
        return Report(header, tuple(found), False, str(error))
    return Report(header, tuple(found), True, "ok")


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


def _group_count(header: Header) -> int:
    return -(-header.width // GROUP_SIZE) * -(-header.height // GROUP_SIZE)


def _least_size(header: Header, groups: int) -> int:
    """Size in bytes of the shortest file that `header` allows: every payload empty but for its fixed fields."""
    latents = groups * (OVERHEAD + LATENTS.size)
    alpha = OVERHEAD + PNG_START.size if header.has_alpha else 0
    return HEADER_SIZE + OVERHEAD + CRC.size + latents + alpha + OVERHEAD


def _section(code: SectionType, payload: bytes) -> bytes:
    body = SECTION.pack(code, len(payload)) + payload
    return body + CRC.pack(zlib.crc32(body))


def _walk(data: bytes) -> Iterator[_Section]:
    """Sections of `data` up to END or the end of the bytes, checksums computed but not judged."""
    offset = HEADER_SIZE
    view = memoryview(data)
    while offset < len(data):
        if len(data) - offset < OVERHEAD:
            raise BitstreamError(f"the file is cut inside the section at byte {offset}: get the whole file again")
        code, length = SECTION.unpack_from(data, offset)
        stop = offset + SECTION.size + length
        if stop + CRC.size > len(data):
            raise BitstreamError(
                f"the section at byte {offset} says {length} bytes of payload, only "
                f"{len(data) - offset - OVERHEAD} remain: the file is cut or damaged"
            )
        good = zlib.crc32(view[offset:stop]) == CRC.unpack_from(data, stop)[0]
        yield _Section(code, offset, data[offset + SECTION.size : stop], good)
        offset = stop + CRC.size
        if code == SectionType.END:
            break
    else:
        raise BitstreamError("the file ends without its END section: it is cut, get the whole file again")
    if offset != len(data):
        raise BitstreamError(f"{len(data) - offset} bytes follow the END section, expected none: the file is damaged")


def _checked_sections(data: bytes) -> Iterator[_Section]:
    """Critical sections of `data`, each with a good checksum and a known type; unknown ancillary ones are skipped."""
    for section in _walk(data):
        if not section.checksum_ok:
            raise BitstreamError(
                f"the checksum of section {section.name} at byte {section.offset} does not match: "
                "the file is damaged, get it again"
            )
        if section.ancillary:
            continue
        if section.code not in SectionType._value2member_map_:
            raise BitstreamError(
                f"unknown critical section 0x{section.code:04x} at byte {section.offset}: update vaert"
            )
        yield section


def _collect(header: Header, groups: int, sections: Iterator[_Section]) -> Stream:
    hyper: Hyper | None = None
    latents: list[Latents] = []
    alpha: bytes | None = None
    for section in sections:
        expected = _expected(header, groups, hyper is not None, len(latents), alpha is not None)
        if section.code != expected:
            raise BitstreamError(
                f"found section {section.name} at byte {section.offset}, expected {expected.name}: the file is damaged"
            )
        if expected is SectionType.HYPER:
            hyper = _read_hyper(section.payload)
        elif expected is SectionType.LATENTS:
            latents.append(_read_latents(section.payload, expected_group=len(latents)))
        elif expected is SectionType.ALPHA:
            alpha = _read_alpha(section.payload, header)
        elif section.payload:
            raise BitstreamError(
                f"the END section has {len(section.payload)} bytes, expected none: the file is damaged"
            )
    if hyper is None:  # `_walk` ends only after END, and END is expected only after HYPER
        raise BitstreamError("the HYPER section is missing: the file is damaged")
    return Stream(header, hyper, tuple(latents), alpha)


def _expected(header: Header, groups: int, has_hyper: bool, latents: int, has_alpha: bool) -> SectionType:
    if not has_hyper:
        return SectionType.HYPER
    if latents < groups:
        return SectionType.LATENTS
    return SectionType.ALPHA if header.has_alpha and not has_alpha else SectionType.END


def _read_hyper(payload: bytes) -> Hyper:
    if len(payload) < CRC.size:
        raise BitstreamError(f"the HYPER section has {len(payload)} bytes, expected at least 4: the file is damaged")
    return Hyper(CRC.unpack_from(payload)[0], _words(payload[CRC.size :], "HYPER"))


def _read_latents(payload: bytes, *, expected_group: int) -> Latents:
    if len(payload) < LATENTS.size:
        raise BitstreamError(f"a LATENTS section has {len(payload)} bytes, expected at least 12: the file is damaged")
    group, symbol_crc, escapes = LATENTS.unpack_from(payload)
    if group != expected_group:
        raise BitstreamError(f"found latents of group {group}, expected group {expected_group}: the file is damaged")
    rest = payload[LATENTS.size :]
    if escapes > len(rest):
        raise BitstreamError(
            f"latents of group {group} say {escapes} escape bytes, only {len(rest)} remain: the file is damaged"
        )
    return Latents(group, symbol_crc, rest[:escapes], _words(rest[escapes:], "LATENTS"))


def _words(data: bytes, name: str) -> bytes:
    if len(data) % 4:
        raise BitstreamError(
            f"the ANS words of a {name} section take {len(data)} bytes, expected a multiple of 4: the file is damaged"
        )
    return data


def _read_alpha(payload: bytes, header: Header) -> bytes:
    if len(payload) < PNG_START.size or PNG_START.unpack_from(payload)[:3] != PNG_FIXED:
        raise BitstreamError("the ALPHA section does not hold a PNG stream: the file is damaged")
    _, _, _, width, height, depth, colour = PNG_START.unpack_from(payload)
    if (depth, colour) != (8, 0):
        raise BitstreamError(
            f"the ALPHA section holds a PNG of bit depth {depth} and colour type {colour}, expected 8 and 0 (grey): "
            "the file is damaged"
        )
    if (width, height) != (header.width, header.height):
        raise BitstreamError(
            f"the ALPHA section holds {width}x{height} pixels, the header says {header.width}x{header.height}: "
            "the file is damaged"
        )
    return payload
