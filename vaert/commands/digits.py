"""`vaert compress` and `vaert decompress` for digits: single pictures, and folders of them in one file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vaert.commands.files import read_input
from vaert.commands.options import EngineOptions
from vaert.commands.progress import progress_bar
from vaert.commands.report import STREAM, warn
from vaert.errors import ImageError, OptionError, OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vaert.bitstream import DigitsStream
    from vaert.image import Picture
    from vaert.package import Package
    from vaert.runtime.digit_files import DigitFiles

# Written as they are named; pictures with other names, JPEG among them, which would lose what was decoded, become PNG.
_LOSSLESS = ("png", "webp", "bmp", "tif", "ppm", "pgm", "pnm")


@dataclass(frozen=True)
class DigitOptions:
    """What a command was asked for, of all that concerns digits."""

    quality: float | None = None
    psnr: float | None = None
    bpp: float | None = None
    size: int | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    max_pixels: int = 2**28


def compress_digits(source: str, package: "Package", *, options: DigitOptions) -> tuple[bytes, dict[str, object]]:
    """Turn a picture, or every picture in a folder, into a .vaert file's bytes and the facts to report.

    Raises:
        ImageError: a picture is unreadable or not a digit; its name is in the message.
        OptionError: a target that digits do not have.
        BitstreamError: two names are the same file on some systems, or a name could not be restored.
    """
    from vaert.bitstream import parse_digits

    if options.bpp is not None or options.size is not None:
        given = "--bpp" if options.bpp is not None else "--size"
        raise OptionError(f"{given} is for photos: with {package.manifest.name} use --quality or --psnr")
    names = _pictures_in(source) if os.path.isdir(source) else None
    digits = _read_digits(source, names, max_pixels=options.max_pixels)
    codec = _open(package, options.engine)
    with progress_bar("digits", shown=names is not None) as progress:
        data = codec.compress(digits, options.quality, psnr=options.psnr, names=names, progress=progress)
    stream = parse_digits(data, max_pixels=options.max_pixels)
    return data, digit_facts(stream, package=package, coded=len(data), written=len(data))


def decompress_digits(
    stream: "DigitsStream", package: "Package", *, ending: str, engine: EngineOptions
) -> dict[str, bytes]:
    """Decode a file into image files by name; that of a single picture has the name "" and the format `ending`."""
    from vaert.bitstream import check_names
    from vaert.image import encode_image

    formats = {"": ending}
    if stream.names is not None:
        formats = dict(map(_target_name, stream.names))
        check_names(list(formats))
    digits = _open(package, engine).decode(stream)
    return {name: encode_image(digit, format=kind) for (name, kind), digit in zip(formats.items(), digits, strict=True)}


def check_folder_target(target: str, *, named: str | None) -> None:
    """Refuse an output that cannot be the folder of a file's digits."""
    from vaert.folder import check_folder

    if target == STREAM:
        raise OutputError("the file holds a folder of digits, which standard output cannot take: name a folder")
    if named is not None:
        raise OptionError("--format is for single pictures: the names in the file say the formats of its digits")
    check_folder(target)


def digit_facts(stream: "DigitsStream", *, package: "Package", coded: int, written: int) -> dict[str, object]:
    """What both commands report; `coded` is the size of the .vaert file, `written` that of the output, in bytes."""
    from vaert.bitstream import DIGIT_PIXELS

    pixels = stream.count * DIGIT_PIXELS
    return {
        "kind": stream.header.kind.name.lower(),
        "digits": stream.count,
        "width": stream.header.width,
        "height": stream.header.height,
        "channels": 1,
        "pixels": pixels,
        "bytes": written,
        "payload_bytes": len(stream.words),
        "bpp": 8 * coded / pixels,
        "quality": stream.header.quality,
        "model": package.manifest.name,
        "model_id": f"{stream.header.model_id:016x}",
    }


def _open(package: "Package", engine: EngineOptions) -> "DigitFiles":
    from vaert.runtime.digit_files import open_digit_files

    return open_digit_files(package, backend=engine.open(package))


def _pictures_in(folder: str) -> tuple[str, ...]:
    """Names of the files in a folder that are not hidden, sorted."""
    from vaert.bitstream import check_names

    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and entry.name[:1] != ".")
    except OSError as exc:
        raise ImageError(f"cannot read the folder {folder}: {exc.strerror or exc}") from exc
    if not names:
        raise ImageError(f"{folder} holds no files, expected pictures of 28x28 pixels (hidden files are left out)")
    check_names(names)
    return tuple(names)


def _read_digits(source: str, names: tuple[str, ...] | None, *, max_pixels: int) -> "NDArray[np.uint8]":
    """The pictures, uint8 (N, 28, 28)."""
    import numpy as np

    from vaert.bitstream import DIGIT_PIXELS

    paths = [source] if names is None else [str(Path(source, name)) for name in names]
    if len(paths) * DIGIT_PIXELS > max_pixels:
        raise ImageError(
            f"{source} holds {len(paths)} digits = {len(paths) * DIGIT_PIXELS} pixels, the limit is {max_pixels}: "
            "raise it with --max-pixels"
        )
    return np.stack([_read_digit(path, max_pixels=max_pixels) for path in paths])


def _read_digit(path: str, *, max_pixels: int) -> "NDArray[np.uint8]":
    from vaert.image import read_image

    picture = read_image(read_input(path, max_pixels=max_pixels, error=ImageError), name=path, max_pixels=max_pixels)
    if picture.dropped:
        warn(f"{path}: {', '.join(picture.dropped)} not kept: a .vaert file holds pixels only")
    return _as_digit(path, picture)


def _as_digit(path: str, picture: "Picture") -> "NDArray[np.uint8]":
    """The one grey channel, uint8 (28, 28). ImageError for other sizes, for colour and for what shows through."""
    from vaert.bitstream import DIGIT_SIDE

    pixels = picture.pixels if picture.pixels.ndim == 3 else picture.pixels[..., None]
    height, width, channels = pixels.shape
    if (height, width) != (DIGIT_SIDE, DIGIT_SIDE):
        raise ImageError(
            f"{path}: has {width}x{height} pixels, digits have {DIGIT_SIDE}x{DIGIT_SIDE}: scale it, or use a photo "
            "model (--model fast)"
        )
    if channels in (2, 4):
        if pixels[..., -1].min() < 255:
            raise ImageError(f"{path}: is partly transparent, digits are opaque: flatten it first")
        warn(f"{path}: its alpha channel, opaque everywhere, is not kept")
        pixels = pixels[..., :-1]
    if (pixels != pixels[..., :1]).any():
        raise ImageError(
            f"{path}: holds colours, digits are grey: convert it first, or use a photo model (--model fast)"
        )
    return pixels[..., 0]


def _target_name(name: str) -> tuple[str, str]:
    """Where a digit is written, and in which format: under its name if that says a lossless one, else as PNG."""
    from vaert.image import format_from_path

    try:
        kind = format_from_path(name)
    except ImageError:
        kind = ""
    return (name, kind) if kind in _LOSSLESS else (f"{name}.png", "png")


def write_digits(target: str, files: Mapping[str, bytes], *, force: bool) -> None:
    """Write the files of a folder, all of them or none. OutputError."""
    from vaert.folder import write_folder

    write_folder(target, files, force=force)
