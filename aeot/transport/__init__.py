"""Transport: heights, cells, exact geometry, solvers, singular sets."""
