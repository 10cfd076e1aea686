"""What a person does with a finished run of a language model, held to transformers and PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import fedfit as package
from fedfit.cli import app
from fedfit.errors import DataError
from tests.builders import chat_tokenizer
from tests.cli.command import fedfit, refused
from tests.trajectories.asking import ANSWERS, Asking, log_probability
from tests.trajectories.world import World, lines

Runs = dict[str, Path]


def greedy(model: Any, prompt: str, new: int) -> str:
    """The greedy answer by transformers alone, to a prompt that stands alone."""
    tokenizer = chat_tokenizer()
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    whole = model.generate(input_ids=ids, max_new_tokens=new, do_sample=False, eos_token_id=3, pad_token_id=0)
    text: str = tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
    return text.strip()


def rows_of(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def predicted(run: Path, asking: Asking, *options: str) -> list[dict[str, Any]]:
    answer = fedfit("predict", run, "--input", asking.folder / "test.jsonl", *options)
    assert answer.status == 0, answer.stderr
    return rows_of(answer.stdout)


def test_exact_answers_have_probabilities_and_the_accuracy_of_the_run(asking: Asking, language_runs: Runs) -> None:
    run = language_runs["instruction"]
    rows, tuned = predicted(run, asking), asking.tuned(run)
    accuracy = sum(row["prediction"] == row["answer"] for row in rows) / len(rows)
    assert accuracy == pytest.approx(lines(run / "rounds.jsonl")[-1]["test_answer_accuracy"])
    for row, given in zip(rows, asking.test, strict=True):
        assert {name: row[name] for name in given} == given
        scores = {each: float(log_probability(tuned, asking.prompt(row), f"it is {each}").sum()) for each in ANSWERS.values()}
        best = max(scores, key=scores.__getitem__)
        shares = torch.tensor(list(scores.values())).softmax(dim=0)
        assert (row["prediction"], row["probability"]) == (best, pytest.approx(float(shares.max()), abs=1e-4))


def test_rows_without_a_response_have_the_same_answers(asking: Asking, language_runs: Runs, tmp_path: Path) -> None:
    bare = [{"ask": row["ask"], "about": row["about"]} for row in asking.test]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    answer = fedfit("predict", language_runs["instruction"], "--input", tmp_path / "in.jsonl")
    whole = predicted(language_runs["instruction"], asking)
    assert [row["prediction"] for row in rows_of(answer.stdout)] == [row["prediction"] for row in whole]


@pytest.mark.parametrize("task", ["free", "preference"])
def test_answers_are_the_greedy_ones(task: str, asking: Asking, language_runs: Runs) -> None:
    run = language_runs[task]
    tuned = asking.tuned(run)
    found = predicted(run, asking, "--max-new-tokens", "5")
    assert [row["prediction"] for row in found] == [greedy(tuned, asking.prompt(row), 5) for row in asking.test]
    assert "probability" not in found[0]
    assert any(row["prediction"] != greedy(asking.base(), asking.prompt(row), 5) for row in found)


def test_plain_texts_are_continued(asking: Asking, language_runs: Runs) -> None:
    run = language_runs["language_modelling"]
    tuned = asking.tuned(run)
    found = predicted(run, asking, "--max-new-tokens", "4")
    expected = [greedy(tuned, f"[CLS] {row['ask']} {row['say']}", 4) for row in asking.test]
    assert [row["prediction"] for row in found] == expected


@pytest.mark.parametrize("task", ["preference", "language_modelling"])
def test_the_recipe_has_the_length_of_answers(task: str, asking: Asking, tmp_path: Path) -> None:
    run = asking.run(task, tmp_path / "run", "task.max_new_tokens=3", rounds=0)
    short, long = predicted(run, asking), predicted(run, asking, "--max-new-tokens", "6")
    assert short == predicted(run, asking, "--max-new-tokens", "3")
    assert short != long
    (turn,) = CliRunner().invoke(app, ["chat", str(run)], input="what is a\n").stdout.strip().split("\n\n")
    assert turn.splitlines() == chat(run, "what is a\n", "--max-new-tokens", "3")[0]


def test_columns_by_name_and_standard_input(asking: Asking, language_runs: Runs) -> None:
    tuned = asking.tuned(language_runs["free"])
    line = "question\nwhat is b\n\n"
    options = ["--text", "question", "--max-new-tokens", "3"]
    result = CliRunner().invoke(app, ["predict", str(language_runs["free"]), *options], input=line)
    assert result.exit_code == 0, result.stderr
    expected = greedy(tuned, asking.prompt({"ask": "what is b", "about": ""}), 3)
    assert result.stdout.splitlines() == ["question,prediction", f"what is b,{expected}"]


def test_options_that_will_not_do(asking: Asking, language_runs: Runs, world: World, finished: Path) -> None:
    rows = asking.folder / "test.jsonl"
    refused("predict", language_runs["free"], "--input", rows, "--pair", "say", says=["--pair say", "trained on prompts"])
    refused("predict", language_runs["free"], "--input", world.test, says=["data.prompt = 'ask'", "no such column"])
    says = ["--max-new-tokens 3: a classifier generates no text"]
    refused("predict", finished, "--input", world.test, "--max-new-tokens", "3", says=says)


def test_rows_without_a_prompt_and_prompts_beyond_the_positions(
    asking: Asking, language_runs: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model has 80 positions: of a longer prompt the end is read."""
    prompts = ["", "a " * 100 + "b"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"ask": text, "about": ""}) + "\n" for text in prompts))
    answer = fedfit("predict", language_runs["free"], "--input", tmp_path / "in.jsonl", "--max-new-tokens", "3")
    empty, long = rows_of(answer.stdout)
    assert empty["prediction"] == ""
    tokenizer = chat_tokenizer()
    ids = tokenizer(asking.prompt({"ask": prompts[1], "about": ""}), add_special_tokens=False)["input_ids"][-77:]
    assert long["prediction"] == greedy(asking.tuned(language_runs["free"]), tokenizer.decode(ids), 3)
    assert "1 rows without a prompt have no answer" in caplog.text
    assert "1 prompts are longer than the model's 80 positions leave room for" in caplog.text


