"""The codec: pictures to .vaert bytes and back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from vaert import bitstream
from vaert.bitstream import DOWNSCALE, Header, Hyper, Kind, Latents, PhotoStream
from vaert.errors import BitstreamError, ImageError, ModelError, OptionError
from vaert.image import check_pixels, encode_image, read_image
from vaert.package import CODEC, Package, find_by_id, find_package
from vaert.resample import downscale as smaller
from vaert.runtime.backends import Backend, open_backend
from vaert.runtime.channels import join, split
from vaert.runtime.entropy import Coded, EntropyCoder
from vaert.runtime.groups import Line, Strips
from vaert.runtime.networks import Networks
from vaert.runtime.prior import Prior, Quantised
from vaert.runtime.tiling import scaled
from vaert.runtime.upscaler import Upscaler
from vaert.tables import QUALITY_MAX, QUALITY_MIN

Pixels = npt.NDArray[np.uint8]
DEFAULT_QUALITY = 60.0
QUALITY_STEPS = 256  # per unit of quality, in the header


@dataclass(frozen=True)
class Part:
    """A group of the format with the latents around it, before the gain: float32 (h, w, M) of what both lines see."""

    row: Line
    column: Line
    latents: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Analysed:
    """A picture and what the encoder network makes of it, before a quality is chosen.

    `parts` gives the groups in the order of the format each time it is called.
    """

    colour: Pixels  # (H, W, 3)
    coded: Pixels  # what the latents stand for: `colour`, or that down-scaled
    channels: int
    alpha: bytes | None  # PNG
    parts: Callable[[], Iterator[Part]]

    @property
    def kind(self) -> Kind:
        """Of the file."""
        return Kind.PHOTO if self.coded is self.colour else Kind.DOWNSCALED_PHOTO


@dataclass(frozen=True)
class Group:
    """A group at one quality: its hyper-latents, int8 (1, h / 4, w / 4, hyper), and what the prior makes of it."""

    hyper: npt.NDArray[np.int8]
    quantised: Quantised


@dataclass(frozen=True)
class Attempt:
    """A picture at one quality, with all that its file needs but the entropy coding.

    `groups` quantises the groups anew, one after the other, each time it is called: keeping them all would take ten
    times the memory of the picture.
    """

    quality_u16: int
    groups: Callable[[], Iterator[Group]]


class Codec:
    """One model on one backend; compresses and decompresses pictures of any size.

    model: a bundled model's name or a package folder. backend: `auto`, a name, or a backend. threads: all cores if
    None. tile: pixels, to force tiles of this side. upscaler: what enlarges down-scaled pictures, by 2, loaded when
    needed; the bundled one if None. Not to be shared between threads. Raises ModelError, BackendError,
    MissingExtraError, OptionError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Package = "fast",
        *,
        backend: str | Backend = "auto",
        threads: int | None = None,
        tile: int | None = None,
        upscaler: str | os.PathLike[str] | Package | None = None,
    ) -> None:
        self.package = (model if isinstance(model, Package) else find_package(model)).require(CODEC)
        self._geometry = self.package.manifest.geometry
        self._stride = self._geometry["latent_stride"]
        multiple = self._geometry["size_multiple"]
        if tile is not None and (tile < multiple or tile % multiple):
            raise OptionError(f"tile must be a multiple of {multiple}, not {tile}")
        self._backend, self._upscaler = open_backend(backend, threads=threads, package=self.package), upscaler
        self._tables = self.package.tables()
        self._coder = EntropyCoder(self._tables, threads=threads)
        self._networks = Networks(self.package, self._backend, tile=tile)
        self._prior = Prior(self.package, self._backend)

    @cached_property
    def _enlarger(self) -> Upscaler:
        return Upscaler(self._upscaler, scale=DOWNSCALE, backend=self._backend)

    @staticmethod
    def for_file(data: bytes, *, backend: str = "auto", threads: int | None = None) -> Codec:
        """The codec that can decode a file, from the bundled models. BitstreamError, ModelError."""
        return Codec(find_by_id(bitstream.read_header(data).model_id), backend=backend, threads=threads)

    def compress(
        self,
        image: Pixels,
        quality: float | None = None,
        *,
        bpp: float | None = None,
        size: int | None = None,
        psnr: float | None = None,
        downscale: int = 1,
    ) -> bytes:
        """Compress a picture, uint8 (H, W), (H, W, 2 | 3 | 4): grey, grey + alpha, RGB, RGBA. Alpha is kept lossless.

        downscale: 1, or 2 for a picture that is coded at half its width and height and that decoders enlarge again.
        At most one of quality (1..100, default 60), bpp (bits per pixel, within 2 %), size (bytes, within 2 % and
        never above) and psnr (dB, at most 0.1 above and never below). Raises OptionError, TargetError (names what can
        be reached), BackendError.
        """
        targets = {"quality": quality, "bpp": bpp, "size": size, "psnr": psnr}
        given = {name: value for name, value in targets.items() if value is not None}
        if len(given) > 1:
            raise OptionError(f"give one of quality, bpp, size and psnr, not {' and '.join(given)}")
        search = bool(given) and quality is None
        step = quality_to_u16(DEFAULT_QUALITY if quality is None else quality)
        picture = self.analyse(check_pixels(image), downscale=downscale, keep=search)
        if not search:
            return self.write(picture, self.attempt(picture, step))
        from vaert.runtime.targets import reach

        return reach(self, picture, *given.popitem())

    def decompress(self, data: bytes, *, max_pixels: int = 1 << 28) -> Pixels:
        """The picture of a .vaert file, uint8, with the shape kind it was made from; a down-scaled one is enlarged.

        Raises BitstreamError (damaged, or more than max_pixels), ModelError (made by another model, or no upscaler is
        there), BackendError.
        """
        stream = bitstream.parse_photo(data, max_pixels=max_pixels)
        return self._picture(stream, self._decoded(stream))

    def render(self, stream: PhotoStream, latents: npt.NDArray[np.int32]) -> Pixels:
        """The picture of a parsed file given what `decode_latents` made of it. ModelError, BackendError as above."""
        places = self._places(stream.header.coded_height, stream.header.coded_width)
        return self._picture(stream, (latents[place] for place in places))

    def analyse(self, image: Pixels, *, downscale: int = 1, keep: bool = True) -> Analysed:
        """Run the encoder network; every quality can be tried on the result. OptionError: downscale not 1 or 2.

        keep: hold the latents, which take more than the picture, so that the network runs only once; without that it
        runs, group by group, whenever they are asked for.
        """
        if downscale not in (1, DOWNSCALE):
            raise OptionError(f"downscale must be 1 or {DOWNSCALE}, not {downscale}")
        colour, alpha = split(image)
        coded = colour if downscale == 1 else _downscaled(colour)
        png = None if alpha is None else encode_image(alpha, format="png")
        channels = 1 if image.ndim == 2 else image.shape[2]
        parts: Callable[[], Iterator[Part]] = partial(self._parts, coded)
        if keep:
            parts = partial(iter, list(parts()))
        return Analysed(colour, coded, channels, png, parts)

    def _parts(self, coded: Pixels) -> Iterator[Part]:
        height, width = coded.shape[:2]
        strips = Strips(self._networks.padded(height, width)[1] // self._stride)
        for row, column in self._networks.groups(height, width):
            region = self._networks.analyse(coded, row.encoder, column.encoder)
            rows_kept, columns_kept = row.encoder_kept // self._stride, column.encoder_kept // self._stride
            yield Part(row, column, strips.join(region, rows_kept=rows_kept, columns_kept=columns_kept))

    def attempt(self, picture: Analysed, quality_u16: int) -> Attempt:
        """Choose a quality."""
        gain, _ = self._tables.gains(quality_u16 / QUALITY_STEPS)

        def groups() -> Iterator[Group]:
            for part in picture.parts():
                row, column = part.row.seen, part.column.seen
                z = self._networks.hyper_analyse(part.latents, gain, (row, column))[None]
                y = part.latents[None, row.inner(self._stride), column.inner(self._stride)]
                yield Group(z, self._prior.quantise(y, gain, z))

        return Attempt(quality_u16, groups)

    def bits(self, attempt: Attempt) -> float:
        """What the symbols of an attempt cost, from the tables, without coding."""
        return sum(
            self._coder.hyper_bits(group.hyper[0]) + sum(map(self._coder.bits, group.quantised.halves))
            for group in attempt.groups()
        )

    def write(self, picture: Analysed, attempt: Attempt) -> bytes:
        """Entropy-code an attempt into a whole file."""
        height, width = picture.colour.shape[:2]
        header = Header(
            picture.kind, self.package.manifest.model_id, width, height, picture.channels, attempt.quality_u16
        )
        z = self._empty_hyper(*picture.coded.shape[:2])
        latents = []
        places = self._places(*picture.coded.shape[:2])
        for number, (place, group) in enumerate(zip(places, attempt.groups(), strict=True)):
            z[_hyper_place(place)] = group.hyper[0]
            coded = self._coder.encode(group.quantised.halves)
            latents.append(Latents(number, coded.symbol_crc, coded.escapes, coded.words))
        hyper = self._coder.encode_hyper(z)
        return bitstream.write(PhotoStream(header, Hyper(hyper.symbol_crc, hyper.words), tuple(latents), picture.alpha))

    def reconstruct(self, picture: Analysed, attempt: Attempt) -> Pixels:
        """What a decoder on this backend will make of the attempt's file, without alpha."""
        latents = (group.quantised.latents[0] for group in attempt.groups())
        coded = self._synthesised(latents, attempt.quality_u16 / QUALITY_STEPS, *picture.coded.shape[:2])
        colour = self._whole(coded, picture.kind, picture.colour.shape[:2])
        return join(colour, None, grey=picture.channels < 3)

    def decode_latents(self, stream: PhotoStream) -> npt.NDArray[np.int32]:
        """The integers of a file, bit-identical on every backend: latents in sixteenths, int32 (h, w, M)."""
        height, width = stream.header.coded_height, stream.header.coded_width
        padded = self._networks.padded(height, width)
        channels = int(self.package.manifest.config["latents"])
        s = np.empty((padded[0] // self._stride, padded[1] // self._stride, channels), np.int32)
        for place, group in zip(self._places(height, width), self._decoded(stream), strict=True):
            s[place] = group
        return s

    def _decoded(self, stream: PhotoStream) -> Iterator[npt.NDArray[np.int32]]:
        """Latents in sixteenths of each group, (h, w, M)."""
        header = stream.header
        if header.model_id != self.package.manifest.model_id:
            raise ModelError(
                f"the file was made by model {header.model_id:016x}, not by {self.package.manifest.name} "
                f"({self.package.manifest.model_id:016x}); name its package with --model"
            )
        height, width = header.coded_height, header.coded_width
        shape = self._empty_hyper(height, width).shape
        z = self._coder.decode_hyper(stream.hyper.words, stream.hyper.symbol_crc, shape)
        for place, section in zip(self._places(height, width), stream.latents, strict=True):
            coded = Coded(section.words, section.escapes, section.symbol_crc)
            yield self._prior.decode(self._coder, coded, z[None, *_hyper_place(place)])[0]

    def _picture(self, stream: PhotoStream, groups: Iterator[npt.NDArray[np.int32]]) -> Pixels:
        """The picture of a parsed file from the latents of its groups."""
        header = stream.header
        coded = self._synthesised(groups, header.quality, header.coded_height, header.coded_width)
        colour = self._whole(coded, header.kind, (header.height, header.width))
        return join(colour, _read_alpha(stream.alpha, colour.shape[:2]), grey=header.channels < 3)

    def _synthesised(self, groups: Iterator[npt.NDArray[np.int32]], quality: float, height: int, width: int) -> Pixels:
        """RGB (height, width, 3) from the latents of its groups."""
        _, inverse = self._tables.gains(quality)
        padded, pixels = self._networks.padded(height, width), None
        strips = Strips(padded[1] // self._stride)
        for (row, column), group in zip(self._networks.groups(height, width), groups, strict=True):
            kept = row.decoder_kept // self._stride, column.decoder_kept // self._stride
            latents = strips.join(group, rows_kept=kept[0], columns_kept=kept[1])
            for rows, columns, tile in self._networks.synthesise(latents, inverse, (row.decoder, column.decoder)):
                if tile.shape[:2] == padded:
                    return np.ascontiguousarray(tile[:height, :width])
                pixels = np.empty((height, width, 3), np.uint8) if pixels is None else pixels
                target = pixels[rows, columns]
                target[:] = tile[: target.shape[0], : target.shape[1]]
        assert pixels is not None
        return pixels

    def _whole(self, coded: Pixels, kind: Kind, size: tuple[int, ...]) -> Pixels:
        """The decoded picture at its full size (height, width), RGB."""
        if kind is Kind.PHOTO:
            return coded
        height, width = size
        return np.ascontiguousarray(self._enlarger.upscale(coded)[:height, :width])

    def _empty_hyper(self, height: int, width: int) -> npt.NDArray[np.int8]:
        padded, stride = self._networks.padded(height, width), self._geometry["hyper_stride"]
        return np.empty((padded[0] // stride, padded[1] // stride, int(self.package.manifest.config["hyper"])), np.int8)

    def _places(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of latents of each group, padding included."""
        for row, column in self._networks.groups(height, width):
            yield scaled(row.group, self._stride), scaled(column.group, self._stride)


def quality_to_u16(quality: float) -> int:
    """The header's quality; OptionError outside 1..100."""
    if not QUALITY_MIN <= quality <= QUALITY_MAX:
        raise OptionError(f"quality must be {QUALITY_MIN:g} to {QUALITY_MAX:g}, not {quality:g}")
    return round(quality * QUALITY_STEPS)


def _hyper_place(place: tuple[slice, slice]) -> tuple[slice, slice]:
    """Rows and columns of hyper-latents, of those of latents."""
    return scaled(place[0], 4), scaled(place[1], 4)


def _downscaled(colour: Pixels) -> Pixels:
    """A picture of half the width and height, rounded up: an odd last row or column is repeated first."""
    height, width = colour.shape[:2]
    even = np.pad(colour, ((0, height % DOWNSCALE), (0, width % DOWNSCALE), (0, 0)), mode="edge")
    return smaller(even, DOWNSCALE)


def _read_alpha(png: bytes | None, shape: tuple[int, ...]) -> Pixels | None:
    if png is None:
        return None
    try:
        alpha = read_image(png, name="alpha section", max_pixels=shape[0] * shape[1]).pixels
    except ImageError as error:  # that the section holds an image is our format's business
        raise BitstreamError(f"damaged {error}") from error
    if alpha.shape != shape:
        raise BitstreamError(f"the alpha section has shape {alpha.shape}, the picture {shape}")
    return alpha
