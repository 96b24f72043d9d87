"""Random seeds for tests, printed so that a failure can be repeated."""

from __future__ import annotations

import random


def new_seed() -> int:
    """Return a random seed of 32 bits, and print it. pytest shows it in the report of a failed test."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return seed
