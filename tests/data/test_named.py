import os
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from fedfit.data.classification import build_corpus
from fedfit.data.named import NAMED_SETS, load_named
from fedfit.data.prompted import build_instructions
from fedfit.data.sources import load_corpus
from fedfit.data_settings import DataSettings
from fedfit.errors import DataError


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")


SMALL = {
    "ag_news/train.csv": '"1","A title","a text"\n"2",""," only a text"\n"3","Shares","fall"\n"4","Chip","rises"\n',
    "ag_news/test.csv": '"2","Cup","won"\n"4","Disk","fails"\n',
    "sst2/train.tsv": 'sentence\tlabel\n" good \t1\nbad \t0\n',
    "sst2/dev.tsv": "sentence\tlabel\nfine \t1\n",
    "mrpc/msr_paraphrase_train.txt": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '1\t1\t2\tHe said " yes .\tYes , he said .\n0\t3\t4\tA .\tB .\n',
    "mrpc/msr_paraphrase_test.txt": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tC .\tD .\n",
    "bgl/BGL_2k.log_structured.csv": "LineId,Label,Node,Component,Content,EventId\n"
    + "".join(f"{line},{'-' if line % 4 else 'KERN'},R{line % 3},APP,event {line},E1\n" for line in range(1, 101)),
}


READS = {"bgl-instruct": build_instructions, "bgl": build_corpus}


