"""Randomness: independent streams derived from one seed, and nothing global."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch

from aeot import _check


def stream_seed(seed: int, *keys: int | str) -> int:
    """Return a seed that depends on `seed` and every key, equal on all platforms.

    Args:
        seed: The caller's seed, >= 0.
        keys: What the stream is for: names and counters.

    Returns:
        A whole number in [0, 2**64).
    """
    # A digest rather than arithmetic: ("a",), ("a", 0) and ("a0",) are three streams.
    name = repr((int(seed), *(key if isinstance(key, str) else int(key) for key in keys)))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def generator(seed: int, *keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh torch generator for the stream `(seed, *keys)`.

    Different keys give independent streams; the same keys give the same numbers.

    Args:
        seed: The caller's seed, >= 0.
        keys: What the stream is for: names and counters.
        device: Where the numbers will be drawn.

    Returns:
        A generator owned by the caller.

    Example:
        >>> import torch
        >>> a = torch.rand(2, generator=generator(0, "noise", 3))
        >>> b = torch.rand(2, generator=generator(0, "noise", 3))
        >>> bool((a == b).all())
        True
    """
    seed = _check.seed("seed", seed)
    for key in keys:
        if not isinstance(key, str):
            _check.integer("keys", key, minimum=None)
    device = _check.device("device", device)
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *keys) & (2**63 - 1))


def device_of(generator: torch.Generator | None) -> torch.device:
    """Where a generator draws; torch's global one draws on the CPU.

    Raises:
        ValueError: If it is no generator.
    """
    if not isinstance(generator, (torch.Generator, type(None))):
        way_out = "aeot.generator(seed) makes one"
        got = _check.shown(generator)
        raise _check.fail("generator", "be a torch.Generator or None", got, way_out)
    return torch.device("cpu") if generator is None else generator.device


@contextlib.contextmanager
def forked(seed: int, *keys: int | str) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore them after it.

    For code that can only draw from the global generator, such as the initialisation of layers.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(stream_seed(seed, *keys) & (2**63 - 1))
        yield
