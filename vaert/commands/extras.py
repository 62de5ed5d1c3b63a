"""Optional parts of the installation: a missing library becomes one line that names the extra."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from vaert.errors import MissingExtraError


@contextmanager
def needs_extra(what: str, *, extra: str, modules: Sequence[str] = ()) -> Iterator[None]:
    """Run a block that imports optional libraries.

    Args:
        what: what is being done, for the message.
        extra: the extra of `pip install 'vaert[EXTRA]'` that brings the libraries.
        modules: looked for before the block starts, because it may import them only after hours of work.

    Raises:
        MissingExtraError: one of `modules`, or a module outside vaert that the block imports, is not installed.
    """
    try:
        for module in modules:
            if find_spec(module) is None:
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        yield
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] == "vaert":
            raise  # a hole in our own package is a bug, not a missing extra
        raise MissingExtraError(f"{what} (which imports {exc.name})", extra=extra) from exc
