"""Compress, decompress and more, at low latency, on any engine. Never imports torch."""
