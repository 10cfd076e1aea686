"""Bytes and processor time of codec chains on one update: ``python -m benchmarks.codecs``.

Query and value of MiniLM's last three layers at rank 8 and a head of four classes: 38,400 numbers, of which the differences are
drawn from a normal distribution. Milliseconds are the least of several rounds of encoding and decoding, on one thread.
"""

from __future__ import annotations

import time

import torch

from fedfit.codecs.table import make_codec
from fedfit.core.update import HEAD, Factors, Update, named_tensors, update_of, with_tensors

CHAINS = (
    ("plain",),
    ("plain", "zstd"),
    ("bf16",),
    ("delta", "quantize:8"),
    ("delta", "quantize:4"),
    ("delta", "quantize:4", "zstd"),
    ("delta", "nf4"),
    ("quantize:1",),
    ("delta", "fedobd:0.3"),
    ("delta", "low_rank:2"),
    ("delta", "low_rank:2", "quantize:8"),
    ("delta", "low_rank:1", "quantize:4"),
    ("delta", "top_k:0.1", "quantize:4"),
    ("delta", "top_k:0.01", "quantize:4"),
    ("delta", "random_k:0.1", "quantize:2"),
)
REPEATS = 20


def update() -> Update:
    """The adapter, drawn."""
    generator = torch.Generator().manual_seed(0)

    def pair() -> Factors:
        return Factors(torch.randn(8, 384, generator=generator), torch.randn(384, 8, generator=generator), 1.0)

    names = [f"encoder.layer.{layer}.attention.self.{which}" for layer in (3, 4, 5) for which in ("query", "value")]
    head = {"classifier.weight": torch.randn(4, 384, generator=generator)}
    return update_of({name: pair() for name in names}, {HEAD: head}, 300.0, {"steps": 20, "train_loss": 0.7})


def milliseconds(chain: tuple[str, ...], sent: Update, reference: Update) -> tuple[int, float]:
    """Bytes of a packet, and the least time to encode and decode it; with error feedback where that is allowed."""
    codec, state, least = make_codec(chain, feedback=chain[0] == "delta"), None, float("inf")
    size = 0
    for seed in range(REPEATS):
        started = time.process_time()
        packet, state = codec.encode(sent, reference, seed=seed, state=state)
        codec.decode(packet, reference)
        least, size = min(least, time.process_time() - started), packet.size_bytes
    return size, 1e3 * least


def main() -> None:
    """Prints a table in Markdown."""
    torch.set_num_threads(1)
    reference = update()
    generator = torch.Generator().manual_seed(1)
    changed = {name: t + 0.1 * torch.randn(t.shape, generator=generator) for name, t in named_tensors(reference).items()}
    sent = with_tensors(reference, changed)
    whole = None
    print("| chain | bytes | of float32 | ms |\n|---|---|---|---|")
    for chain in CHAINS:
        size, ms = milliseconds(chain, sent, reference)
        whole = whole or size
        ratio = f"1/{whole / size:.3g}" if size < whole else "1"
        print(f"| {', '.join(f'`{stage}`' for stage in chain)} | {size:,} | {ratio} | {ms:.1f} |")


if __name__ == "__main__":
    main()
