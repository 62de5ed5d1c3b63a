"""ICC profile, EXIF and XMP: from the file that a picture came from to the file that a changed picture goes to."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from vaert import _jpeg_metadata, _png_metadata, _webp_metadata
from vaert._exif import corrected_exif, find_in_tiff
from vaert._facts import Found, Kind
from vaert._png import SIGNATURE
from vaert._png_texts import MOST_BYTES
from vaert._sniff import sniff
from vaert.errors import ImageError

__all__ = ["Metadata", "adapted", "carry_metadata", "read_metadata", "with_metadata"]

_ICC_HEADER = 128  # bytes before a profile's tags
_SPACES = {b"GRAY": "grey", b"RGB ": "RGB", b"CMYK": "CMYK"}
# Names as Adobe's specification prefixes them, before a value in an attribute or in an element.
_XMP_NUMBER = rb"(?<![\w/])(%s(?:\s*=\s*[\"']|>)\s*)\d+"
_XMP_EXTENDED = re.compile(
    rb"(?<![\w/])xmpNote:HasExtendedXMP\s*=\s*[\"'][0-9A-Fa-f]{32}[\"']"
    rb"|<xmpNote:HasExtendedXMP>[0-9A-Fa-f]{32}</xmpNote:HasExtendedXMP>"
)


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels; None where it says nothing or nothing usable.

    `icc` is an ICC profile, `exif` an EXIF block (a TIFF structure, without the "Exif" that leads it in JPEG), `xmp` an
    XMP packet in UTF-8. `problems` has a line for each piece that was found and is left out.
    """

    icc: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    xmp: bytes | None = field(default=None, repr=False)
    problems: tuple[str, ...] = ()


def carry_metadata(source: bytes, encoded: bytes, *, name: str, size: tuple[int, int]) -> tuple[bytes, tuple[str, ...]]:
    """`encoded` with the metadata of `source`, corrected, and a warning for each piece that could not be kept.

    Args:
        source: content of the file that the picture came from.
        encoded: content of the file that the changed picture goes to, as `encode_image` returns it.
        name: what to call `source` in the warnings.
        size: height and width of the picture in `encoded`.

    Bad metadata is no error: whatever cannot be read, or does not fit the output, is left out and named.
    """
    found = read_metadata(source)
    content, lost = with_metadata(encoded, adapted(found, height=size[0], width=size[1]))
    return content, tuple(f"{name}: {line}" for line in found.problems + lost)


def read_metadata(data: bytes) -> Metadata:
    """The metadata in the content of an image file, of which the first usable piece of each kind counts.

    PNG, JPEG, WebP and TIFF files are read; what GIF files hold, and the EXIF tags of TIFF files, become problems.
    """
    usable: dict[Kind, bytes] = {}
    problems: dict[Kind, str] = {}
    rest: tuple[str, ...] = ()
    try:
        for found in _find(data):
            content, problem = _checked(found)
            if content is None:
                problems.setdefault(found.kind, problem)
            else:
                usable.setdefault(found.kind, content)
    except (ImageError, ValueError):
        rest = ("further metadata not kept: the file is cut or damaged",)
    lines = tuple(f"{kind} not kept: {problem}" for kind, problem in problems.items() if kind not in usable)
    return Metadata(usable.get("ICC profile"), usable.get("EXIF"), usable.get("XMP"), lines + rest)


def adapted(metadata: Metadata, *, width: int, height: int) -> Metadata:
    """`metadata` made true for an upright picture of `width` x `height`: orientation and sizes in EXIF and XMP.

    An EXIF block that is damaged is left out.
    """
    exif = metadata.exif and corrected_exif(metadata.exif, width=width, height=height)
    return replace(metadata, exif=exif, xmp=metadata.xmp and _corrected_xmp(metadata.xmp, width=width, height=height))


