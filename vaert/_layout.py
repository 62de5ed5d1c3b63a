"""Numbers, fields and parts of the .vaert container, version 1: what `docs/format.md` says, as constants and types."""

import enum
import struct
from dataclasses import dataclass
from typing import TypeAlias

MAGIC = b"\x96VAE\r\n\x1a\n"
VERSION = 1
GROUP_SIZE = 2048
"""Side of a group, in pixels."""
MAX_PIXELS = 2**28
"""Default of the limit on width * height."""
ANCILLARY = 0x8000
"""Bit of a section type: a reader that does not know the type skips the section."""

DIGIT_SIDE = 28
"""Width and height of a digit, in pixels."""
DIGIT_PIXELS = DIGIT_SIDE * DIGIT_SIDE
NAME_BYTES = 255
"""Longest name of a file, in bytes of UTF-8."""
LOSSLESS_QUALITY = 25600
"""What the header's quality field holds where nothing is lost."""
DOWNSCALE = 2
"""How many times smaller a down-scaled photo is coded, along each axis."""

HEADER = struct.Struct("<8sHBBQIIBH")
CRC = struct.Struct("<I")
SECTION = struct.Struct("<HI")
LATENTS = struct.Struct("<III")
DIGITS = struct.Struct("<II")
HEADER_SIZE = HEADER.size + CRC.size
OVERHEAD = SECTION.size + CRC.size
# Signature, chunk length and name, then the IHDR fields: the first 26 bytes of every 8-bit grey PNG.
PNG_START = struct.Struct(">8sI4sIIBB")
PNG_FIXED = (b"\x89PNG\r\n\x1a\n", 13, b"IHDR")


class Kind(enum.IntEnum):
    """What a file holds. The numbers are part of the format."""

    PHOTO = 1
    DIGITS = 2
    LOSSLESS_DIGITS = 3
    DOWNSCALED_PHOTO = 4


class SectionType(enum.IntEnum):
    """Critical sections of version 1. The numbers are part of the format."""

    HYPER = 1
    LATENTS = 2
    ALPHA = 3
    DIGITS = 4
    NAMES = 5
    END = 0x7FFF


@dataclass(frozen=True)
class Header:
    """Facts about the picture, or about each digit.

    `channels`: 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. `quality_u16` is round(256 q).
    """

    kind: Kind
    model_id: int
    width: int
    height: int
    channels: int
    quality_u16: int

    @property
    def quality(self) -> float:
        """Quality, 1 to 100."""
        return self.quality_u16 / 256

    @property
    def downscale(self) -> int:
        """How many times smaller, along each axis, the picture is that the latents stand for."""
        return DOWNSCALE if self.kind is Kind.DOWNSCALED_PHOTO else 1

    @property
    def coded_width(self) -> int:
        """Width in pixels of the picture that the latents stand for."""
        return -(-self.width // self.downscale)

    @property
    def coded_height(self) -> int:
        """Its height."""
        return -(-self.height // self.downscale)

    @property
    def has_alpha(self) -> bool:
        """Whether an ALPHA section follows the latents."""
        return self.channels in (2, 4)


@dataclass(frozen=True)
class Hyper:
    """Hyper-latents of the whole picture: CRC-32 of the decoded symbols and the ANS words (u32 little-endian)."""

    symbol_crc: int
    words: bytes


@dataclass(frozen=True)
class Latents:
    """Latents of one group: its index, CRC-32 of the decoded residuals, zigzag escapes and ANS words."""

    group: int
    symbol_crc: int
    escapes: bytes
    words: bytes


@dataclass(frozen=True)
class PhotoStream:
    """A file with one photo: `latents` has one entry per group in index order; `alpha` is an 8-bit grey PNG or None."""

    header: Header
    hyper: Hyper
    latents: tuple[Latents, ...]
    alpha: bytes | None


@dataclass(frozen=True)
class DigitsStream:
    """A file with `count` digits of 28x28 grey pixels: CRC-32 of what was coded, and the ANS words (u32 little-endian).

    `names` has one file name per digit, in the order of the digits; None in the file of a single picture.
    """

    header: Header
    count: int
    symbol_crc: int
    words: bytes
    names: tuple[str, ...] | None


Stream: TypeAlias = PhotoStream | DigitsStream
"""A whole file."""


@dataclass(frozen=True)
class Group:
    """One cell of the group grid; position and size in pixels."""

    index: int
    x: int
    y: int
    width: int
    height: int
