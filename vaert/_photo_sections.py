"""Sections of a file with a photo: HYPER, one LATENTS per group, ALPHA where the picture has it."""

from collections.abc import Iterator

from vaert._layout import (
    CRC,
    GROUP_SIZE,
    HEADER_SIZE,
    LATENTS,
    OVERHEAD,
    PNG_FIXED,
    PNG_START,
    Header,
    Hyper,
    Latents,
    PhotoStream,
    SectionType,
)
from vaert._sections import SectionReader, checked_words, section, unpack
from vaert.errors import BitstreamError


def write_photo(stream: PhotoStream) -> Iterator[bytes]:
    """Sections of `stream` in order, without END. struct.error if a field does not fit its place."""
    yield section(SectionType.HYPER, CRC.pack(stream.hyper.symbol_crc) + stream.hyper.words)
    for item in stream.latents:
        start = LATENTS.pack(item.group, item.symbol_crc, len(item.escapes))
        yield section(SectionType.LATENTS, start + item.escapes + item.words)
    if stream.alpha is not None:
        yield section(SectionType.ALPHA, stream.alpha)


def check_photo(header: Header, size: int, *, max_pixels: int) -> None:
    """Refuse a header that asks for more than `max_pixels` or for more than a file of `size` bytes can hold."""
    if header.width * header.height > max_pixels:
        raise BitstreamError(
            f"the picture has {header.width}x{header.height} = {header.width * header.height} pixels, "
            f"the limit is {max_pixels}: raise it with --max-pixels"
        )
    groups = _group_count(header)
    least = _least_size(header, groups)
    if size < least:
        coded = f"{header.coded_width}x{header.coded_height}"
        raise BitstreamError(
            f"a picture of {coded} has {groups} groups and takes at least {least} bytes, "
            f"found {size}: the file is cut or damaged"
        )


def read_photo(header: Header, sections: SectionReader) -> PhotoStream:
    """Everything between header and END. BitstreamError says what is wrong."""
    hyper = _read_hyper(sections.take(SectionType.HYPER))
    latents = tuple(
        _read_latents(sections.take(SectionType.LATENTS), expected_group=group) for group in range(_group_count(header))
    )
    alpha = _read_alpha(sections.take(SectionType.ALPHA), header) if header.has_alpha else None
    return PhotoStream(header, hyper, latents, alpha)


def _group_count(header: Header) -> int:
    return -(-header.coded_width // GROUP_SIZE) * -(-header.coded_height // GROUP_SIZE)


def _least_size(header: Header, groups: int) -> int:
    """Size in bytes of the shortest file that `header` allows: every payload empty but for its fixed fields."""
    latents = groups * (OVERHEAD + LATENTS.size)
    alpha = OVERHEAD + PNG_START.size if header.has_alpha else 0
    return HEADER_SIZE + OVERHEAD + CRC.size + latents + alpha + OVERHEAD


def _read_hyper(payload: bytes) -> Hyper:
    (symbol_crc,) = unpack(CRC, payload, SectionType.HYPER)
    return Hyper(symbol_crc, checked_words(payload[CRC.size :], SectionType.HYPER))


def _read_latents(payload: bytes, *, expected_group: int) -> Latents:
    group, symbol_crc, escapes = unpack(LATENTS, payload, SectionType.LATENTS)
    if group != expected_group:
        raise BitstreamError(f"found latents of group {group}, expected group {expected_group}: the file is damaged")
    rest = payload[LATENTS.size :]
    if escapes > len(rest):
        raise BitstreamError(
            f"latents of group {group} say {escapes} escape bytes, only {len(rest)} remain: the file is damaged"
        )
    return Latents(group, symbol_crc, rest[:escapes], checked_words(rest[escapes:], SectionType.LATENTS))


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