@pytest.fixture
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, SMALL)
    monkeypatch.setenv("FEDFIT_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("small_data")
def test_ag_news_joins_title_and_description() -> None:
    corpus = build_corpus(load_named("ag_news"))
    assert corpus.label_names == ("Business", "Sci/Tech", "Sports", "World")
    assert list(corpus.train.fields["text"]) == ["A title a text", "only a text", "Shares fall", "Chip rises"]
    assert corpus.train.classes.tolist() == [3, 2, 0, 1]
    assert corpus.test.classes.tolist() == [2, 1]


@pytest.mark.usefixtures("small_data")
def test_sst2_is_unquoted_and_tested_on_dev() -> None:
    corpus = build_corpus(load_named("sst2"))
    assert corpus.label_names == ("negative", "positive")
    assert (list(corpus.train.fields["text"]), corpus.train.classes.tolist()) == (['" good', "bad"], [1, 0])
    assert list(corpus.test.fields["text"]) == ["fine"]


@pytest.mark.usefixtures("small_data")
def test_mrpc_has_pairs() -> None:
    corpus = build_corpus(load_named("mrpc"))
    assert corpus.label_names == ("different", "paraphrase")
    assert list(corpus.train.fields["text"]) == ['He said " yes .', "A ."]
    assert list(corpus.train.fields.get("pair") or ()) == ["Yes , he said .", "B ."]
    assert corpus.train.classes.tolist() == [1, 0]


@pytest.mark.usefixtures("small_data")
def test_bgl_as_questions_has_the_same_lines_and_answers() -> None:
    asked, lines = (read(load_named(name), DataSettings(source=name)) for name, read in READS.items())
    assert asked.choices == ("anomaly", "normal")
    for one, other in ((asked.train, lines.train), (asked.test, lines.test)):
        assert [prompt.partition("\n")[2] for prompt in one.fields["prompt"]] == list(other.fields["text"])
        assert list(one.fields["response"]) == list(one.fields["answer"]) == [lines.label_names[n] for n in other.classes]
        assert one.columns["Node"] == other.columns["Node"]


@pytest.mark.usefixtures("small_data")
def test_bgl_is_split_by_line_and_keeps_its_groups() -> None:
    corpus = build_corpus(load_named("bgl"))
    assert corpus.label_names == ("anomaly", "normal")
    assert len(corpus.train) + len(corpus.test) == 100
    assert not set(corpus.train.fields["text"]) & set(corpus.test.fields["text"])
    assert 10 <= len(corpus.test) <= 40  # 25 expected, standard deviation 4.3
    assert set(corpus.train.columns) == {"Label", "Node", "Component", "EventId"}
    assert list(corpus.test.fields["text"]) == list(build_corpus(load_named("bgl")).test.fields["text"])


def test_a_label_that_the_set_does_not_have_is_refused(small_data: Path) -> None:
    (small_data / "sst2/dev.tsv").write_text("sentence\tlabel\nfine\t2\n")
    with pytest.raises(DataError, match=r"dev.tsv, row 1 has the label '2', not one of 0, 1"):
        load_named("sst2")


@pytest.mark.parametrize("name", ["ag_news", "sst2", "mrpc", "bgl"])
def test_where_neither_copy_can_be_had_both_remedies_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def unreachable(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    file = f"{name}/{NAMED_SETS[name].files[0]}"
    monkeypatch.delenv("FEDFIT_DATA", raising=False)
    with pytest.raises(DataError, match=f"set FEDFIT_DATA to a folder that has {file}.*it is not set"):
        load_named(name)
    monkeypatch.setenv("FEDFIT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="which lacks them") as caught:
        load_named(name)
    assert ("HF_HUB_OFFLINE unset" in str(caught.value)) == (name != "bgl")


# What the hub's copies look like: the same samples as in SMALL, numbered from 0, with the columns of the hub.
HUB = {
    "ag_news": (
        "fancyzhx/ag_news",
        None,
        {
            "train": {"text": ["A title a text", "only a text", "Shares fall", "Chip rises"], "label": [0, 1, 2, 3]},
            "test": {"text": ["Cup won", "Disk fails"], "label": [1, 3]},
        },
    ),
    "sst2": (
        "stanfordnlp/sst2",
        None,
        {
            "train": {"sentence": ['" good ', "bad "], "label": [1, 0]},
            "validation": {"sentence": ["fine "], "label": [1]},
            "test": {"sentence": ["hidden "], "label": [-1]},
        },
    ),
    "mrpc": (
        "nyu-mll/glue",
        "mrpc",
        {
            "train": {
                "sentence1": ['He said " yes .', "A ."],
                "sentence2": ["Yes , he said .", "B ."],
                "label": [1, 0],
            },
            "validation": {"sentence1": ["x"], "sentence2": ["y"], "label": [1]},
            "test": {"sentence1": ["C ."], "sentence2": ["D ."], "label": [0]},
        },
    ),
}


@pytest.mark.parametrize("name", list(HUB))
def test_the_copy_on_the_hub_equals_the_local_one(small_data: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    local = build_corpus(load_named(name))
    hub_name, configuration, splits = HUB[name]

    def load_dataset(*asked: object) -> DatasetDict:
        assert asked == (hub_name, configuration)
        return DatasetDict({split: Dataset.from_dict(columns) for split, columns in splits.items()})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setenv("FEDFIT_DATA", str(small_data / "empty"))
    remote = build_corpus(load_named(name))
    assert remote.label_names == local.label_names
    for ours, theirs in ((local.train, remote.train), (local.test, remote.test)):
        assert ours.fields == theirs.fields
        np.testing.assert_array_equal(ours.classes, theirs.classes)


REAL = os.environ.get("FEDFIT_DATA")
COUNTS = {
    # From the sets' own descriptions: rows of train and test, and those of class 0 in test.
    "ag_news": (52000, 7600, 1900),
    "sst2": (67349, 872, 428),
    "mrpc": (4076, 1725, 578),
}


@pytest.mark.parametrize("name", list(COUNTS))
def test_real_sets_have_the_rows_they_should(name: str) -> None:
    if not REAL or not all((Path(REAL) / name / file).is_file() for file in NAMED_SETS[name].files):
        pytest.skip(f"needs the real data: set FEDFIT_DATA to a folder that has {name}/")
    corpus = build_corpus(load_named(name))
    assert (len(corpus.train), len(corpus.test), int((corpus.test.classes == 0).sum())) == COUNTS[name]
    assert all(text == text.strip() and text for text in corpus.train.fields["text"])


def test_the_real_bgl_has_its_143_anomalies() -> None:
    if not REAL or not (Path(REAL) / "bgl").is_dir():
        pytest.skip("needs the real data: set FEDFIT_DATA to a folder that has bgl/")
    corpus = load_corpus(DataSettings(source="bgl"), seed=0)
    assert int((corpus.train.classes == 0).sum() + (corpus.test.classes == 0).sum()) == 143
    assert len(corpus.train) + len(corpus.test) == 2000