@pytest.mark.parametrize("task", ["instruction", "preference", "language_modelling"])
def test_the_exported_model_has_the_logits_of_the_run(task: str, asking: Asking, language_runs: Runs, tmp_path: Path) -> None:
    answer = fedfit("export", language_runs[task], "--merged", tmp_path / "model", "--json")
    assert answer.json == {"model": str(tmp_path / "model")}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.chat_template == chat_tokenizer().chat_template
    tokens = tokenizer([asking.prompt(row) for row in asking.test], padding=True, return_tensors="pt")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        logits = merged(**tokens).logits
        wanted, before = asking.tuned(language_runs[task])(**tokens).logits, asking.base()(**tokens).logits
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - before).abs().max() > 0.01
    assert str(asking.model) not in (tmp_path / "model" / "config.json").read_text()


def chat(run: Path, text: str, *options: str) -> list[list[str]]:
    """Turns of a conversation through standard input: the line, the base's answer, the tuned model's."""
    result = CliRunner().invoke(app, ["chat", str(run), "--max-new-tokens", "4", *options], input=text)
    assert result.exit_code == 0, result.stderr
    return [turn.splitlines() for turn in result.stdout.strip().split("\n\n")] if result.stdout.strip() else []


def conversation(model: Any, asked: list[str]) -> list[str]:
    """The greedy answers of a model that reads what it said before."""
    messages: list[dict[str, str]] = []
    answers = []
    for line in asked:
        messages.append({"role": "user", "content": line})
        prompt: Any = chat_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        answers.append(greedy(model, prompt, 4))
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers


def spoken(turns: list[list[str]], column: int) -> list[str]:
    return [turn[column][7:] for turn in turns]


def test_each_model_remembers_its_own_answers(asking: Asking, language_runs: Runs) -> None:
    run, asked = language_runs["free"], ["a", "b"]  # all turns fit the 80 positions
    turns = chat(run, "\n".join([*asked, "/quit", "not read"]))
    assert [turn[0] for turn in turns] == [f"> {line}" for line in asked]
    assert spoken(turns, 1) == conversation(asking.base(), asked)
    assert spoken(turns, 2) == conversation(asking.tuned(run), asked)
    alone = conversation(asking.tuned(run), asked[1:])
    assert spoken(turns, 2)[1:] != alone, "the first turn makes a difference"
    assert turns[0][1].startswith("base:  ")
    assert turns[0][2].startswith("tuned: ")


