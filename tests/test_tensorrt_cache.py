"""The cache of engines: only what this installation built is taken from it, and two builders end with one engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from vaert.errors import BackendError
from vaert.runtime.backends._trt_cache import CachedEngine, EngineCache, EngineKey, content_hash, default_folder

KEY = EngineKey("fast", "encoder", "00" * 32, "GPU", "9.0", "CUDA 13.0", "10.16", "fp32", "{}", "options")
ENGINE = bytes(range(256)) * 16


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache" / "engines")


def never() -> bytes:
    raise AssertionError("it was built again")


def stored(cache: EngineCache) -> Path:
    path = cache.get(KEY, lambda: ENGINE).path
    assert path is not None
    return path


def test_an_engine_is_built_once(cache: EngineCache) -> None:
    first = cache.get(KEY, lambda: ENGINE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = cache.get(KEY, never)
    assert (first.data, first.from_cache) == (ENGINE, False)
    assert second == CachedEngine(ENGINE, first.path, first.build_seconds, from_cache=True)


def test_what_lies_there_is_private(cache: EngineCache) -> None:
    path = stored(cache)
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert (cache.folder / "secret.key").stat().st_mode & 0o777 == 0o600
    assert (cache.folder / "secret.key").stat().st_size == 32
    assert not list(cache.folder.glob(".vaert-*"))
    sidecar = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert sidecar["about"]["gpu"] == "GPU"
    assert (cache.folder / "secret.key").read_bytes().hex() not in json.dumps(sidecar)


@pytest.mark.parametrize("name", [field.name for field in fields(EngineKey)])
def test_every_part_of_the_key_counts(name: str) -> None:
    change: dict[str, Any] = {name: 2 if name == "schema" else "another"}
    other = replace(KEY, **change)
    assert other.digest != KEY.digest
    assert other.file != KEY.file


def test_the_content_counts_with_its_files() -> None:
    others: list[dict[str, str]] = [{}, {"w": "1"}, {"w": "2"}]
    assert len({content_hash(graph, files) for graph in (b"a", b"b") for files in others}) == 6


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lose_sidecar(path: Path) -> None:
    path.with_name(f"{path.name}.json").unlink()


def lose_engine(path: Path) -> None:
    path.unlink()


def cut_sidecar(path: Path) -> None:
    sidecar = path.with_name(f"{path.name}.json")
    sidecar.write_bytes(sidecar.read_bytes()[:50])


def change_sidecar(path: Path) -> None:
    sidecar = path.with_name(f"{path.name}.json")
    sidecar.write_text(sidecar.read_text().replace('"GPU"', '"UPG"'))


def forge(path: Path) -> None:
    """Another engine with a description that fits it, but for the seal."""
    import hashlib

    data, sidecar = b"hostile", path.with_name(f"{path.name}.json")
    value = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(value | {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}))
    path.write_bytes(data)


def no_seal(path: Path) -> None:
    sidecar = path.with_name(f"{path.name}.json")
    sidecar.write_text(json.dumps({"about": {}, "hmac": None}))


def other_installation(path: Path) -> None:
    elsewhere = EngineCache(path.parent.parent / "elsewhere")
    theirs = stored(elsewhere)
    for name in (path.name, f"{path.name}.json"):
        (path.parent / name).write_bytes((theirs.parent / name).read_bytes())


def other_key(path: Path) -> None:
    """An engine of ours under the name of another one."""
    cache = EngineCache(path.parent)
    other = cache.get(replace(KEY, gpu="another"), lambda: b"other").path
    assert other is not None
    for ending in ("", ".json"):
        (path.parent / f"{path.name}{ending}").write_bytes((path.parent / f"{other.name}{ending}").read_bytes())


DAMAGE: dict[Callable[[Path], None], str] = {
    flip: "changed, or half written",
    cut: "has 3996 bytes instead of 4096",
    lose_sidecar: "not complete",
    lose_engine: "not complete",
    cut_sidecar: "not complete",
    change_sidecar: "did not build it, or its description was changed",
    forge: "did not build it, or its description was changed",
    no_seal: "did not build it",
    other_installation: "did not build it",
    other_key: "did not build it, or its description was changed",  # the seal covers the name
}


@pytest.mark.parametrize("damage", DAMAGE, ids=[damage.__name__ for damage in DAMAGE])
def test_what_is_wrong_is_said_in_one_line_and_built_again(cache: EngineCache, damage: Callable[[Path], None]) -> None:
    path = stored(cache)
    damage(path)
    with pytest.warns(RuntimeWarning, match=rf"the engine .*{DAMAGE[damage]}.*; it is built again") as caught:
        again = cache.get(KEY, lambda: ENGINE + b"new")
    assert (again.data, again.from_cache) == (ENGINE + b"new", False)
    assert ["\n" in str(warning.message) for warning in caught] == [False]
    assert cache.get(KEY, never).data == ENGINE + b"new"


def test_a_description_that_is_ours_but_of_another_key(cache: EngineCache) -> None:
    """As if two keys had one name; not only the name must tell them apart."""
    path = stored(cache)
    cache._store(path.name, ENGINE, {"graph": "decoder", "build_seconds": 1.0})
    with pytest.warns(RuntimeWarning, match="it was built for something else"):
        assert not cache.get(KEY, lambda: ENGINE).from_cache


def test_fresh_builds_again(cache: EngineCache) -> None:
    stored(cache)
    assert cache.get(KEY, lambda: b"new", fresh=True).data == b"new"
    assert cache.get(KEY, never).data == b"new"


def test_a_build_that_fails_leaves_nothing(cache: EngineCache) -> None:
    with pytest.raises(AssertionError):
        cache.get(KEY, never)
    assert not list(cache.folder.glob("*.engine"))
    assert cache.get(KEY, lambda: ENGINE).data == ENGINE


def test_folders_that_others_can_write_to_are_refused(cache: EngineCache) -> None:
    stored(cache)
    for mode in (0o770, 0o702):
        cache.folder.chmod(mode)
        with pytest.raises(BackendError, match=rf"writable by others \(mode {mode:o}\).*chmod 700") as caught:
            cache.get(KEY, never)
        assert "\n" not in str(caught.value)
    cache.folder.chmod(0o700)
    cache.get(KEY, never)


def test_folders_of_others_are_refused(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(cache)
    monkeypatch.setattr(os, "geteuid", lambda: cache.folder.stat().st_uid + 1)
    with pytest.raises(BackendError, match=r"belongs to user .* with VAERT_CACHE"):
        cache.get(KEY, never)


def test_keys_that_others_can_read_are_refused(cache: EngineCache) -> None:
    stored(cache)
    (cache.folder / "secret.key").chmod(0o644)
    with pytest.raises(BackendError, match=r"secret\.key is not a private key .* mode 644\); remove it"):
        cache.get(KEY, never)
    (cache.folder / "secret.key").chmod(0o600)
    (cache.folder / "secret.key").write_bytes(b"short")
    with pytest.raises(BackendError, match=r"\(5 bytes, mode 600\)"):
        cache.get(KEY, never)


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BackendError, match=r"cannot be made \(.*\); choose one with VAERT_CACHE"):
        EngineCache(tmp_path / "file" / "engines").get(KEY, never)


def test_an_engine_that_cannot_be_kept_is_used(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(cache)
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.warns(RuntimeWarning, match="what was built is used but not kept: .*No space left"):
        engine = cache.get(replace(KEY, graph="decoder"), lambda: ENGINE)
    assert (engine.data, engine.path) == (ENGINE, None)


def test_other_sealed_files(cache: EngineCache) -> None:
    assert cache.read("timings") == b""
    cache.write("timings", b"fast")
    assert cache.read("timings") == b"fast"
    (cache.folder / "timings").write_bytes(b"slow")
    assert cache.read("timings") == b""


def test_where_engines_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VAERT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_folder() == tmp_path / ".cache" / "vaert" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_folder() == Path("/elsewhere/vaert/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert default_folder() == tmp_path / ".cache" / "vaert" / "engines"
    monkeypatch.setenv("VAERT_CACHE", "/mine")
    assert default_folder() == Path("/mine")


def test_threads_build_once(cache: EngineCache) -> None:
    builds = []
    together = threading.Barrier(4)

    def build() -> bytes:
        builds.append(1)
        time.sleep(0.1)
        return ENGINE

    def work(_: int) -> CachedEngine:
        together.wait()
        return EngineCache(cache.folder).get(KEY, build)

    with ThreadPoolExecutor(4) as pool:
        engines = list(pool.map(work, range(4)))
    assert len(builds) == 1
    assert sorted(engine.from_cache for engine in engines) == [False, True, True, True]


SCRIPT = """
import sys, time, warnings
warnings.simplefilter("error")
import numpy, pytest, fake_cuda, fake_tensorrt
from vaert.package import find_package
from vaert.runtime.backends.tensorrt import TensorRt
world, patch, package = fake_cuda.World(), pytest.MonkeyPatch(), find_package("fast")
fake_cuda.install(world, patch)
settings = fake_tensorrt.install(world, patch, "11.4.0.106")
settings.during_build = lambda: time.sleep(1)
backend = TensorRt()
print("ready", flush=True)
sys.stdin.readline()
report = backend.engine_report(package, "prior_anchor")
out = backend.load(package, "prior_anchor").run({"z": numpy.full((1, 1, 2, 64), 3, numpy.int32)})
backend.close()
assert world.faults == [], world.faults
print(report.from_cache, report.path, int(out["mean"].sum()), len(settings.builds), flush=True)
"""


def test_two_processes_end_with_one_good_engine(root: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "VAERT_CACHE": str(tmp_path / "engines"), "PYTHONPATH": str(root / "tests")}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    processes = [
        subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert sorted(output[0] for output in outputs) == ["False", "True"]
    assert sorted(output[3] for output in outputs) == ["0", "1"]
    assert outputs[0][1:3] == outputs[1][1:3]
    assert len(list((tmp_path / "engines").glob("*.engine"))) == 1


def test_a_process_that_dies_while_it_builds_leaves_the_way_free(root: Path, tmp_path: Path) -> None:
    script = f"""
        import os
        from vaert.runtime.backends._trt_cache import EngineCache, EngineKey
        key = EngineKey(*{[getattr(KEY, field.name) for field in fields(EngineKey)]!r})
        EngineCache({str(tmp_path / "engines")!r}).get(key, lambda: os._exit(7))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, cwd=root)
    assert done.returncode == 7
    assert EngineCache(tmp_path / "engines").get(KEY, lambda: ENGINE).data == ENGINE
