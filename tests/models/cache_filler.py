"""A process that fills a trunk cache; tests start several, and kill some.

    python -m tests.models.cache_filler ROOT KEY FIRST LAST [PAUSE_S]

Puts samples FIRST … LAST − 1, prints each one's number when it is in, and at the end how many it reads back right.
"""

import sys
import time
from pathlib import Path

import numpy as np

from fedfit.models.trunk_cache import TrunkCache

HIDDEN = 8


def name_of(number: int) -> bytes:
    return number.to_bytes(16, "little")


def states_of(number: int) -> np.ndarray:
    """``(tokens, HIDDEN)`` that only this sample has; 2 to 5 tokens."""
    tokens = 2 + number % 4
    return np.random.default_rng(number).standard_normal((tokens, HIDDEN)).astype(np.float32)


def count_right(cache: TrunkCache, numbers: range) -> int:
    found = ((number, cache.get(name_of(number))) for number in numbers)
    return sum(states is not None and np.array_equal(states, states_of(number)) for number, states in found)


def main(root: str, key: str, first: str, last: str, pause_s: str = "0") -> None:
    cache = TrunkCache(Path(root), key, HIDDEN, "float32", 10**9)
    numbers = range(int(first), int(last))
    for number in numbers:
        if name_of(number) not in cache:
            cache.put(name_of(number), states_of(number))
        print(number, flush=True)
        time.sleep(float(pause_s))
    print("right:", count_right(cache, numbers), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
