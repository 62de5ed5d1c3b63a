"""Every error that vaert raises on purpose, each with a message of one line.

::

    VaertError                 anything wrong with a file, a model, an option or this installation
    ├── ImageError             an image is unreadable or of an unsupported kind
    ├── BitstreamError         a .vaert file is damaged, cut, not ours, too large or of another version
    ├── ModelError             a model package is missing, damaged or of another model id
    ├── BackendError           an engine or native library is missing or failed
    ├── TargetError            a rate or quality target cannot be reached
    ├── OptionError            an argument is outside its range (also a ValueError)
    ├── MissingExtraError      an optional part of vaert is not installed
    ├── DataError              a training or evaluation folder has a problem
    └── OutputError            an output exists already or cannot be written
"""


class VaertError(Exception):
    """Base of all errors raised on purpose; its text is one line, fit for ``vaert: error: ...``."""


class ImageError(VaertError):
    """An image is unreadable or of an unsupported kind."""


class BitstreamError(VaertError):
    """A .vaert file is damaged, cut, not ours, too large or of another version."""


class ModelError(VaertError):
    """A model package is missing, damaged or of another model id."""


class BackendError(VaertError):
    """An engine or native library is missing or failed."""


class TargetError(VaertError):
    """A rate or quality target cannot be reached."""


class OptionError(VaertError, ValueError):
    """An argument is outside its range."""


class MissingExtraError(VaertError):
    """An optional part of vaert is not installed.

    Args:
        what: the thing that needs the missing part, e.g. ``"training"``.
        extra: name of the extra, e.g. ``"train"``; the message names ``pip install 'vaert[train]'``.
    """

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what} needs an optional part that is not installed: pip install 'vaert[{extra}]'")
        self.what = what
        self.extra = extra

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        # Exceptions pickle by calling type(self)(*self.args), which the keyword-only argument would refuse.
        return _missing_extra, (self.what, self.extra)


def _missing_extra(what: str, extra: str) -> MissingExtraError:
    return MissingExtraError(what, extra=extra)


class DataError(VaertError):
    """A training or evaluation folder has a problem."""


class OutputError(VaertError):
    """An output exists already or cannot be written."""
