"""Exact power cells in one, two and three dimensions; no solver."""
