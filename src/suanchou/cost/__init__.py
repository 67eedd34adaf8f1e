"""Cost: seconds of a kernel, a collective or a transfer. Arrays broadcast."""
