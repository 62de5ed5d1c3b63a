"""One file per question: `python -m benchmarks.NAME` at the root of a checkout with `pip install -e '.[dev]'`."""
