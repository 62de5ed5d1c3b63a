"""The cache of engines: a private folder, and in it only what this installation built, sealed with its own key.

An engine is executable code. So nothing is loaded that was not built here: each file has a sidecar with its SHA-256 and
what it was built for, under an HMAC with a key that never leaves the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaert.atomic import write_atomic
from vaert.errors import BackendError, OutputError

SCHEMA = 1  # of keys and sidecars, and of how we build: raise it when engines must be built anew
SECRET, SECRET_BYTES = "secret.key", 32
VARIABLE = "VAERT_CACHE"


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on."""

    model: str  # name of the package
    graph: str
    content: str  # SHA-256 of the graph and of the files that it refers to
    gpu: str
    compute_capability: str
    driver: str
    tensorrt: str
    precision: str
    shapes: str  # of every input
    options: str  # of the builder
    schema: int = SCHEMA

    @property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        return hashlib.sha256(_canonical(asdict(self))).hexdigest()

    @property
    def file(self) -> str:
        """Name of the engine's file: readable, and its own."""
        readable = re.sub(r"[^\w.-]+", "_", f"{self.model}-{self.graph}")
        return f"{readable}-{self.digest[:40]}.engine"


@dataclass(frozen=True)
class CachedEngine:
    """A serialised engine."""

    data: bytes
    path: Path | None  # None if it could not be kept
    build_seconds: float  # when it was built, now or earlier
    from_cache: bool


def content_hash(graph: bytes, others: Mapping[str, str]) -> str:
    """SHA-256 over a graph and the other files it refers to, given by name and SHA-256."""
    return hashlib.sha256(_canonical([hashlib.sha256(graph).hexdigest(), sorted(others.items())])).hexdigest()


