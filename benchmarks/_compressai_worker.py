"""CompressAI's `bmshj2018-hyperprior` in its own process and environment, for `benchmarks.peers`; it imports no vaert.

Reads `compress` or `decompress` per line, does that once and answers with the nanoseconds it took.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import sys
import time
from typing import Any

import numpy as np
import torch


def load_torchvision() -> torch.library.Library | None:
    """Import torchvision; where its binary part does not fit this torch, declare two operators that it expects.

    The operators last as long as the object that is returned, and are never called.
    """
    try:
        importlib.import_module("torchvision")
        return None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library


def main() -> None:
    """Load the network, say which, then serve."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pixels", required=True, help=".npy, uint8 (H, W, 3), sides multiples of 64")
    options.add_argument("--threads", type=int, required=True)
    options.add_argument("--quality", type=int, required=True)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    library = load_torchvision()
    zoo = importlib.import_module("compressai.zoo")
    network = zoo.bmshj2018_hyperprior(quality=given.quality, pretrained=False).eval()
    network.update()
    pixels = torch.from_numpy(np.load(given.pixels)).permute(2, 0, 1)[None].float() / 255
    versions = {name: importlib.metadata.version(name) for name in ("compressai", "torch", "torchvision")}
    answer({"versions": versions, "threads": torch.get_num_threads()})
    serve(network, pixels)
    del library  # not before: its operators go with it


def serve(network: Any, pixels: torch.Tensor) -> None:
    """Answer until standard input ends. The conversion from 8-bit pixels and back is not timed."""
    with torch.inference_mode():
        coded = network.compress(pixels)
        first = network.decompress(**coded)["x_hat"]
        if first.shape != pixels.shape or not torch.equal(network.decompress(**coded)["x_hat"], first):
            sys.exit("the network does not decode to the same picture twice")
        actions = {"compress": lambda: network.compress(pixels), "decompress": lambda: network.decompress(**coded)}
        for line in sys.stdin:
            started = time.perf_counter_ns()
            actions[line.strip()]()
            answer(time.perf_counter_ns() - started)


def answer(value: object) -> None:
    """One line of JSON."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
