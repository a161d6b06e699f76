"""Comparisons of generators under one protocol: contestants, budgets, measures, results."""