def default_folder() -> Path:
    """`$VAERT_CACHE`, or `vaert/engines` in `$XDG_CACHE_HOME`, or `~/.cache/vaert/engines`."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "vaert" / "engines"


class EngineCache:
    """Engines in one folder, the default one if None. It is made when first used, with mode 0700.

    Threads and processes may share it. Raises BackendError for a folder that others own or may write to.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder)

    def get(self, key: EngineKey, build: Callable[[], bytes], *, fresh: bool = False) -> CachedEngine:
        """The engine of that key, built if there is none that this installation built; of two builders one waits.

        fresh: build even if there is one. What is wrong with a stored engine is said as a RuntimeWarning.
        """
        self._open()
        with self._locked(key.file):
            found = None if fresh else self._load(key)
            if found is not None:
                return found
            start = time.monotonic()
            data = build()
            seconds = time.monotonic() - start
            kept = self._store(key.file, data, {**asdict(key), "build_seconds": seconds})
            return CachedEngine(data, self.folder / key.file if kept else None, seconds, from_cache=False)

    def read(self, name: str) -> bytes:
        """A sealed file of any other kind, such as a timing cache; empty if there is none of ours."""
        self._open()
        with self._locked(name):
            sidecar = self._sidecar(name)
            data = self._bytes(name)
        return data if sidecar and data and self._fault(name, data, sidecar) == "" else b""

    def write(self, name: str, data: bytes) -> None:
        """Keep such a file."""
        self._open()
        with self._locked(name):
            self._store(name, data, {})

    def _open(self) -> None:
        """Make the folder and refuse one that others could put engines into."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.folder.stat()
        except OSError as error:
            raise BackendError(
                f"the folder for engines {self.folder} cannot be made ({error.strerror}); choose one with {VARIABLE}"
            ) from error
        if status.st_uid != os.geteuid():
            raise BackendError(
                f"the folder for engines {self.folder} belongs to user {status.st_uid}, expected {os.geteuid()}: "
                f"engines run as code, so choose a folder of your own with {VARIABLE}"
            )
        if status.st_mode & 0o022:
            raise BackendError(
                f"the folder for engines {self.folder} is writable by others (mode {status.st_mode & 0o777:o}): "
                f"engines run as code, so say: chmod 700 {self.folder}"
            )

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a file's lock; it is released by the system if the process dies."""
        try:
            descriptor = os.open(self.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BackendError(
                f"the folder for engines {self.folder} cannot be used ({error.strerror}); choose one with {VARIABLE}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _load(self, key: EngineKey) -> CachedEngine | None:
        """A stored engine if all about it is right."""
        data = self._bytes(key.file)
        sidecar = self._sidecar(key.file)
        if data is None and sidecar is None:
            return None
        fault = "it is not complete" if data is None or sidecar is None else self._fault(key.file, data, sidecar)
        about = (sidecar or {}).get("about", {})
        if not fault and {name: value for name, value in about.items() if name != "build_seconds"} != asdict(key):
            fault = "it was built for something else"
        if fault or data is None:
            _warn(f"the engine {self.folder / key.file} is not used: {fault}; it is built again")
            return None
        return CachedEngine(data, self.folder / key.file, float(about["build_seconds"]), from_cache=True)

    def _fault(self, name: str, data: bytes, sidecar: Mapping[str, Any]) -> str:
        """What is wrong with a file and its sidecar, or an empty string."""
        seal = sidecar.get("hmac")
        if not isinstance(seal, str) or not hmac.compare_digest(seal, self._seal(name, sidecar)):
            return "this installation did not build it, or its description was changed"
        if sidecar["bytes"] != len(data):
            return f"it has {len(data)} bytes instead of {sidecar['bytes']}"
        if sidecar["sha256"] != hashlib.sha256(data).hexdigest():
            return "it does not fit its description: it was changed, or half written"
        return ""

    def _store(self, name: str, data: bytes, about: Mapping[str, Any]) -> bool:
        """Write a file, then its sidecar; whether that worked. A cut in between leaves a pair that does not fit."""
        sidecar: dict[str, Any] = {
            "about": dict(about),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        sidecar["hmac"] = self._seal(name, sidecar)
        try:
            write_atomic(self.folder / name, data, force=True)
            write_atomic(self.folder / f"{name}.json", json.dumps(sidecar, indent=1).encode(), force=True)
        except OutputError as error:
            _warn(f"what was built is used but not kept: {error}")
            return False
        return True

    def _bytes(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BackendError(f"{self.folder / name} cannot be read ({error.strerror}); remove it") from error

    def _sidecar(self, name: str) -> dict[str, Any] | None:
        """A file's description, or None if there is none that can be read."""
        text = self._bytes(f"{name}.json")
        try:
            value = json.loads(text or b"")
        except ValueError:
            return None
        return value if isinstance(value, dict) and isinstance(value.get("about"), dict) else None

    def _seal(self, name: str, sidecar: Mapping[str, Any]) -> str:
        """HMAC-SHA256 over a file's name and all of its sidecar but the seal itself."""
        values = {field: value for field, value in sidecar.items() if field != "hmac"}
        return hmac.new(self._secret(), _canonical([name, values]), hashlib.sha256).hexdigest()

    def _secret(self) -> bytes:
        """The key of this installation, made on first use."""
        path = self.folder / SECRET
        try:
            if not path.exists():
                self._make_secret(path)
            status, secret = path.stat(), path.read_bytes()
        except OSError as error:
            raise BackendError(
                f"{path} cannot be read or made ({error.strerror}); choose another folder with {VARIABLE}"
            ) from error
        if len(secret) != SECRET_BYTES or status.st_mode & 0o077 or status.st_uid != os.geteuid():
            raise BackendError(
                f"{path} is not a private key of {SECRET_BYTES} bytes with mode 600 "
                f"({len(secret)} bytes, mode {status.st_mode & 0o777:o}); remove it: engines are built again"
            )
        return secret

    def _make_secret(self, path: Path) -> None:
        """Write it whole under another name, then rename; of two makers the first wins."""
        with self._locked(SECRET):
            if path.exists():
                return
            temporary = path.with_name(f".vaert-{secrets.token_hex(8)}.tmp")
            try:
                with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(secrets.token_bytes(SECRET_BYTES))
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)