def with_metadata(encoded: bytes, metadata: Metadata) -> tuple[bytes, tuple[str, ...]]:
    """The PNG, JPEG or WebP file content `encoded` with `metadata` as it is, and a line for each piece that is lost.

    Pieces of the same kind that `encoded` has are replaced. A profile is lost if it is for other samples than the
    file's; a JPEG file holds at most 65,527 bytes of EXIF and 65,502 of XMP; other formats hold nothing.
    """
    given: dict[Kind, bytes | None] = {"ICC profile": metadata.icc, "EXIF": metadata.exif, "XMP": metadata.xmp}
    pieces = {kind: content for kind, content in given.items() if content}
    if not pieces:
        return encoded, ()
    form = _format_of(encoded)
    if form is None:
        return encoded, (f"{', '.join(pieces)} not kept: only PNG, JPEG and WebP files take metadata",)
    try:
        reasons = {kind: _misfit(kind, content, encoded, form) for kind, content in pieces.items()}
        fitting = {kind: content for kind, content in pieces.items() if not reasons[kind]}
        content = form.insert(encoded, fitting) if fitting else encoded
    except ImageError:
        return encoded, (f"{', '.join(pieces)} not kept: the output is cut or damaged",)
    return content, tuple(f"{kind} not kept: {reason}" for kind, reason in reasons.items() if reason)


@dataclass(frozen=True)
class _Format:
    """How the files of one format hold metadata: `largest` bytes of each kind, of grey or RGB samples."""

    name: str
    find: Callable[[bytes], Iterator[Found]]
    insert: Callable[[bytes, Mapping[Kind, bytes]], bytes]
    is_grey: Callable[[bytes], bool]
    largest: Mapping[Kind, int] = field(default_factory=dict)


_PNG = _Format("PNG", _png_metadata.find, _png_metadata.insert, _png_metadata.is_grey)
_JPEG = _Format(
    "JPEG", _jpeg_metadata.find, _jpeg_metadata.insert, _jpeg_metadata.is_grey, largest=_jpeg_metadata.LARGEST
)
_WEBP = _Format("WebP", _webp_metadata.find, _webp_metadata.insert, is_grey=lambda _: False)


def _format_of(data: bytes) -> _Format | None:
    if data.startswith(SIGNATURE):
        return _PNG
    if data.startswith(b"\xff\xd8\xff"):
        return _JPEG
    return _WEBP if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _find(data: bytes) -> Iterator[Found]:
    """Every piece of metadata in an image file, usable or not.

    Raises:
        ImageError, ValueError: the file is cut or damaged.
    """
    form = _format_of(data)
    if form is not None:
        yield from form.find(data)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        yield from find_in_tiff(data)
    elif data[:4] == b"GIF8":
        for kind in sniff(data, "GIF").dropped:
            yield Found("XMP" if kind == "XMP" else "ICC profile", problem="it is not read from GIF files")


def _checked(found: Found) -> tuple[bytes | None, str]:
    """The usable content of `found`, or None and why there is none."""
    content, problem = found.content, found.problem
    if problem:
        return None, problem
    if len(content) > MOST_BYTES:
        return None, f"it has {len(content)} bytes, more than {MOST_BYTES}"
    if found.kind == "EXIF":
        return (content, "") if corrected_exif(content, width=1, height=1) else (None, "it is damaged")
    if found.kind == "XMP":
        content = content.rstrip(b"\0")
        return (content, "") if _is_text(content) else (None, "it is not text in UTF-8")
    length = int.from_bytes(content[:4], "big")
    if content[36:40] != b"acsp" or not _ICC_HEADER < length <= len(content):
        return None, "it is cut or damaged"
    return content[:length], ""


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return bool(content) and b"\0" not in content


def _misfit(kind: Kind, content: bytes, encoded: bytes, form: _Format) -> str:
    """Why `content` cannot go into the file `encoded`, "" if it can."""
    if len(content) > (largest := form.largest.get(kind, len(content))):
        return f"it has {len(content)} bytes, a {form.name} file holds at most {largest}"
    if kind == "ICC profile":
        grey = form.is_grey(encoded)
        if content[16:20] != (b"GRAY" if grey else b"RGB "):
            space = _SPACES.get(content[16:20], "other")
            return f"it is for {space} samples, the output has {'grey' if grey else 'RGB'} ones"
    return ""


def _corrected_xmp(xmp: bytes, *, width: int, height: int) -> bytes:
    """Orientation and sizes set, and no mention of a second part, which is never kept."""
    numbers = {
        b"tiff:Orientation": 1,
        b"tiff:ImageWidth": width,
        b"tiff:ImageLength": height,
        b"exif:PixelXDimension": width,
        b"exif:PixelYDimension": height,
    }
    for name, number in numbers.items():
        xmp = re.sub(_XMP_NUMBER % name, rb"\g<1>%d" % number, xmp)
    return _XMP_EXTENDED.sub(b"", xmp)
