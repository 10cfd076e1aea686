"""``fedfit export``: a whole model for plain transformers."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.cli.command import fedfit, refused
from tests.trajectories.world import World


@pytest.fixture(scope="module")
def merged(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged") / "model"
    answer = fedfit("export", finished, "--merged", folder, "--json")
    assert answer.status == 0, answer.stderr
    assert answer.json == {"model": str(folder)}
    return folder


def test_the_logits_are_those_of_base_and_adapter(world: World, finished: Path, merged: Path, tiny_bert: Path) -> None:
    tokenizer, given = AutoTokenizer.from_pretrained(merged), AutoTokenizer.from_pretrained(tiny_bert)
    texts = pd.read_csv(world.test)["text"].tolist()
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    assert torch.equal(tokens["input_ids"], given(texts, padding=True, return_tensors="pt")["input_ids"])
    base = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=3)
    expected = PeftModel.from_pretrained(base, finished / "adapter").eval()
    model = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    with torch.no_grad():
        logits, wanted = model(**tokens).logits, expected(**tokens).logits
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)
    assert wanted.std() > 0.01
    assert model.config.id2label == {0: "art", 1: "law", 2: "sport"}
    assert str(tiny_bert) not in (merged / "config.json").read_text()


def test_for_a_person(finished: Path, tmp_path: Path) -> None:
    answer = fedfit("export", finished, "--merged", tmp_path)
    assert (answer.status, answer.stdout) == (0, "")
    assert answer.stderr.endswith(f"model: {tmp_path}\n")


def test_a_folder_in_the_way(finished: Path, merged: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    refused("export", finished, "--merged", tmp_path, says=["holds files already", "another --merged"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    refused("export", finished, "--merged", tmp_path / "mine.txt", "--json", says=["is a file"])
    refused("export", tmp_path, "--merged", tmp_path / "new", says=["is not a run folder"])
    (tmp_path / "recipe.toml").write_text("")
    refused("export", tmp_path, "--merged", tmp_path / "new", says=["has no saved adapter"])
    assert not (tmp_path / "new").exists()
