"""One picture in, one out; or a folder of them in and a folder of the same names out. For commands that edit pictures.

In a folder a picture that fails is one line on standard error and the exit code 1 at the end; the others are written.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from vaert.commands.files import check_target, read_input, write_output
from vaert.commands.progress import progress_bar
from vaert.commands.report import STREAM, grouped, one_line, say, show_json, warn
from vaert.errors import ImageError, OptionError, OutputError, VaertError

if TYPE_CHECKING:  # numpy loads on first use
    import numpy as np
    from numpy.typing import NDArray

FAILED = 1
FALLBACK = "png"
_READ_ONLY = (".gif",)  # endings of pictures that can be read but not written: they become FALLBACK


@dataclass(frozen=True)
class BatchOptions:
    """Options that every such command has; `format` is the image format of OUT if it was named."""

    force: bool
    quiet: bool
    as_json: bool
    max_pixels: int
    format: str | None = None


@dataclass(frozen=True)
class Item:
    """One picture on its way: paths or `-`, and the format of the output for `vaert.image.encode_image`."""

    source: str
    target: str
    format: str


@dataclass(frozen=True)
class Made:
    """What became of one picture: the bytes of its file, a short line and JSON facts to report, warnings."""

    data: bytes
    line: str
    facts: Mapping[str, object]
    warnings: tuple[str, ...] = ()


Work: TypeAlias = Callable[[bytes, Item], Made]
"""Makes the file of an item's picture from that of its source; raises VaertError, in one line."""


