"""``fedfit evaluate --harness``: lm-evaluation-harness with a task of one's own, without a network."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tqdm import auto, tqdm, trange

from fedfit.experiment.harness import muffled
from tests.builders import chat_tokenizer
from tests.cli.command import fedfit, refused
from tests.trajectories.asking import Asking
from tests.trajectories.world import World

Runs = dict[str, Path]

TASK = """
task: colours
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/test.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "[CLS] user {{{{ask}}}} [SEP] [CLS] assistant it is"
doc_to_choice: ["red", "blue", "yellow"]
doc_to_target: "{{{{['red', 'blue', 'red or blue'].index(answer)}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: brier_score
    aggregation: brier_score
    higher_is_better: false
"""
WRITTEN = """
task: said
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/test.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{{{ask}}}}"
doc_to_target: "{{{{say}}}}"
generation_kwargs: {{until: ["[SEP]"], max_gen_toks: 3}}
metric_list:
  - metric: bleu
"""
"""Of a metric that the harness draws samples of, which it says on standard output."""
CHOICES = ["red", "blue", "yellow"]

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="the package lm-eval is not installed: pip install 'fedfit[harness]'"
)


@pytest.fixture
def tasks(asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two task files; the library's own cache of data sets lies beside it."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "colours.yaml").write_text(TASK.format(folder=asking.folder))
    (tmp_path / "tasks" / "said.yaml").write_text(WRITTEN.format(folder=asking.folder))
    return tmp_path / "tasks"


def brier(asking: Asking, model: object) -> tuple[float, float]:
    """Accuracy and Brier score over the choices by transformers alone."""
    right, scores = 0, []
    for row in asking.test:
        context = chat_tokenizer()(f"[CLS] user {row['ask']} [SEP] [CLS] assistant it is")["input_ids"]
        found = []
        for choice in CHOICES:
            after = chat_tokenizer()(f" {choice}")["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([context + after])).logits[0, len(context) - 1 : -1]  # type: ignore[operator]
            found.append(float(logits.log_softmax(dim=-1).gather(1, torch.tensor(after)[:, None]).sum()))
        target = ["red", "blue", "red or blue"].index(row["answer"])
        right += found.index(max(found)) == target
        shares = torch.tensor(found).softmax(dim=0)
        scores.append(float(((shares - torch.nn.functional.one_hot(torch.tensor(target), 3)) ** 2).sum()))
    return right / len(asking.test), sum(scores) / len(scores)


@needs_harness
def test_a_local_task_on_base_and_tuned_model(asking: Asking, language_runs: Runs, tasks: Path) -> None:
    run = language_runs["free"]
    answer = fedfit("evaluate", run, "--harness", "colours", "--include-path", tasks, "--base", "--json", "--quiet")
    assert answer.status == 0, answer.stderr
    found = answer.json
    assert json.loads((run / "harness.json").read_text()) == {name: found[name] for name in ("base", "tuned")}
    for name, model in (("base", asking.base()), ("tuned", asking.tuned(run))):
        accuracy, score = brier(asking, model)
        assert found[name]["colours"]["acc,none"] == pytest.approx(accuracy)
        assert found[name]["colours"]["brier_score,none"] == pytest.approx(score, rel=1e-3)
    assert found["base"]["colours"]["brier_score,none"] != pytest.approx(found["tuned"]["colours"]["brier_score,none"])


@needs_harness
def test_the_table_and_a_limit(language_runs: Runs, tasks: Path) -> None:
    answer = fedfit("evaluate", language_runs["free"], "--harness", "colours", "--include-path", tasks, "--limit", "2")
    assert answer.status == 0, answer.stderr
    (row,) = [line for line in answer.stdout.splitlines() if " acc " in line]
    assert row.split()[:3] == ["colours", "acc", "none"]
    assert f"results: {language_runs['free'] / 'harness.json'}" in answer.stderr


@needs_harness
@pytest.mark.parametrize("quiet", [True, False])
def test_results_alone_are_on_standard_output_and_bars_go_when_asked(language_runs: Runs, tasks: Path, quiet: bool) -> None:
    options: list[str | Path] = ["--harness", "colours,said", "--include-path", tasks, *(["--quiet"] if quiet else [])]
    answer = fedfit("evaluate", language_runs["free"], *options, "--json")
    assert set(answer.json["tuned"]) == {"colours", "said"}
    bars = {"100%|", "Running loglikelihood requests", "Running generate_until requests", "bootstrapping for stddev: bleu"}
    assert {words for words in bars if words in answer.stderr} == (set() if quiet else bars)


def test_no_bar_is_drawn_even_where_its_caller_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    def bars() -> list[int]:
        print("an aside")
        return [*tqdm(range(3), disable=False), *auto.tqdm(range(2)), *trange(1)]

    with muffled(quiet=True):
        assert bars() == [0, 1, 2, 0, 1, 0]
    assert capsys.readouterr() == ("", "")
    with muffled(quiet=False):
        bars()
    found = capsys.readouterr()
    assert found.out == ""
    assert "an aside" in found.err
    assert "3/3" in found.err, "bars are drawn again"


@needs_harness
def test_tasks_that_will_not_do(language_runs: Runs, tasks: Path, tmp_path: Path) -> None:
    call: list[str | Path] = ["evaluate", language_runs["free"], "--include-path", tasks, "--harness"]
    refused(*call, "colors", says=["--harness colors: the harness has no such task; did you mean 'colours'?"])
    (tasks / "lost.yaml").write_text(TASK.format(folder=tmp_path / "nowhere").replace("task: colours", "task: lost"))
    refused(*call, "lost", "--quiet", says=["--harness lost: the harness stopped"])


@needs_harness
def test_a_classifier_and_a_folder_that_is_not_there(finished: Path, language_runs: Runs) -> None:
    refused("evaluate", finished, "--harness", "colours", says=["is the run of a classifier"])
    call: list[str | Path] = ["evaluate", language_runs["free"], "--harness", "colours"]
    refused(*call, "--include-path", "nowhere", says=["--include-path nowhere: there is no such folder"])


def test_without_the_package_the_remedy_is_said(language_runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else find(name, *rest))
    refused("evaluate", language_runs["free"], "--harness", "colours", says=["pip install 'fedfit[harness]'"])


def test_options_of_the_harness_alone(language_runs: Runs, world: World) -> None:
    refused("evaluate", language_runs["free"], "--base", says=["--base go with --harness TASK"])
