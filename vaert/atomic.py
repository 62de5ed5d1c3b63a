"""Output files that are either complete or absent: written under a temporary name, then renamed."""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from vaert.errors import OutputError

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
"""What `os.link` says on file systems without hard links (FAT, some network mounts)."""


def check_output(path: str | os.PathLike[str], *, force: bool) -> None:
    """Refuse `path` before long work if `write_atomic` would refuse it now.

    Raises:
        OutputError: the file exists and `force` is not set, it is a folder, or its folder is missing or read-only.
    """
    target = _resolve(path)
    if _is_special(target):
        return
    if target.is_dir():
        raise OutputError(f"{path}: is a folder, expected a file name")
    if not target.parent.is_dir():
        raise OutputError(f"{path}: the folder {target.parent} does not exist: create it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write in the folder {target.parent}")
    if target.exists() and not force:
        raise _exists(path)


def write_atomic(path: str | os.PathLike[str], data: bytes, *, force: bool) -> None:
    """Write `data` to `path`: the file appears whole or, on any failure, stays as it was.

    The bytes go to `.vaert-<random>.tmp` in the same folder, reach the disk and are then renamed. A symbolic link is
    followed and stays a link. Devices and named pipes are written directly. With `force` an existing file is replaced
    and keeps its permission bits; without it an existing file is never touched, even if it appears meanwhile.

    Raises:
        OutputError: the file exists (without `force`) or cannot be written.
    """
    target = _resolve(path)
    try:
        if _is_special(target):
            target.write_bytes(data)
            return
        check_output(path, force=force)
        _write_then_rename(target, data, force=force)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _exists(path: str | os.PathLike[str]) -> OutputError:
    return OutputError(f"{path}: exists already: choose another name or overwrite it with --force")


def _resolve(path: str | os.PathLike[str]) -> Path:
    """What `path` points to, so that a rename replaces the file and not a link to it."""
    if _is_special(Path(path)):
        return Path(path)  # /dev/stdout resolves to names like pipe:[123], which cannot be opened
    try:
        return Path(os.path.realpath(path, strict=False))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: not a usable file name: {error}") from error


def _is_special(target: Path) -> bool:
    try:
        mode = target.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or target.parent in (Path("/dev"), Path("/dev/fd"))


def _write_then_rename(target: Path, data: bytes, *, force: bool) -> None:
    temporary = target.with_name(f".vaert-{secrets.token_hex(8)}.tmp")
    try:
        # Mode 0666 before the umask, like any new file; O_EXCL because a guessed name must not be followed.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if force:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        else:
            _publish_new(temporary, target)
        _sync_folder(target.parent)
    finally:  # also on KeyboardInterrupt
        with contextlib.suppress(OSError):
            temporary.unlink()


def _publish_new(temporary: Path, target: Path) -> None:
    """Give `temporary` the name `target` unless that exists; a hard link tests and sets in one step."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Without links: claim the name exclusively, then replace our own empty claim.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            os.replace(temporary, target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system can (Windows cannot open folders)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
