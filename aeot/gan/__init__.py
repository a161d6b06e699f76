"""Adversarial and likelihood baselines on the same data layer."""
