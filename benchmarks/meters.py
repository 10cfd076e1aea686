"""Clocks, memory, the machine's peak, and the arithmetic of a piece of code."""

from __future__ import annotations

import ctypes
import gc
import math
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def synchronize(device: torch.device) -> None:
    """Waits for what was launched; on the CPU nothing is pending."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StepClock:
    """Seconds a step, for every training loop alike: a step ends when an optimiser, whoever made it, has stepped.

    On a GPU nothing waits inside the loop, which would forbid the launching ahead that is part of its speed: there, a step
    is the mean over the block.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[float] = []
        self._handle = register_optimizer_step_post_hook(self._mark)

    def start(self) -> None:
        """The first step begins."""
        synchronize(self._device)
        self._marks = [time.perf_counter()]

    def stop(self) -> list[float]:
        """Seconds of each step since ``start``."""
        synchronize(self._device)
        if self._device.type == "cuda":
            steps = len(self._marks) - 1
            return [(time.perf_counter() - self._marks[0]) / steps] * steps
        return [after - before for before, after in zip(self._marks[:-1], self._marks[1:], strict=True)]

    def close(self) -> None:
        """Takes the hook off every optimiser."""
        self._handle.remove()

    def _mark(self, *_: object) -> None:
        self._marks.append(time.perf_counter())


class PeakMemory:
    """Memory that a piece of code needed beyond what was there before: the high-water mark over the resting level.

    On the CPU ``None`` where the kernel cannot reset its mark.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._resting = torch.cuda.memory_allocated(device)
            return
        _return_free_memory()
        self._resting = _status_bytes("VmRSS")
        try:
            _CLEAR_REFS.write_text("5")  # resets VmHWM, see proc(5)
        except OSError:
            self._resting = 0

    def bytes_used(self) -> int | None:
        """Bytes above the resting level, so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._resting
        return _status_bytes("VmHWM") - self._resting if self._resting else None


def process_peak_bytes(device: torch.device) -> int:
    """The most that the process has held: of the card's memory on a GPU, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1024  # Linux; of macOS, where it is 1, the benchmark knows nothing
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, _status_bytes("VmHWM"))


def _status_bytes(key: str) -> int:
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def _return_free_memory() -> None:
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return


def peak_flops(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of one large matrix product, best of three."""
    size = 8192 if device.type == "cuda" else 2048
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(4):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / min(seconds[1:]))


def count_flops(action: Callable[[], object]) -> int:
    """Operations of the matrix products and attentions that ``action`` runs; a multiplication and an addition are two."""
    with FlopCounterMode(display=False, custom_mapping=_MISSING) as counter:
        action()
    return int(counter.get_total_flops())


def median_ms(action: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median milliseconds of ``action``, after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        synchronize(device)
        started = time.perf_counter()
        action()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:])


def _packed_linear(rows: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(rows[:-1]) * weight[0] * weight[1]


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


# What torch's own counter leaves out: fedfit's packed linear maps, and the fused attention of the CPU.
_MISSING: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _MISSING[torch.ops.mkldnn._linear_pointwise] = _packed_linear
