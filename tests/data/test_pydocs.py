import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fedfit.data import pydocs
from fedfit.data.docstrings import first_paragraphs
from fedfit.data.docstrings_cache import Row, read_rows, write_rows
from fedfit.data.harvest import PROJECTS, letters
from fedfit.data.sources import load_corpus
from fedfit.data_settings import DataSettings
from fedfit.errors import DataError


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return pydocs.harvest()


def test_the_harvest_is_large_and_balanced(rows: list[Row]) -> None:
    counts = Counter((row.split, row.label) for row in rows)
    train, test = counts["train", "torch"], counts["test", "torch"]
    assert counts == {(split, label): size for split, size in (("train", train), ("test", test)) for label in PROJECTS}
    assert train >= 600  # 877 with pandas 3.1 and matplotlib 3.11, the least rich
    assert test >= 150


def test_no_name_of_a_project_is_left(rows: list[Row]) -> None:
    for name in ("python", "torch", "transformers", "huggingface", "hugging face", "pandas", "matplotlib", "pyplot"):
        assert not [row for row in rows if name in row.text.lower()]


def test_texts_are_distinct_one_line_prose_and_encodable(rows: list[Row]) -> None:
    spelt = [letters(row.text) for row in rows]
    assert len(set(spelt)) == len(spelt)
    for row in rows:
        assert row.text == " ".join(row.text.split())
        row.text.encode()
        # Ten words before "hugging face" became one, and masks may shorten or lengthen the text a little.
        assert len(row.text.split()) >= pydocs.MIN_WORDS - 2
        assert 40 <= len(row.text) <= 450


def test_another_process_with_another_hash_seed_harvests_the_same(rows: list[Row]) -> None:
    # Of one project, to be quick; the rest is a pure function of it.
    code = "from fedfit.data import pydocs; print(hash('x')); print(ascii(pydocs._read_project('matplotlib')))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    ).stdout.splitlines()
    assert printed[1] == ascii(pydocs._read_project("matplotlib"))


def test_nothing_is_imported() -> None:
    code = (
        "import sys; from fedfit.data import docstrings as d\n"
        "for p in ('torch', 'transformers', 'matplotlib'):\n"
        "    next(d.first_paragraphs(d.project_folder(p), 50)); assert p not in sys.modules, p\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("a PyTorch tensor on torch.device", "a [name] tensor on [name].device"),
        ("MatplotlibDeprecationWarning from mpl_toolkits", "[name] from [name]_toolkits"),
        ("a pd.DataFrame of Pandas, pd or not", "a [name].DataFrame of [name], pd or not"),
        ("the Hugging Face hub, huggingface_hub, CPython3", "the [name] hub, [name]_hub, [name]"),
        ("a Transformer block, a torque, a simple sample", "a Transformer block, a torque, a simple sample"),
    ],
)
def test_masking(text: str, masked: str) -> None:
    assert pydocs.mask_names(text) == masked


def test_texts_of_two_projects_go_and_repeated_ones_count_once() -> None:
    kept = pydocs._deduplicate({"a": ["Return 1.", "return!", "own"], "b": ["other", "The shared.", "x"], "c": ["X"]})
    assert kept == {"a": ["own", "Return 1."], "b": ["The shared.", "other"], "c": []}


def test_first_paragraphs_of_modules_classes_and_functions(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a.py").write_text('"""Skipped."""')
    (tmp_path / "broken.py").write_text('"""Broken."""\ndef (')
    (tmp_path / "no_utf8.py").write_bytes(b'"""caf\xe9"""')
    (tmp_path / "b.py").write_text(
        '"""Module\n   first.\n   \n   Second."""\nraise SystemExit\nclass A:\n    """Class."""\n'
        '    def f(self):\n        """\n        Method.\n        """\n        async def g(): "Inner."\n'
    )
    assert list(first_paragraphs(tmp_path, 10)) == ["Module first.", "Class.", "Method.", "Inner."]
    assert list(first_paragraphs(tmp_path, 0)) == []


def test_the_cache_is_used_and_a_damaged_one_is_rebuilt(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Row(f"text {index} é", "ab"[index % 2], "test" if index > 5 else "train") for index in range(8)]
    harvests: list[int] = []

    def harvest() -> list[Row]:
        harvests.append(1)
        return made

    monkeypatch.setattr(pydocs, "harvest", harvest)

    def load() -> list[str]:
        return list(load_corpus(DataSettings(), seed=0).train.fields["text"])

    first = load()
    assert first == [row.text for row in made[:6]] == load()
    assert len(harvests) == 1
    (path,) = own_cache.rglob("*.jsonl")
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole.replace(b"text 3", b"text 4"), b"", b"\xff\xfe", b"[]\n[]"):
        path.write_bytes(damaged)
        assert load() == first
        assert path.read_bytes() == whole
    assert len(harvests) == 6


def test_an_unwritable_cache_folder_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FEDFIT_CACHE", str(tmp_path / "file"))
    made = [Row("a", "a", "train"), Row("b", "b", "train"), Row("c", "a", "test")]
    monkeypatch.setattr(pydocs, "harvest", lambda: made)
    assert len(pydocs.load_pydocs().train) == 2
    assert "pydocs is not cached" in caplog.text


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_rows(tmp_path / "a.jsonl", [Row("a", "b", "train")])
    assert list(tmp_path.iterdir()) == []
    assert read_rows(tmp_path / "a.jsonl", Row) is None


def test_a_project_that_is_not_installed_is_named(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydocs, "PROJECTS", ("python", "no_such_project"))
    with pytest.raises(DataError, match="sources of no_such_project: install it"):
        pydocs.load_pydocs()
