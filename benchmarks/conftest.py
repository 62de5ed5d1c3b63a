"""`pytest benchmarks/ --benchmark`: the suite's options, its fixtures, and the file that a run leaves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks._suite import BACKENDS, NotMeasured, Run, Settings
from vaert.export import PRECISIONS

if TYPE_CHECKING:
    from benchmarks._suite_engines import Shelf

RESULTS = Path(__file__).with_name("results")
HOW = "a benchmark: run `pytest benchmarks/ --benchmark`, with --quick for three minutes"
RUN = pytest.StashKey[Run]()
EARLIER = pytest.StashKey[dict[str, Any]]()
ROW_LIMIT_S = 20.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of docs/benchmarks.md."""
    group = parser.getgroup("vaert", "vaert's benchmarks")
    group.addoption("--benchmark", action="store_true", help="run the benchmarks instead of skipping them")
    group.addoption("--quick", action="store_true", help="a part of them, in less than three minutes on two cores")
    for name, choices in (("backend", BACKENDS), ("precision", PRECISIONS)):
        group.addoption(f"--{name}", action="append", choices=choices, help="one of them, repeatable (default: all)")
    group.addoption("--model", action="append", help="bundled model, repeatable (default: all)")
    group.addoption("--package", action="append", default=[], help="folder of a package in another precision")
    group.addoption("--images", type=Path, help="folder of pictures to use (default: the example picture)")
    group.addoption("--out", type=Path, default=RESULTS, help="folder of the JSON (default: benchmarks/results)")
    group.addoption("--compare", type=Path, help="run-NAME.json of an earlier run to compare with")
    group.addoption("--run-name", help="of the file run-NAME.json (default: date and time)")
    group.addoption("--threads", type=int, help="threads of the CPU engines (default: all cores)")
    group.addoption(
        "--row-limit", type=float, default=ROW_LIMIT_S, help=f"most seconds for one row (default: {ROW_LIMIT_S:g})"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Timing is off in pyproject.toml, for the tests; the flag turns it on before pytest-benchmark looks."""
    if not config.getoption("--benchmark"):
        return
    config.option.benchmark_enable = True
    if not config.getoption("benchmark_verbose"):
        config.option.benchmark_quiet = True  # its table of hundreds of rows says less than the report
    config.stash[RUN] = Run(_settings(config))
    if (path := config.getoption("--compare")) is not None:
        from benchmarks._suite_compare import NotARun, read_run

        try:
            config.stash[EARLIER] = read_run(path)
        except NotARun as error:
            raise pytest.UsageError(f"--compare: {error}") from error


def _settings(config: pytest.Config) -> Settings:
    """The options, checked. pytest.UsageError in one line."""
    from vaert.package import bundled_models

    threads = config.getoption("--threads") or len(os.sched_getaffinity(0))
    models = tuple(config.getoption("--model") or bundled_models())
    if unknown := [name for name in models if name not in bundled_models()]:
        raise pytest.UsageError(f"--model {unknown[0]}: there are {', '.join(bundled_models())}")
    if threads < 1 or config.getoption("--row-limit") <= 0:
        raise pytest.UsageError("--threads and --row-limit must be above 0")
    images = config.getoption("--images")
    if images is not None and not images.is_dir():
        raise pytest.UsageError(f"--images {images}: no such folder")
    return Settings(
        quick=config.getoption("--quick"),
        backends=tuple(config.getoption("--backend") or BACKENDS),
        models=models,
        precisions=tuple(config.getoption("--precision") or PRECISIONS),
        threads=threads,
        images=images,
        packages=tuple(map(Path, config.getoption("--package"))),
        out=config.getoption("--out"),
        name=config.getoption("--run-name") or time.strftime("%Y%m%d-%H%M%S", time.gmtime()),
        row_limit_s=config.getoption("--row-limit"),
        asked_precisions=bool(config.getoption("--precision")),
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without the flag everything is skipped: from one place, so that pytest reports it in one line."""
    if RUN not in item.config.stash:
        pytest.skip(HOW)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A row without a figure is a skipped test with the row's reason."""
    try:
        return (yield)
    except NotMeasured as reason:
        pytest.skip(f"not measured: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the run and its report, unless it was interrupted."""
    run = session.config.stash.get(RUN, None)
    if run is None or exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return
    if (path := run.write()) is not None:
        from benchmarks._suite_report import write

        write(path)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The three-way table, the bars and where the file is."""
    run = config.stash.get(RUN, None)
    if run is not None:
        from benchmarks._suite_summary import summary

        for line in (*summary(run), *_compared(run, config)):
            terminalreporter.write_line(line)


def _compared(run: Run, config: pytest.Config) -> Iterator[str]:
    """The run beside the earlier one, if there are both; the whole table goes into a page of its own."""
    if (earlier := config.stash.get(EARLIER, None)) is None or run.path is None:
        return
    from benchmarks._suite_compare import compare, read_run
    from benchmarks._suite_compared import markdown, text
    from vaert.atomic import write_atomic

    found, page = compare(read_run(run.path), earlier), run.path.with_name(f"{run.path.stem}-compared.md")
    write_atomic(page, ("\n".join(markdown(found)) + "\n").encode(), force=True)
    yield ""
    yield from text(found)
    yield f"{page}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module's `cases(settings)` gives the cases of every test in it that takes `case`."""
    if "case" not in metafunc.fixturenames:
        return
    run = metafunc.config.stash.get(RUN, None)
    found = [] if run is None else metafunc.module.cases(run.settings)
    metafunc.parametrize("case", found or [None], ids=lambda case: "all" if case is None else case.id)


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> Run:
    """What this session measures."""
    return pytestconfig.stash[RUN]


@pytest.fixture(scope="session")
def settings(run: Run) -> Settings:
    """What was asked for."""
    return run.settings


@pytest.fixture(scope="session")
def shelf(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """Packages, backends and pictures, made when first used and kept for the session."""
    from benchmarks._suite_engines import Shelf

    shelf = Shelf(settings, tmp_path_factory.mktemp("packages"))
    yield shelf
    shelf.close()


@pytest.fixture
def stopwatch(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Gives pytest-benchmark's fixture, which complains where it is asked for and then not used."""
    return lambda: request.getfixturevalue("benchmark")
