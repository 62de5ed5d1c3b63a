"""The commands of `vaert`, one module per group; none of them loads an array library before it runs."""
