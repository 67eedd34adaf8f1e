"""Trends: how fast the compute of large models grows."""
