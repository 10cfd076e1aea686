"""Seeds derived from their purpose, so that no draw depends on the order of other draws."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed that is a pure function of ``seed`` and ``purpose``.

    ``purpose`` names the draw, from general to particular, e.g. ``("batches", round, device)``. Two purposes never share
    a stream, and adding a draw somewhere changes no other.
    """
    text = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
