"""The harvest of instructions: on a small source tree, and on the installed ones."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fedfit.data import pydocs_instruct
from fedfit.data.docstrings import Function, documented_functions
from fedfit.data.harvest import PROJECTS, letters
from fedfit.data.pydocs_instruct import INSTRUCTION, Instruction, first_sentence, prompt_of
from fedfit.data.sources import load_tables
from fedfit.data_settings import DataSettings
from fedfit.errors import DataError


@pytest.fixture(scope="module")
def rows() -> list[Instruction]:
    return pydocs_instruct.harvest()


def test_the_harvest_is_large_and_balanced(rows: list[Instruction]) -> None:
    counts = Counter((row.split, row.project) for row in rows)
    train, test = counts["train", "torch"], counts["test", "torch"]
    assert counts == {(split, name): size for split, size in (("train", train), ("test", test)) for name in PROJECTS}
    assert 900 <= train <= 1150  # 1,091 with the pinned versions
    assert 220 <= test <= 300  # 257


def test_prompts_and_responses_are_distinct_and_short(rows: list[Instruction]) -> None:
    assert len({row.prompt for row in rows}) == len({letters(row.response) for row in rows}) == len(rows)
    for row in rows:
        assert 3 <= len(row.response.split()) <= 24
        assert row.response == " ".join(row.response.split())
        head, signature = row.prompt.split("\n")[:2]
        assert head == INSTRUCTION
        assert signature.startswith(("def ", "async def "))


def test_they_fit_into_the_tokens_that_a_device_trains_on(rows: list[Instruction], smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert max(map(len, tokenizer([row.response for row in rows])["input_ids"])) <= 40
    chats = [[{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.response}] for row in rows]
    lengths = [len(ids) for ids in tokenizer(tokenizer.apply_chat_template(chats, tokenize=False))["input_ids"]]
    assert sum(length > 128 for length in lengths) < 0.02 * len(rows)


def test_another_process_with_another_hash_seed_harvests_the_same() -> None:
    code = "from fedfit.data import pydocs_instruct as p; print(hash('x')); print(ascii(p._read_project('matplotlib')))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    ).stdout.splitlines()
    assert printed[1] == ascii(pydocs_instruct._read_project("matplotlib"))


SOURCE = '''"""Module."""
raise SystemExit
class A:
    """Class."""
    @property
    async def f(self, a: int = 1, *, b: "list[str]",  # why
                **c) -> str:
        r"""Method

        Args: none.
        """
        # a comment
        if a:

            return "b"  # kept

    def g(self):
        return 1
def h(): "One line."; return 2
def i(x):
    def j():
        """Inner."""
    return j
'''


def test_functions_of_a_source_tree(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE)
    found = {function.docstring.split("\n")[0]: function for function in documented_functions(tmp_path, 10)}
    assert found == {
        "Method": Function(
            "async def f(self, a: int=1, *, b: 'list[str]', **c) -> str:",
            ("if a:", '    return "b"  # kept'),
            "Method\n\nArgs: none.",
        ),
        "One line.": Function("def h():", (), "One line."),
        "Inner.": Function("def j():", (), "Inner."),
    }


def test_a_long_function_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydocs_instruct, "MAX_SIGNATURE_LETTERS", 20)
    monkeypatch.setattr(pydocs_instruct, "MAX_CODE_LETTERS", 36)
    assert prompt_of(Function("def f(a, b, c, d, e, g):", ("x",), "")) == f"{INSTRUCTION}\ndef f(a, b, c, d, e, ...):\n    x"
    assert prompt_of(Function("def f(a: 'long annotation'):", (), "")) == f"{INSTRUCTION}\ndef f(a: 'long annot..."
    assert prompt_of(Function("def f():", ("a = 1", "return a", "never"), "")) == (
        f"{INSTRUCTION}\ndef f():\n    a = 1\n    return a"
    )


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("One.", "One."),
        ("No full stop\n\nSecond paragraph.", "No full stop"),
        ("First of\n   two lines. Second sentence.", "First of two lines."),
        ("Use e.g. Tensors, i.e. A or B vs. C. Then D.", "Use e.g. Tensors, i.e. A or B vs. C."),
        ("Reads a.b and 1.5 seconds. `x` is next.", "Reads a.b and 1.5 seconds."),
        ("Is it? Yes.", "Is it?"),
        ("Make a :class:`~a.B` of :py:func:`run <x.run>`.", "Make a `a.B` of `run`."),
    ],
)
def test_the_first_sentence(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence


@pytest.mark.parametrize(
    "text",
    [
        "Too short.",
        "self % other",
        "a + b is it",
        "a.b_c(d) == e.f(g)[h] or i.j(k) != l[m] and so on it goes.",
        "word " * 25,
        "x" * 60 + " and " + "z" * 60,
        "One of these:",
        "add(a, b) -> a tensor",
        "Naïve letters it has.",
        "(odd) first letter here",
        "This method is Deprecated.",
    ],
)
def test_no_response(text: str) -> None:
    assert not pydocs_instruct._is_sentence(text.strip())
    assert pydocs_instruct._is_sentence("Return the sum.")


def test_what_two_projects_share_goes() -> None:
    kept = pydocs_instruct._deduplicate({"a": {"p": "One.", "q": "Two!", "r": "Three"}, "b": {"p": "Four", "s": "two"}})
    assert kept == {"a": {"r": "Three"}, "b": {}}


def test_the_tables_and_their_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFIT_CACHE", str(tmp_path))
    made = [Instruction("p", "é", "a", "train"), Instruction("q", "s", "b", "test"), Instruction("t", "u", "b", "train")]
    monkeypatch.setattr(pydocs_instruct, "harvest", lambda: made)
    tables = load_tables(DataSettings(source="pydocs-instruct"))
    assert tables.train.columns == {"prompt": ["p", "t"], "response": ["é", "u"], "project": ["a", "b"]}
    assert tables.test.columns == {"prompt": ["q"], "response": ["s"], "project": ["b"]}
    assert (tables.reading.prompt, tables.reading.response) == (("prompt",), "response")
    monkeypatch.setattr(pydocs_instruct, "harvest", None)
    assert load_tables(DataSettings(source="pydocs-instruct")).train.columns == tables.train.columns
    (path,) = tmp_path.rglob("*.jsonl")
    assert path.parent.name == "pydocs-instruct"


def test_a_project_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFIT_CACHE", str(tmp_path))
    monkeypatch.setattr(pydocs_instruct, "PROJECTS", ("python", "no_such_project"))
    with pytest.raises(DataError, match="'pydocs-instruct' reads the sources of no_such_project: install it"):
        load_tables(DataSettings(source="pydocs-instruct"))
