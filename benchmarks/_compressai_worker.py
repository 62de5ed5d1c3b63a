"""One network of CompressAI in its own process and environment, for `test_peers.py`; it imports no vaert.

Reads `compress N`, `decompress N`, `used N` or `check N` per line, N being a picture, and answers with one line of
JSON: the nanoseconds that it took, or what was found. A picture is compressed before it is decompressed, and that
before it is checked.
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


class Server:
    """A network and pictures, (1, 3, H, W) in 0..1 each."""

    def __init__(self, network: Any, pictures: list[torch.Tensor]) -> None:
        self._network, self._pictures = network, pictures
        self._coded: dict[int, dict[str, Any]] = {}
        self._decoded: dict[int, torch.Tensor] = {}

    def compress(self, number: int) -> int:
        """Tensor to strings, entropy coding included; nanoseconds."""
        started = time.perf_counter_ns()
        coded = self._network.compress(self._pictures[number])
        elapsed = time.perf_counter_ns() - started
        self._coded[number] = coded
        return elapsed

    def decompress(self, number: int) -> int:
        """Strings to tensor; nanoseconds."""
        started = time.perf_counter_ns()
        decoded = self._network.decompress(**self._coded[number])
        elapsed = time.perf_counter_ns() - started
        self._decoded[number] = decoded["x_hat"]
        return elapsed

    def used(self, _: int) -> float:
        """Seconds of processor time so far, of all threads."""
        return time.process_time()

    def check(self, number: int) -> dict[str, Any]:
        """Sizes, and the largest difference to what the network makes of the picture without entropy coding, of 1."""
        straight = self._network(self._pictures[number])["x_hat"].clamp(0, 1)
        decoded = self._decoded[number]
        coded = sum(len(string) for strings in self._coded[number]["strings"] for string in strings)
        same = decoded.shape == straight.shape
        return {"bytes": coded, "largest_difference": float((decoded - straight).abs().max()) if same else None}


def main() -> None:
    """Load the network, say which, then serve."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--network", required=True, help="name of a function of compressai.zoo")
    options.add_argument("--pictures", required=True, help=".npy, uint8 (N, H, W, 3), sides multiples of 64")
    options.add_argument("--threads", type=int, required=True)
    options.add_argument("--quality", type=int, required=True)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    library = load_torchvision()
    zoo = importlib.import_module("compressai.zoo")
    network = getattr(zoo, given.network)(quality=given.quality, pretrained=False).eval()
    network.update()
    arrays = torch.from_numpy(np.load(given.pictures)).permute(0, 3, 1, 2).float() / 255
    versions = {name: importlib.metadata.version(name) for name in ("compressai", "torch", "torchvision")}
    answer({"versions": versions, "threads": torch.get_num_threads()})
    server = Server(network, [arrays[n : n + 1] for n in range(len(arrays))])
    with torch.inference_mode():
        for line in sys.stdin:
            action, number = line.split()
            answer(getattr(server, action)(int(number)))
    del library  # not before: its operators go with it


def answer(value: object) -> None:
    """One line of JSON."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
