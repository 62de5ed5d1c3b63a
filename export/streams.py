"""The streams of the models' blocks: what reads and adds to a residual stream, and what lies within blocks.

See `vaert.export.equalise`; blocks are given by the names of their modules.
"""

from __future__ import annotations

from collections.abc import Sequence

from vaert.export.trace import Stream
from vaert.trainer.models.conditional import SLOPE

# Of `vaert.trainer.models.blocks.Block` and `vaert.trainer.models.conditional.ResidualBlock`.
_READERS = {"block": ("mix_in", "value", "gate"), "residual": ("first",)}
_MAKERS = {"block": ("mix_out", "project"), "residual": ("second",)}
_INNER = {
    "block": (("mix_in", "depthwise", SLOPE), ("depthwise", "mix_out", 1.0), ("value", "project", 1.0)),
    "residual": (("first", "second", SLOPE),),
}


def readers(blocks: Sequence[str], kind: str = "block") -> tuple[str, ...]:
    """The layers of blocks that read the residual stream."""
    return tuple(f"{block}.{layer}" for block in blocks for layer in _READERS[kind])


def makers(blocks: Sequence[str], kind: str = "block") -> tuple[str, ...]:
    """The layers of blocks that add to the residual stream."""
    return tuple(f"{block}.{layer}" for block in blocks for layer in _MAKERS[kind])


def inner(blocks: Sequence[str], kind: str = "block") -> list[Stream]:
    """The streams within blocks."""
    return [
        Stream(f"{block}.{a}", (f"{block}.{a}",), (f"{block}.{b}",), slope=slope)
        for block in blocks
        for a, b, slope in _INNER[kind]
    ]
