"""Where the time of a warm step goes, by operator."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import assemble
from benchmarks.meters import StepClock
from benchmarks.work import Case, Work
from fedfit.models.trunk import open_trunk
from fedfit.settings import TrunkCacheSettings


def profile_warm_steps(case: Case, work: Work, rows: int = 25) -> str:
    """torch's table of the operators with the most self time over one device's warm steps, tail only."""
    clock = StepClock(case.torch_device)
    activities = [ProfilerActivity.CPU]
    if case.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    try:
        with tempfile.TemporaryDirectory(prefix="fedfit-bench-") as root:
            runner = assemble(case, work, clock, Path(root)).runner
            trunk = open_trunk(runner.model, TrunkCacheSettings(), Path(root), case.precision)
            trunk.prepare(work.samples, work.parts[0])
            runner.train(trunk, 0)
            with profile(activities=activities) as profiler:
                block = runner.train(trunk, 0)
    finally:
        clock.close()
    by = "self_cuda_time_total" if case.device == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=by, row_limit=rows, max_name_column_width=50)
    steps_ms = ", ".join(f"{1000 * step:.0f}" for step in block.steps_s)
    return f"{case.model}, {case.dropout_words}: {case.steps} warm steps of {steps_ms} ms under the profiler\n{table}"
