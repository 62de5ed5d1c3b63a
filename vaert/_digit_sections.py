"""Sections of a file with digits: DIGITS, and NAMES where it holds a folder."""

import unicodedata
import zlib
from collections.abc import Iterator, Sequence

from vaert._layout import (
    CRC,
    DIGIT_PIXELS,
    DIGIT_SIDE,
    DIGITS,
    LOSSLESS_QUALITY,
    NAME_BYTES,
    DigitsStream,
    Header,
    Kind,
    SectionType,
)
from vaert._sections import SectionReader, checked_words, section, unpack
from vaert.errors import BitstreamError

_SEPARATOR = "\n"
# Control characters, halves of surrogate pairs, separators of lines and of paragraphs.
_REFUSED = ("Cc", "Cs", "Zl", "Zp")


def write_digits(stream: DigitsStream) -> Iterator[bytes]:
    """Sections of `stream` in order, without END. struct.error if a field does not fit its place."""
    yield section(SectionType.DIGITS, DIGITS.pack(stream.count, stream.symbol_crc) + stream.words)
    if stream.names is not None:
        check_names(stream.names)
        text = _SEPARATOR.join(stream.names).encode()
        yield section(SectionType.NAMES, CRC.pack(len(text)) + zlib.compress(text, 9))


def check_digits(header: Header) -> None:
    """Refuse a header that no file of digits has."""
    shape = (header.width, header.height, header.channels)
    if shape != (DIGIT_SIDE, DIGIT_SIDE, 1):
        raise BitstreamError(
            f"the header says {header.width}x{header.height} pixels and {header.channels} channels, digits have "
            f"{DIGIT_SIDE}x{DIGIT_SIDE} and 1: the file is damaged"
        )
    if header.kind is Kind.LOSSLESS_DIGITS and header.quality_u16 != LOSSLESS_QUALITY:
        raise BitstreamError(
            f"the header says quality {header.quality:g}, lossless digits have 100: the file is damaged"
        )


def read_digits(header: Header, sections: SectionReader, *, max_pixels: int) -> DigitsStream:
    """Everything between header and END. BitstreamError says what is wrong."""
    payload = sections.take(SectionType.DIGITS)
    count, symbol_crc = unpack(DIGITS, payload, SectionType.DIGITS)
    if count < 1:
        raise BitstreamError("the file says that it holds 0 digits, expected at least 1: it is damaged")
    if count * DIGIT_PIXELS > max_pixels:
        raise BitstreamError(
            f"the file holds {count} digits = {count * DIGIT_PIXELS} pixels, the limit is {max_pixels}: "
            "raise it with --max-pixels"
        )
    words = checked_words(payload[DIGITS.size :], SectionType.DIGITS)
    packed = sections.take_if(SectionType.NAMES)
    names = None if packed is None else _read_names(packed, count)
    if names is None and count != 1:
        raise BitstreamError(f"the file holds {count} digits without their names: the file is damaged")
    return DigitsStream(header, count, symbol_crc, words, names)


def check_names(names: Sequence[str]) -> None:
    """Refuse names that cannot be files side by side in one folder, on any system.

    Raises:
        BitstreamError: the first one that is empty, hidden, too long, holds a path or control characters, or names
            the same file as another where upper and lower case are not told apart.
    """
    seen: dict[str, str] = {}
    for name in names:
        if problem := _problem(name):
            raise BitstreamError(f"the file name {name[:NAME_BYTES]!r} {problem}")
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if key in seen:
            raise BitstreamError(
                f"the file names {seen[key]!r} and {name!r} name the same file where upper and lower case are one: "
                "rename one of them"
            )
        seen[key] = name


def _problem(name: str) -> str | None:
    """What is wrong with a name, or None."""
    if not name:
        return "is empty, expected at least one character"
    if any(unicodedata.category(character) in _REFUSED for character in name):
        return "holds control characters or is not UTF-8, expected printable text"
    if "/" in name or "\\" in name or name[1:2] == ":":
        return "holds a path, expected a name without folders and drives"
    if name.startswith("."):
        return "begins with a dot, expected one that is not hidden"
    if len(name.encode()) > NAME_BYTES:
        return f"takes {len(name.encode())} bytes, expected at most {NAME_BYTES}"
    return None


def _read_names(payload: bytes, count: int) -> tuple[str, ...]:
    (size,) = unpack(CRC, payload, SectionType.NAMES)
    most = count * (NAME_BYTES + 1) - 1
    if size > most:
        raise BitstreamError(
            f"the names of {count} digits say {size} bytes, expected at most {most}: the file is damaged"
        )
    try:
        names = tuple(_inflate(payload[CRC.size :], size).decode().split(_SEPARATOR))
    except UnicodeDecodeError as error:
        raise BitstreamError("the NAMES section does not hold UTF-8: the file is damaged") from error
    if len(names) != count:
        raise BitstreamError(f"the file holds {count} digits and {len(names)} names: the file is damaged")
    check_names(names)
    return names


def _inflate(packed: bytes, size: int) -> bytes:
    """Exactly `size` bytes out of a zlib stream; never more are made."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, size + 1)
    except zlib.error as error:
        raise BitstreamError("the NAMES section is not a zlib stream: the file is damaged") from error
    if len(data) != size or not inflater.eof or inflater.unused_data:
        raise BitstreamError(f"the NAMES section does not hold the {size} bytes that it says: the file is damaged")
    return data
