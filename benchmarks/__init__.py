"""Speed, as ratios that are measured in one run. ``python -m benchmarks.speed``, ``python -m benchmarks.dropout``."""