@dataclass
class _Outcome:
    """What is reported of a folder at its end."""

    made: list[dict[str, object]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # source: why


def run_batch(source: str, target: str, open_work: Callable[[], Work], *, options: BatchOptions) -> None:
    """Read `source`, a picture or a folder of them, write `target` and report. `-` is a standard stream.

    Args:
        source: IN of the command.
        target: OUT of the command. A folder, made if it is missing, if `source` is one.
        open_work: called once, after all that is cheap to check was checked: loads the model.
        options: of the command.

    Raises:
        ImageError, OptionError, OutputError: what is wrong with source, format or target; of a single picture also
            what `Work` raises.
        click.exceptions.Exit: with code 1, after pictures of a folder failed and were reported.
    """
    if os.path.isdir(source):
        _run_folder(source, target, open_work, options=options)
        return
    item = Item(source, target, _format(target, options.format))
    check_target(target, force=options.force)
    data = read_input(source, max_pixels=options.max_pixels, error=ImageError)
    made = open_work()(data, item)
    write_output(target, made.data, force=options.force)
    for text in made.warnings:
        warn(text)
    if options.as_json:
        show_json(_facts(item, made), output=target)
    elif not options.quiet:
        say(f"{source} -> {target}: {made.line}, {grouped(len(made.data))} bytes")


@dataclass(frozen=True)
class Edited:
    """A picture file made from another; sides are (width, height), a warning names metadata that could not be kept."""

    data: bytes
    before: tuple[int, int]
    after: tuple[int, int]
    channels: int
    warnings: tuple[str, ...]


def edit(
    data: bytes,
    item: Item,
    change: "Callable[[NDArray[np.uint8]], NDArray[np.uint8]]",
    *,
    max_pixels: int,
) -> Edited:
    """Decode a file, change its pixels (see `vaert.image.check_pixels`), encode them and keep its metadata.

    Raises:
        ImageError: unreadable, too large, or not to be held by the output's format; and what `change` raises.
    """
    from vaert.image import encode_image, read_image
    from vaert.metadata import carry_metadata

    pixels = read_image(data, name=item.source, max_pixels=max_pixels).pixels
    changed = change(pixels)
    height, width = changed.shape[:2]
    encoded = encode_image(changed, format=item.format)
    encoded, warnings = carry_metadata(data, encoded, name=item.source, size=(height, width))
    before, channels = (pixels.shape[1], pixels.shape[0]), 1 if changed.ndim == 2 else changed.shape[2]
    return Edited(encoded, before, (width, height), channels, warnings)


def _format(target: str, named: str | None) -> str:
    """Format of an output, and a refusal of an unknown one before any work."""
    from vaert.image import format_from_path

    if named is None:
        return FALLBACK if target == STREAM else format_from_path(target)
    try:
        return format_from_path(f"picture.{named.removeprefix('.').lower()}")
    except ImageError as exc:
        raise OptionError(f"--format {named}: {exc}") from exc


def _facts(item: Item, made: Made) -> dict[str, object]:
    shared = {"input": item.source, "output": item.target, "format": item.format, "bytes": len(made.data)}
    return {**shared, **made.facts}


def _run_folder(source: str, target: str, open_work: Callable[[], Work], *, options: BatchOptions) -> None:
    """Every picture in the folder and those below it, by their names."""
    if target == STREAM:
        raise OutputError(f"{source} is a folder, which standard output cannot take: name a folder for OUT")
    if os.path.exists(target) and not os.path.isdir(target):
        raise OutputError(f"{target} is a file, expected a folder, or a new name, for the pictures of {source}")
    pictures, others = _find(source, target)
    if not pictures:
        raise ImageError(f"{source} holds no pictures ({others} other files), expected PNG, JPEG, WebP or the like")
    items = _items(source, target, pictures, named=options.format)
    work, outcome = open_work(), _Outcome()
    try:
        with progress_bar("pictures") as progress:
            for number, item in enumerate(items, 1):
                _run_one(item, work, outcome, options=options)
                if progress is not None:
                    progress(number, len(items))
    finally:  # also when interrupted: what failed until then is not lost
        for text in outcome.warnings:
            warn(text)
        for name, why in outcome.failures.items():
            say(f"vaert: error: {why if name in why else f'{name}: {why}'}")
    _report_folder(source, target, outcome, others=others, options=options)
    if outcome.failures:
        raise click.exceptions.Exit(FAILED)


def _run_one(item: Item, work: Work, outcome: _Outcome, *, options: BatchOptions) -> None:
    try:
        if os.path.lexists(item.target):
            check_target(item.target, force=options.force)
        made = work(read_input(item.source, max_pixels=options.max_pixels, error=ImageError), item)
        Path(item.target).parent.mkdir(parents=True, exist_ok=True)
        write_output(item.target, made.data, force=options.force)
    except (VaertError, OSError) as exc:
        outcome.failures[item.source] = one_line(str(exc))
    except MemoryError:
        outcome.failures[item.source] = "out of memory: use a smaller picture or a machine with more memory"
    else:
        outcome.made.append(_facts(item, made))
        outcome.warnings += made.warnings


def _report_folder(source: str, target: str, outcome: _Outcome, *, others: int, options: BatchOptions) -> None:
    if options.as_json:
        failed = [{"input": name, "error": why} for name, why in outcome.failures.items()]
        facts = {"input": source, "output": target, "pictures": outcome.made, "failed": failed, "left_out": others}
        show_json(facts)
        return
    if options.quiet:
        return
    parts = [f"{len(outcome.made)} pictures written"]
    parts += [f"{len(outcome.failures)} failed"] if outcome.failures else []
    parts += [f"{others} other files left out"] if others else []
    say(f"{source} -> {target}: {', '.join(parts)}")


def _find(source: str, target: str) -> tuple[list[str], int]:
    """Relative names of the pictures below a folder, sorted, and the number of other files; hidden ones do not count.

    Nothing below `target` counts, which may lie within `source`, and links to folders are not followed.
    """
    pictures, others = [], 0
    own = os.path.realpath(target)
    for folder, below, names in os.walk(source, onerror=_unreadable):
        below[:] = sorted(name for name in below if name[0] != "." and os.path.realpath(Path(folder, name)) != own)
        for name in sorted(names):
            path = Path(folder, name)
            if name[0] == "." or not path.is_file():
                continue
            if _is_picture(path):
                pictures.append(str(path.relative_to(source)))
            else:
                others += 1
    return sorted(pictures), others


def _unreadable(exc: OSError) -> None:
    raise ImageError(f"cannot read the folder {exc.filename}: {exc.strerror or exc}") from exc


def _is_picture(path: Path) -> bool:
    from vaert.image import format_from_path

    try:
        format_from_path(path)
    except ImageError:
        return path.suffix.lower() in _READ_ONLY
    return True


def _items(source: str, target: str, pictures: Sequence[str], *, named: str | None) -> list[Item]:
    """Where each picture goes: under its own name, with another ending where its format changes.

    OptionError if two pictures would become one file.
    """
    made: dict[str, Item] = {}
    for name in pictures:
        chosen, kind = _target_name(name, named)
        if chosen in made:
            both = f"{made[chosen].source} and {Path(source, name)}"
            raise OptionError(f"{both} would both become {chosen}: rename one of them, or give another --format")
        made[chosen] = Item(str(Path(source, name)), str(Path(target, chosen)), kind)
    return list(made.values())


def _target_name(name: str, named: str | None) -> tuple[str, str]:
    from vaert.image import format_from_path

    if named is None and Path(name).suffix.lower() not in _READ_ONLY:
        return name, format_from_path(name)
    kind = _format(name, named or FALLBACK)
    ending = Path(name).suffix.lower()
    same = ending not in _READ_ONLY and format_from_path(name) == kind
    return (name if same else str(Path(name).with_suffix(f".{kind}"))), kind
