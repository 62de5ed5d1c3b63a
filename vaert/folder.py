"""Folders of output files that are either complete or as they were."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from vaert.errors import OutputError


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse `path` before long work if `write_folder` would refuse it now, whatever files go into it.

    Raises:
        OutputError: it is a file, the folder above it is missing, or it cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        if not os.access(target, os.W_OK | os.X_OK):
            raise OutputError(f"{path}: no permission to write in this folder")
        return
    if target.exists() or target.is_symlink():
        raise OutputError(f"{path}: is not a folder, expected one, or a new name, for the files that this file holds")
    if not target.absolute().parent.is_dir():
        raise OutputError(f"{path}: the folder {target.parent} does not exist: create it first")
    if not os.access(target.absolute().parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write in the folder {target.absolute().parent}")


def write_folder(path: str | os.PathLike[str], files: Mapping[str, bytes], *, force: bool) -> None:
    """Write `files`, names to contents, into the folder `path`: all of them or, on any failure, none.

    A new folder appears with all its files at once. In one that exists already the files are written beside it first
    and then moved in one by one; a failure takes back those that were moved. Existing files are replaced with `force`.

    Raises:
        OutputError: a file exists (without `force`), or something cannot be written.
    """
    check_folder(path)
    target = Path(path)
    inside = target.is_dir()
    stage = (target if inside else target.absolute().parent) / f".vaert-{secrets.token_hex(8)}.tmp"
    try:
        new = stage / "new" if inside else stage
        new.mkdir(parents=True)
        for name, data in files.items():
            with open(new / name, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if inside:
            _move_in(new, target, old=stage / "old", force=force)
        else:
            os.rename(stage, target)
    except FileExistsError as error:
        raise OutputError(
            f"{error.filename2 or error.filename}: exists already: choose another folder or overwrite it with --force"
        ) from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:  # also on KeyboardInterrupt
        shutil.rmtree(stage, ignore_errors=True)


def _move_in(new: Path, target: Path, *, old: Path, force: bool) -> None:
    """Move every file of `new` into `target`, what it replaces into `old`; on failure all goes back."""
    old.mkdir()
    placed: list[str] = []
    try:
        for name in sorted(os.listdir(new)):
            if force:
                _keep(target / name, old / name)
            else:  # claim the name, which fails where a file exists; the rename then replaces our own claim
                os.close(os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            placed.append(name)
            os.replace(new / name, target / name)
    except BaseException:
        for name in placed:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target / name)
        for name in os.listdir(old):
            os.replace(old / name, target / name)
        raise


def _keep(existing: Path, kept: Path) -> None:
    """Move a file that will be replaced to where it can come back from."""
    if existing.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{existing.name} is a folder, expected a file", str(existing))
    with contextlib.suppress(FileNotFoundError):
        os.rename(existing, kept)
