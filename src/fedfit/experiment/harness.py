"""lm-evaluation-harness on a run's language model, adapter and all (the package ``lm-eval``, extra ``harness``)."""

from __future__ import annotations

import importlib.util
import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfit.errors import DataError, ModelError
from fedfit.experiment.runs import adapter_of, is_language_run, recipe_of

Results = Mapping[str, Mapping[str, Any]]
"""Task → the harness's own names of metrics (``acc,none``, ``acc_stderr,none``) → values."""


@dataclass(frozen=True)
class HarnessOptions:
    """What is measured, and how.

    Args:
        tasks: names of the harness's tasks, or of those in ``include``.
        include: a folder with task files (YAML) of one's own.
        limit: rows of each task; all when ``None``.
        batch_size: rows at a time.
        chat: prompts are put through the tokenizer's chat template.
        base: the frozen base is measured as well.
    """

    tasks: Sequence[str]
    include: Path | None = None
    limit: int | None = None
    batch_size: int = 8
    chat: bool = False
    base: bool = False


def check_harness(run: Path, options: HarnessOptions) -> None:
    """Raises ``FedfitError`` for a missing package, a run without a language model, and a folder that does not exist."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ModelError("--harness needs lm-evaluation-harness, the package lm-eval: pip install 'fedfit[harness]'")
    if not is_language_run(recipe_of(run)):
        raise DataError(f"--harness: {run} is the run of a classifier; leave it out to measure the recipe's own test set")
    adapter_of(run)
    if options.include is not None and not options.include.is_dir():
        raise DataError(f"--include-path {options.include}: there is no such folder; give the one with the task's YAML file")


def evaluate_by_harness(run: Path, options: HarnessOptions, *, quiet: bool = False) -> dict[str, Results]:
    """``{"tuned": results}``, with ``"base"`` before it where ``options`` ask for it.

    Args:
        quiet: the harness shows no progress bars.

    Raises:
        FedfitError: as ``check_harness`` does, for unknown tasks, and for data of a task that cannot be had.
    """
    check_harness(run, options)
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from fedfit.experiment.tuned import tuned

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=str(options.include) if options.include else None)
    _check_tasks(options, manager.all_tasks)
    found = tuned(run)
    model = HFLM(pretrained=found.model, tokenizer=found.tokenizer, batch_size=options.batch_size, device=str(found.device))
    results = {}
    for name in ("base", "tuned") if options.base else ("tuned",):
        with found.model.disable_adapter() if name == "base" else nullcontext(), muffled(quiet=quiet):
            results[name] = _results(model, manager, options)
    return results


@contextmanager
def muffled(*, quiet: bool) -> Iterator[None]:
    """Keeps standard output for results: what the harness prints there goes to standard error, as its bars do. When ``quiet``,
    nothing of it is shown, and no bar of tqdm is drawn, whatever its caller asks for: the harness passes ``disable=False``.
    """
    if not quiet:
        with redirect_stdout(sys.stderr):
            yield
        return
    from tqdm import tqdm

    drawn = tqdm.__init__

    def hidden(self: Any, *args: Any, **options: Any) -> None:
        drawn(self, *args, **options | {"disable": True})

    tqdm.__init__ = hidden
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm.__init__ = drawn


def _results(model: Any, manager: Any, options: HarnessOptions) -> Results:
    from lm_eval import evaluator

    try:
        # It asks git about the working folder, and git complains where that is no repository.
        evaluator.get_git_commit_hash = lambda: None
        found = evaluator.simple_evaluate(
            model=model,
            tasks=list(options.tasks),
            task_manager=manager,
            limit=options.limit,
            apply_chat_template=options.chat,
            log_samples=False,
            bootstrap_iters=1000,
        )
    except (OSError, ValueError, KeyError) as error:  # of data that are on the hub, or not as the task file says
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        tasks = ", ".join(options.tasks)
        raise DataError(
            f"--harness {tasks}: the harness stopped ({reason}); check the task's file and its data, which may be on the hub"
        ) from error
    return {
        task: {name: value for name, value in values.items() if name != "alias"} for task, values in found["results"].items()
    }


def _check_tasks(options: HarnessOptions, known: Sequence[str]) -> None:
    from fedfit.errors import did_you_mean

    unknown = [name for name in options.tasks if name not in known]
    if unknown:
        guess = did_you_mean(unknown[0], known) or "name one that `lm-eval ls tasks` lists, or give --include-path DIR. "
        raise DataError(f"--harness {unknown[0]}: the harness has no such task; {guess}".strip())
