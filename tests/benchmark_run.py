"""A small made run of `pytest benchmarks/ --benchmark`: every section, some rows with a reason instead of a figure."""

from __future__ import annotations

from typing import Any

from benchmarks import _suite_curves

STATS = {"runs": 7, "p50_ms": 21.5, "p95_ms": 23.25, "p99_ms": 24.5, "others_cores": 0.0}
CUDA, TENSORRT = "no driver: install | one", "TensorRT is not installed: pip install it"
SLOW = "3 runs would take {} s, over the 20 s of a row: see --row-limit"
MB = 1_000_000


def row(name: str, value: float | None, facts: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    """Measured; `reason` among the parameters: not."""
    reason = parameters.pop("reason", None)
    stats = None if value is None else STATS
    made = {"name": name, "parameters": parameters, "value": value, "unit": "made", "better": "lower", "stats": stats}
    return made | {"facts": facts or {}, "checks": ["right"] if stats else [], "not_measured": reason}


def throughput() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for model, operation in (
        ("fast", "compress"),
        ("fast", "decompress"),
        ("restore", "restore"),
        ("digits", "encode"),
    ):
        sizes = ((28, 28),) if model == "digits" else ((768, 512), (1920, 1080))
        for precision, speed in (("fp32", 10.0), ("int8", 20.0)):
            for width, height in sizes:
                for batch in (1, 8):
                    given: dict[str, Any] = {
                        "backend": "cpu",
                        "model": model,
                        "precision": precision,
                        "operation": operation,
                    }
                    given |= {"width": width, "height": height, "batch": batch}
                    if width * batch > 10_000:
                        rows.append(row(operation, None, reason=SLOW.format(30 + len(rows)), **given))
                        continue
                    facts = {"pictures_per_s": speed * 1e6 / width / height, "host_peak_bytes": 300 * MB}
                    rows.append(
                        row(operation, speed, facts | {"host_before_bytes": 200 * MB, "gpu_bytes": None}, **given)
                    )
    absent = (("cuda", CUDA), ("tensorrt", TENSORRT), ("ort-tensorrt", CUDA))
    return rows + [row("all", None, backend=name, reason=reason) for name, reason in absent]


def stages() -> list[dict[str, Any]]:
    rows = []
    for operation, parts in (("compress", ("encoder", "entropy coding")), ("upscale", ("upscaler", "image write"))):
        for width, height in ((768, 512), (1920, 1080)):
            given: dict[str, Any] = {"model": "fast", "operation": operation, "width": width, "height": height}
            given |= {"backend": "cpu", "precision": "fp32"}
            rows.append(row("whole", 41.0, {"sum_of_stages_ms": 40.0, "sum_to_whole": 0.9756}, **given))
            shares = zip(parts, (0.75, 0.25), strict=True)
            rows += [row(name, 40 * share, {"share": share}, **given) for name, share in shares]
            rows.append(row("call to graphs", 1.25, {"call_ms": 25.0, "graphs_ms": {"encoder": 20.0}}, **given))
    ways = {"compress in turn": 40.0, "compress, two stages": 44.0}
    return [
        *rows,
        row("overlap", 1.1, ways, model="fast", width=768, height=512),
        row("whole", None, reason="left out"),
    ]


def roofline() -> list[dict[str, Any]]:
    given: dict[str, Any] = {"backend": "cpu", "model": "fast", "width": 768, "height": 512, "kind": "codec"}
    rows = [row("ceiling", None, backend="cuda", reason=CUDA)]
    for precision, share in (("fp32", 0.75), ("int8", 1.5)):
        products = {"cpu 64x64x64": 450.0, "numpy 64x64x64": 230.0}
        rows.append(
            row("ceiling", 450.0, {"products_gflops": products, "copy_gb_per_s": 40.0}, precision=precision, **given)
        )
        facts = {"share_of_ceiling": share, "share_in_best_run": share, "multiply_adds_per_pixel": 6275.8}
        rows.append(row("encoder", 450 * share, facts, precision=precision, **given))
    return [*rows, row("ceiling", 90.0, backend="tensorrt", kind="int8 tensor cores")]


def rate_distortion(*, kodak: bool) -> list[dict[str, Any]]:
    shared: dict[str, Any] = {"images": "kodak", "pictures": 24} if kodak else {"images": "made", "pictures": 1}
    rows = []
    for codec, worse in (("vaert fast, fp32", 1.0), ("vaert fast, int8", 1.05), ("JPEG (Pillow, 4:2:0)", 1.9)):
        for setting in (10.0, 50.0, 90.0):
            facts: dict[str, Any] = {"psnr_db": 25 + setting / 8, "ms_ssim": None, "encode_ms": 5.0, "decode_ms": 6.0}
            rows.append(row("point", worse * setting / 50, facts, codec=codec, setting=setting, **shared))
        facts = {"bpp": 0.7, "psnr_db": 33.25, "megapixels_per_s": 12.5}
        rows += [
            row(name, 31.5, facts, codec=codec, setting=50.0, threads=2, **shared) for name in ("encode", "decode")
        ]
    ours: dict[str, Any] = {"codec": "vaert fast, fp32", **shared}
    rows.append(row("BD-rate", -47.34, {"remark": "only a part"}, against="JPEG", curve="measured here", **ours))
    published: dict[str, Any] = {"against": "ELIC (paper)", "curve": _suite_curves.PUBLISHED, **ours}
    rows.append(row("BD-rate", 33.21, **published) if kodak else row("BD-rate", None, reason="not Kodak", **published))
    return [*rows, row("points", None, reason="no plug-in: pip install it", codec="JPEG XL", **shared)]


def peers() -> list[dict[str, Any]]:
    given: dict[str, Any] = {"width": 768, "height": 512, "threads": 2, "operation": "compress"}
    facts = {"times_faster_is_vaert": 6.789, "weights": "untrained: its time only"}
    small: dict[str, Any] = {**given, "operation": "upscale x4"}
    return [
        row("CompressAI", 754.0, facts, beside="vaert", **given),
        row("vaert fast", 111.0, beside="CompressAI", **given),
        row("CompressAI slow", None, reason="left out by --quick", beside="vaert", **given),
        row("vaert, the whole call", 97.0, **small),
        row("ESPCN", 14.5, {"times_faster_is_vaert": 0.1495}, **small),
    ]


def scaling() -> list[dict[str, Any]]:
    rows = []
    for width, height in ((512, 512), (1920, 1080), (8000, 6250)):
        area = width * height / 1e6
        facts = {"megapixels": area, "ms_per_megapixel": 80.0, "peak_bytes": 300 * MB, "picture_bytes": 3 * area * MB}
        given: dict[str, Any] = {"model": "fast", "width": width, "height": height, "threads": 2}
        rows.append(row("compress", 80 * area, facts | {"beyond_bytes": 99 * MB}, **given))
    return [*rows, row("compress, fitted", 79.5, {"fixed_ms": 1.5, "largest_error": 0.05}, model="fast", threads=2)]


def record(name: str = "full", **sections: list[dict[str, Any]]) -> dict[str, Any]:
    versions = {"vaert": "0.1.0"}
    machine = {"cpu": "Made", "cores": 2, "gpus": [], "load_average": [0.1, 0.2, 0.3], "system": "Linux", "python": "3"}
    bars = [{"what": "speed | made", "bar": "fast", "measured": "7 ms", "met": True}] if sections else []
    head = {"schema": "vaert-benchmark-run", "version": 1, "benchmark": "suite", "question": "How fast?", "name": name}
    head |= {"command": "pytest made", "started": "2026-01-01T00:00:00Z", "seconds": 90.0, "bars": bars}
    return head | {
        "machine": machine | {"versions": versions, "commit": None},
        "options": {"quick": False, "threads": 2},
        "results": {"sections": sections},
    }


def whole(name: str = "full", *, kodak: bool = True) -> dict[str, Any]:
    cold = [row("--help", 61.0, threads=2), row("compress", None, reason="failed: it ended with 1", threads=2)]
    return record(
        name,
        cold_start=cold,  # not in the order of the page
        roofline=roofline(),
        throughput=throughput(),
        stages=stages(),
        rate_distortion=rate_distortion(kodak=kodak),
        peers=peers(),
        scaling=scaling(),
        new_thing=[row("unheard of", 3.5, {"fact": 9}, model="fast")],
    )
