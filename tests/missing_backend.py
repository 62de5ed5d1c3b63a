"""A stand-in for an engine whose library is not installed."""


def available() -> str:
    return "libnvinfer.so.10 is not found: pip install 'vaert[gpu]'"
