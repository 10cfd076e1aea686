"""The named data sets of language models: small files in the sets' own formats, and the real ones where they are there."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fedfit.data.corpus import Corpus
from fedfit.data.named import NAMED_SETS, is_present, load_named
from fedfit.data.named_prompts import DOMAINS, QUESTION_SETS, TRAITS
from fedfit.data.named_set import hash_share
from fedfit.data.prompted import build_instructions, build_plain_text, build_preferences
from fedfit.data_settings import DataSettings
from fedfit.errors import DataError
from tests.data.test_named import write

FORMATS = {"boolq": "true/false", "openbookqa": "answer1/answer2/answer3/answer4", "ARC-Easy": "answer1/answer2/answer3"}
PLAY = """First Lord:
Good day.

SECOND LORD:

First Lord:
A day, sir: fair
and long.

Fool:
Ay.
"""


def question(name: str, number: int) -> dict[str, str]:
    options = FORMATS[name].split("/")
    answer = options[number % len(options)]
    asked = f"Is it {number}?\n\nAnswer format: {FORMATS[name]}"
    return {"instruction": asked, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def domain(name: str, count: int = 40) -> list[dict[str, str]]:
    response = DOMAINS[name][1]
    return [{"instruction": f"{name} {n}", "input": "" if n % 2 else f"with {n}", response: f"so {n}"} for n in range(count)]


def asked(trait: str, number: int) -> dict[str, str]:
    answers = {"answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}
    return {"question": f"{trait}: say {number}?", **answers}


def small_files(questions: int = 12) -> dict[str, str]:
    """File → text; ``questions`` are the training rows of each set of ``commonsense``."""
    sums = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(4)]
    facts = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers\n" + "".join(
        f'A,Law {n % 7},Why {n}?,"No, {n}",x,"Yes {n}; ; Both {n};"\n' for n in range(60)
    )
    return {
        **{
            f"commonsense/{name}/{part}.json": json.dumps([question(name, n) for n in range(count)])
            for name in QUESTION_SETS
            for part, count in (("train", questions), ("test", 3))
        },
        **{f"domains/{name}.json": json.dumps(domain(name)) for name in DOMAINS},
        "domains/math_train.jsonl": lines(sums),
        "domains/math_test.jsonl": lines(sums[:2]),
        "preference/TruthfulQA.csv": facts,
        **{f"preference/{trait}.jsonl": lines([asked(trait, n) for n in range(30)]) for trait in TRAITS},
        "shakespeare/input.txt": PLAY + "".join(f"\nKING:\nspeech {n}\n" for n in range(10)),
        "banking77/train.csv": "text,category\nWhere is it?,card_arrival\nWhat rate?,exchange_rate\n",
        "banking77/test.csv": "text,category\nNot here.,card_arrival\n",
    }  # fmt: skip


@pytest.fixture
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, small_files())
    monkeypatch.setenv("FEDFIT_DATA", str(tmp_path))
    return tmp_path


def instructions(name: str) -> Corpus:
    return build_instructions(load_named(name), DataSettings(source=name))


@pytest.mark.usefixtures("small_data")
def test_commonsense_has_three_kinds_of_questions_with_their_own_answers() -> None:
    corpus = instructions("commonsense")
    assert Counter(corpus.train.columns["task"]) == dict.fromkeys(QUESTION_SETS, 12)
    assert Counter(corpus.test.columns["task"]) == dict.fromkeys(QUESTION_SETS, 3)
    assert corpus.choices == ("answer1", "answer2", "answer3", "answer4", "false", "true")
    assert {(t, c) for t, c in zip(corpus.test.columns["task"], corpus.test.fields["choices"], strict=True)} == set(
        FORMATS.items()
    )
    assert corpus.train.fields["prompt"][0] == "Is it 0?\n\nAnswer format: true/false"
    assert corpus.train.fields["response"][:2] == ["the correct answer is true", "the correct answer is false"]


@pytest.mark.usefixtures("small_data")
def test_a_client_of_commonsense_has_questions_of_one_kind_the_same_in_every_run() -> None:
    first, again = (instructions("commonsense").train.columns for _ in range(2))
    assert first["client"] == again["client"]
    for client, task in zip(first["client"], first["task"], strict=True):
        name, _, number = client.rpartition(" ")
        assert name == task
        assert 1 <= int(number) <= QUESTION_SETS[name]


def test_a_prompt_without_its_answers_is_refused(small_data: Path) -> None:
    row = {**question("boolq", 1), "instruction": "Is it?"}
    (small_data / "commonsense/boolq/test.json").write_text(json.dumps([question("boolq", 0), row]))
    with pytest.raises(DataError, match=r"boolq/test.json, row 2: the prompt does not end in `Answer format"):
        load_named("commonsense")


@pytest.mark.usefixtures("small_data")
def test_domains_are_cut_by_hash_but_for_the_official_test_of_math() -> None:
    corpus = instructions("domains")
    train, test = Counter(corpus.train.columns["domain"]), Counter(corpus.test.columns["domain"])
    assert set(train) == set(test) == {*DOMAINS, "math"}
    assert (train["math"], test["math"]) == (4, 2)
    for name in DOMAINS:
        assert train[name] + test[name] == 40
        assert 1 <= test[name] <= 18  # 8 expected, standard deviation 2.5
    for part, held in ((corpus.train, False), (corpus.test, True)):
        rows = zip(part.fields["prompt"], part.columns["domain"], strict=True)
        assert all((hash_share(prompt) < 0.2) == held for prompt, name in rows if name != "math")
    assert {"code 0\nwith 0", "code 1"} <= {*corpus.train.fields["prompt"], *corpus.test.fields["prompt"]}


@pytest.mark.usefixtures("small_data")
def test_truthfulqa_sets_the_best_answer_against_an_incorrect_one() -> None:
    tables = load_named("truthfulqa")
    corpus = build_preferences(tables, DataSettings(source="truthfulqa"))
    assert len(corpus.train) + len(corpus.test) == 60
    assert len(corpus.test)
    drawn: Counter[str] = Counter()
    for part in (corpus.train, corpus.test):
        for prompt, chosen, rejected in zip(*(part.fields[name] for name in ("prompt", "chosen", "rejected")), strict=True):
            number = prompt.removeprefix("Why ").removesuffix("?")
            assert chosen == f"No, {number}"
            assert rejected in (f"Yes {number}", f"Both {number}")
            drawn[rejected.split()[0]] += 1
    assert min(drawn["Yes"], drawn["Both"]) >= 15  # 30 expected each, standard deviation 3.9
    assert set(corpus.train.columns["category"]) == {f"Law {number}" for number in range(7)}
    assert build_preferences(load_named("truthfulqa"), DataSettings(source="truthfulqa")) == corpus


@pytest.mark.usefixtures("small_data")
def test_persona_has_a_file_a_trait() -> None:
    corpus = build_preferences(load_named("persona"), DataSettings(source="persona"))
    assert Counter([*corpus.train.columns["trait"], *corpus.test.columns["trait"]]) == dict.fromkeys(TRAITS, 30)
    assert set(corpus.train.columns["client"]) == {f"{trait} {number}" for trait in TRAITS for number in (1, 2)}
    assert set(corpus.train.fields["chosen"]) == {"Yes"}
    assert set(corpus.test.fields["rejected"]) == {"No"}
    assert not set(corpus.train.fields["prompt"]) & set(corpus.test.fields["prompt"])


@pytest.mark.usefixtures("small_data")
def test_shakespeare_is_tested_on_the_last_speeches_of_each_speaker() -> None:
    corpus = build_plain_text(load_named("shakespeare"), DataSettings(source="shakespeare"))
    spoken = list(zip(corpus.train.columns["speaker"], corpus.train.fields["text"], strict=True))
    assert spoken[:3] == [("First Lord", "Good day."), ("First Lord", "A day, sir: fair\nand long."), ("Fool", "Ay.")]
    assert corpus.test.fields["text"] == ["speech 8", "speech 9"]
    assert set(corpus.test.columns["speaker"]) == {"KING"}


def test_a_play_without_speakers_is_refused(small_data: Path) -> None:
    (small_data / "shakespeare/input.txt").write_text("Once upon a time.\n")
    with pytest.raises(DataError, match=r"input.txt: it does not begin with `NAME:`"):
        load_named("shakespeare")


@pytest.mark.parametrize("name", ["commonsense", "domains", "truthfulqa", "persona", "shakespeare", "banking77"])
def test_a_set_without_its_files_names_them_and_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FEDFIT_DATA", str(tmp_path))
    path = NAMED_SETS[name].paths(name)[0]
    with pytest.raises(DataError, match=f"the hub has no copy of it; set FEDFIT_DATA to a folder that has {path}"):
        load_named(name)


def needs(name: str) -> None:
    if not is_present(name):
        pytest.skip(f"needs the real data: set FEDFIT_DATA to a folder that has {NAMED_SETS[name].paths(name)[0]}")


def test_the_real_commonsense() -> None:
    needs("commonsense")
    corpus = instructions("commonsense")
    assert Counter(corpus.train.columns["task"]) == {"boolq": 9427, "openbookqa": 4957, "ARC-Easy": 2251}
    assert Counter(corpus.test.columns["task"]) == {"boolq": 3270, "openbookqa": 500, "ARC-Easy": 2376}
    assert corpus.choices == ("answer1", "answer2", "answer3", "answer4", "answer5", "false", "true")
    for part in (corpus.train, corpus.test):
        pairs = zip(part.fields["answer"], part.fields["choices"], strict=True)
        assert all(answer in choices.split("/") for answer, choices in pairs)
    clients = Counter(corpus.train.columns["client"])
    assert len(clients) == 10
    assert min(clients.values()) > 1000


def test_the_real_domains() -> None:
    needs("domains")
    corpus = instructions("domains")
    total = Counter([*corpus.train.columns["domain"], *corpus.test.columns["domain"]])
    assert total == {"math": 4319, "code": 2017, "roleplay": 1923, "tools": 2500, "medical": 2500}
    assert Counter(corpus.test.columns["domain"])["math"] == 1319
    held = Counter(corpus.test.columns["domain"])
    assert all(0.17 < held[name] / total[name] < 0.23 for name in DOMAINS)


def test_the_real_preferences() -> None:
    needs("truthfulqa")
    facts = build_preferences(load_named("truthfulqa"), DataSettings(source="truthfulqa"))
    assert len(facts.train) + len(facts.test) == 817
    assert len({*facts.train.columns["category"], *facts.test.columns["category"]}) == 38
    assert all(facts.train.fields["rejected"])
    needs("persona")
    persona = build_preferences(load_named("persona"), DataSettings(source="persona"))
    assert Counter([*persona.train.columns["trait"], *persona.test.columns["trait"]]) == dict.fromkeys(TRAITS, 1000)


def test_the_real_shakespeare() -> None:
    """Of 297 speakers 66 have more than 5,000 characters, as the plays are usually cut; a few names depend on the cut."""
    needs("shakespeare")
    corpus = build_plain_text(load_named("shakespeare"), DataSettings(source="shakespeare"))
    length: Counter[str] = Counter()
    for part in (corpus.train, corpus.test):
        for speaker, text in zip(part.columns["speaker"], part.fields["text"], strict=True):
            length[speaker] += len(text)
    assert abs(len(length) - 297) <= 10
    assert abs(sum(count > 5000 for count in length.values()) - 66) <= 3
    assert set(corpus.test.columns["speaker"]) < set(corpus.train.columns["speaker"])


def test_the_real_banking77() -> None:
    needs("banking77")
    tables = load_named("banking77")
    assert (len(tables.train), len(tables.test)) == (10003, 3080)
    assert len(set(tables.train.columns["category"])) == 77
