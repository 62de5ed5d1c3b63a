"""Sections of the .vaert container: type, length, payload and checksum, the same for every kind of file."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from vaert._layout import ANCILLARY, CRC, HEADER_SIZE, OVERHEAD, SECTION, SectionType
from vaert.errors import BitstreamError


@dataclass(frozen=True)
class Section:
    """One section as found: `offset` in bytes from the start of the file; the checksum is computed, not judged."""

    code: int
    offset: int
    payload: bytes
    checksum_ok: bool

    @property
    def name(self) -> str:
        """Name in the specification, or the number of a type that is not in it."""
        if self.code in SectionType._value2member_map_:
            return SectionType(self.code).name
        return f"{'ancillary' if self.code & ANCILLARY else 'unknown'} 0x{self.code:04x}"


class SectionReader:
    """Critical sections of a file in turn, each with a good checksum; unknown ancillary ones are skipped."""

    def __init__(self, data: bytes) -> None:
        self._sections = _critical(data)
        self._next: Section | None = None

    def take(self, expected: SectionType) -> bytes:
        """Payload of the next section. BitstreamError if it is of another type or damaged."""
        section = self._peek()
        if section.code != expected:
            raise BitstreamError(
                f"found section {section.name} at byte {section.offset}, expected {expected.name}: the file is damaged"
            )
        self._next = None
        return section.payload

    def take_if(self, wanted: SectionType) -> bytes | None:
        """Payload of the next section if it is of that type, else None."""
        return self.take(wanted) if self._peek().code == wanted else None

    def finish(self) -> None:
        """BitstreamError unless an empty END section and nothing else is left."""
        if payload := self.take(SectionType.END):
            raise BitstreamError(f"the END section has {len(payload)} bytes, expected none: the file is damaged")
        for _ in self._sections:  # what follows END is judged when the walk goes on
            pass

    def _peek(self) -> Section:
        if self._next is None:
            self._next = next(self._sections)  # never at its end: the walk ends with END, which is taken last
        return self._next


def section(code: SectionType, payload: bytes) -> bytes:
    """Bytes of one section. struct.error if the payload is longer than its field can say."""
    body = SECTION.pack(code, len(payload)) + payload
    return body + CRC.pack(zlib.crc32(body))


def unpack(layout: struct.Struct, payload: bytes, code: SectionType) -> tuple[int, ...]:
    """The fixed fields at the start of a payload. BitstreamError if it is shorter."""
    if len(payload) < layout.size:
        raise BitstreamError(
            f"the {code.name} section has {len(payload)} bytes, expected at least {layout.size}: the file is damaged"
        )
    return layout.unpack_from(payload)


def checked_words(data: bytes, code: SectionType) -> bytes:
    """ANS words as they are. BitstreamError if they are not whole words."""
    if len(data) % 4:
        raise BitstreamError(
            f"the ANS words of a {code.name} section take {len(data)} bytes, expected a multiple of 4: "
            "the file is damaged"
        )
    return data


def walk(data: bytes) -> Iterator[Section]:
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
        yield Section(code, offset, data[offset + SECTION.size : stop], good)
        offset = stop + CRC.size
        if code == SectionType.END:
            break
    else:
        raise BitstreamError("the file ends without its END section: it is cut, get the whole file again")
    if offset != len(data):
        raise BitstreamError(f"{len(data) - offset} bytes follow the END section, expected none: the file is damaged")


def _critical(data: bytes) -> Iterator[Section]:
    for found in walk(data):
        if not found.checksum_ok:
            raise BitstreamError(
                f"the checksum of section {found.name} at byte {found.offset} does not match: "
                "the file is damaged, get it again"
            )
        if found.code & ANCILLARY:
            continue
        if found.code not in SectionType._value2member_map_:
            raise BitstreamError(f"unknown critical section 0x{found.code:04x} at byte {found.offset}: update vaert")
        yield found
