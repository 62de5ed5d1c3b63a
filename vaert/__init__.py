"""vaert: variational autoencoders for images, from training to deployment.

`import vaert` loads no array library and no engine: every public name below is fetched when it is first used.

    import vaert

    codec = vaert.Codec()
    data = codec.compress(pixels, quality=60)  # pixels: uint8, H x W or H x W x {2, 3, 4}
    pixels = codec.decompress(data)

    large = vaert.Upscaler(scale=4).upscale(pixels)  # the same kinds of pictures, 4 times as wide and high
    clean = vaert.Restorer().restore(pixels)  # or restore(pixels, mask), to fill holes
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaert.errors import (
        BackendError,
        BitstreamError,
        DataError,
        ImageError,
        MissingExtraError,
        ModelError,
        OptionError,
        OutputError,
        TargetError,
        VaertError,
    )
    from vaert.runtime.codec import Codec
    from vaert.runtime.restorer import Restorer
    from vaert.runtime.upscaler import Upscaler

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BitstreamError",
    "Codec",
    "DataError",
    "ImageError",
    "MissingExtraError",
    "ModelError",
    "OptionError",
    "OutputError",
    "Restorer",
    "TargetError",
    "Upscaler",
    "VaertError",
    "__version__",
]

_ELSEWHERE = {
    "Codec": "vaert.runtime.codec",
    "Restorer": "vaert.runtime.restorer",
    "Upscaler": "vaert.runtime.upscaler",
}


def __getattr__(name: str) -> object:
    """Fetch a public name from the module that defines it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'vaert' has no attribute {name!r}")
    value = getattr(import_module(_ELSEWHERE.get(name, "vaert.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, also those not fetched yet."""
    return sorted({*globals(), *__all__})
