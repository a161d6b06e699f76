"""Scores <x, y_i> + h_i of points against all sites: the best ones, never the whole matrix."""