def test_single_and_clear_forget(asking: Asking, language_runs: Runs) -> None:
    run, asked = language_runs["free"], ["what is a", "what is b"]
    alone = [conversation(asking.tuned(run), [line])[0] for line in asked]
    assert spoken(chat(run, "\n".join(asked), "--single"), 2) == alone
    assert spoken(chat(run, f"{asked[0]}\n/clear\n\n{asked[1]}\n"), 2) == alone


def test_old_turns_are_left_out_where_all_do_not_fit(language_runs: Runs) -> None:
    assert len(chat(language_runs["free"], "a b c d e f g h\n" * 8)) == 8


def test_drawn_tokens_follow_the_seed(language_runs: Runs) -> None:
    def draw(seed: str, line: str = "what is a\n") -> list[list[str]]:
        return chat(language_runs["free"], line * 2, "--temperature", "1", "--seed", seed)

    assert draw("1") == draw("1")
    assert draw("1") != draw("2")
    greedily = chat(language_runs["free"], "what is a\n" * 2)
    assert draw("1") != greedily


def test_chat_with_a_classifier_and_with_nobody(finished: Path, language_runs: Runs, tmp_path: Path) -> None:
    refused("chat", finished, says=["is the run of a classifier", f"fedfit predict {finished}"])
    refused("chat", tmp_path, says=["not a run folder"])
    assert chat(language_runs["free"], "") == []


@pytest.mark.parametrize("task", ["instruction", "preference", "language_modelling"])
def test_the_recipes_own_test_set_gives_the_same_again(task: str, language_runs: Runs) -> None:
    again = fedfit("evaluate", language_runs[task], "--json", "--quiet").json
    line = lines(language_runs[task] / "rounds.jsonl")[-1]
    assert again.pop("round") == line["round"]
    assert again == {name: pytest.approx(value, rel=1e-6) for name, value in line.items() if name.startswith("test_")}
    assert len(again) >= 3


def test_a_classifier_is_measured_again_as_well(finished: Path) -> None:
    before = (finished / "rounds.jsonl").read_bytes()
    answer = fedfit("evaluate", finished)
    line = lines(finished / "rounds.jsonl")[-1]
    (row,) = [words for words in answer.stdout.splitlines() if "Test accuracy" in words]
    assert row.split()[-4:] == [f"{100 * line['test_accuracy']:.2f}", "%"] * 2
    assert (finished / "rounds.jsonl").read_bytes() == before


def test_a_run_without_a_round_is_not_measured(tmp_path: Path) -> None:
    refused("evaluate", tmp_path, says=["not a run folder"])


def test_the_python_api(asking: Asking, language_runs: Runs, finished: Path) -> None:
    run = package.load(language_runs["free"])
    asked = ["what is a", "what is b"]
    prompts = [asking.prompt({"ask": text, "about": ""}) for text in asked]
    tuned = [greedy(asking.tuned(run.path), prompt, 5) for prompt in prompts]
    assert run.answers(asked, 5) == tuned
    assert [found.label for found in run.predict(asked, max_new_tokens=5)] == tuned
    assert run.answers(asked, 5, base=True) == [greedy(asking.base(), prompt, 5) for prompt in prompts]
    assert run.answers(asked, base=True) == run.answers(asked, 4, base=True), "task.max_new_tokens of the recipe"
    (choice,) = package.load(language_runs["instruction"]).predict(asked[:1])
    assert choice.label in ANSWERS.values()
    assert choice.probability is not None
    with pytest.raises(DataError, match="is the run of a classifier"):
        package.load(finished).answers(asked)


def test_run_prints_the_answers_at_its_end(asking: Asking, tmp_path: Path) -> None:
    """For a person; not with --quiet or --json."""
    run = asking.run("instruction", tmp_path / "run")
    assert "Answers" in fedfit("resume", run).stdout
    assert "Answers" not in fedfit("resume", run, "--quiet").stdout
    assert fedfit("resume", run, "--quiet", "--json").json["folder"] == str(run)
