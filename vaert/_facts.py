"""What can be told about an image file without decoding it, and the two ways to refuse one."""

from dataclasses import dataclass, field
from typing import Literal

from vaert.errors import ImageError

Kind = Literal["ICC profile", "EXIF", "XMP", "extended XMP"]


@dataclass(frozen=True)
class Facts:
    """Facts about one still image of 8-bit samples, read from its file's headers.

    `width` and `height` are in pixels before `orientation` (EXIF, 1 to 8) is applied; `dropped` names the metadata
    that decoding loses. `body` is what the decoder shall get: the file, or the file without what decoders treat
    differently. A grey picture has alpha where `grey_alpha` is set, or where its 8-bit level `grey_key` is
    transparent.
    """

    format: str
    width: int
    height: int
    body: bytes = field(repr=False)
    orientation: int = 1
    dropped: tuple[str, ...] = ()
    grey_alpha: bool = False
    grey_key: int | None = None


@dataclass(frozen=True)
class Found:
    """One piece of metadata in a file: its content, or the `problem` that keeps it from being used."""

    kind: Kind
    content: bytes = field(default=b"", repr=False)
    problem: str = ""


def damaged(name: str, what: str) -> ImageError:
    """An error for the file `name` that is cut or damaged; `what` is the evidence."""
    return ImageError(f"{name}: the image is cut or damaged ({what}): get the file again")


def unsupported(name: str, what: str, *, fix: str) -> ImageError:
    """An error for the file `name` of an unsupported kind, with the way to convert it."""
    return ImageError(f"{name}: {what} is not supported, expected one still image of 8-bit grey or RGB: {fix}")
