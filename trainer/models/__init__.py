"""The networks: pure torch, no files, no loops over data."""
