import json
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fedfit.data.files import read_table
from fedfit.data.table import Reading, Table, cell_text
from fedfit.errors import DataError
from tests.data.samples import NamedSamples, samples_of


def read(path: Path, content: str | bytes, columns: list[str] | None = None, text: tuple[str, ...] = ("text",)) -> NamedSamples:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = replace(read_table(path, path.suffix[1:], columns), origin=path.name)
    return samples_of(table, Reading(text, "label"))


def test_csv_with_header_quotes_and_a_line_break_in_a_field(tmp_path: Path) -> None:
    texts = read(tmp_path / "a.csv", 'text,label\n"one, ""two""\nthree",1\nfour,0\n')
    assert list(texts.texts) == ['one, "two"\nthree', "four"]
    assert list(texts.labels) == ["1", "0"]


def test_csv_without_header_joins_columns_and_strips(tmp_path: Path) -> None:
    texts = read(tmp_path / "a.csv", '"1","","body"\n"2","title ","body"\n', ["label", "a", "b"], ("a", "b"))
    assert list(texts.texts) == ["body", "title  body"]


def test_tsv_is_read_without_quoting(tmp_path: Path) -> None:
    texts = read(tmp_path / "a.tsv", 'text\tlabel\n" he said\t1\nit\'s "so"\t0\n')
    assert list(texts.texts) == ['" he said', 'it\'s "so"']


def test_words_that_look_like_missing_values_stay_words(tmp_path: Path) -> None:
    texts = read(tmp_path / "a.csv", "text,label\nNA,None\nnull,nan\n")
    assert (list(texts.texts), list(texts.labels)) == (["NA", "null"], ["None", "nan"])


def test_a_byte_order_mark_is_no_part_of_the_content(tmp_path: Path) -> None:
    assert list(read(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "x", "label": 1}').texts) == ["x"]
    assert list(read(tmp_path / "a.csv", b"\xef\xbb\xbftext,label\nx,1\n").texts) == ["x"]


def test_jsonl_keeps_types_and_takes_empty_lines_and_missing_texts(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b", "label": 1}, {"text": None, "label": 0}, {"label": True, "node": 7}]
    content = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    texts = read(tmp_path / "a.jsonl", content)
    assert list(texts.texts) == ["a\u2028b", "", ""]
    assert list(texts.labels) == ["1", "0", "True"]
    assert texts.columns["node"] == ["", "", "7"]


def test_json_is_a_list_of_objects_read_as_jsonl_is(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b", "label": 1}, {"text": None, "label": 0.0, "node": {"é": [1, None]}}, {"label": True}]
    whole = read(tmp_path / "a.json", "\ufeff" + json.dumps(rows, indent=2))
    lines = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert list(whole.texts) == ["a\u2028b", "", ""] == list(lines.texts)
    assert list(whole.labels) == ["1", "0", "True"] == list(lines.labels)
    assert whole.columns == lines.columns
    assert whole.columns["node"] == ["", '{"é": [1, null]}', ""]


def test_a_cell_of_deep_lists_is_read_or_refused_but_never_a_traceback(tmp_path: Path) -> None:
    for depth in (10, 300, 700, 800, 850, 900, 930, 960, 990, 2000):
        (tmp_path / "a.json").write_text(f'[{{"text": {"[" * depth}{"]" * depth}, "label": 1}}]')
        try:
            assert read_table(tmp_path / "a.json", "json").columns["text"] == ["[" * depth + "]" * depth]
        except DataError:
            assert depth > 300


def test_parquet_with_numbers_as_labels(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a", "b"], "label": [1.0, 0.0], "node": [3, 4]}).to_parquet(tmp_path / "a.parquet")
    texts = samples_of(read_table(tmp_path / "a.parquet", "parquet"), Reading(["text"], "label"))
    assert (list(texts.texts), list(texts.labels), texts.columns["node"]) == (["a", "b"], ["1", "0"], ["3", "4"])


def test_pairs_are_the_second_sentences(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("one,two,label\nfirst, second ,1\n")
    texts = samples_of(read_table(tmp_path / "a.csv", "csv"), Reading(["one"], "label", "two"))
    assert texts.pairs == ["second"]
    assert "two" not in texts.columns


def test_an_empty_text_is_kept(tmp_path: Path) -> None:
    assert list(read(tmp_path / "a.csv", "text,label\n,1\nx,0\n").texts) == ["", "x"]


def test_a_text_of_a_megabyte_is_kept_whole(tmp_path: Path) -> None:
    for kind, separator in (("csv", ","), ("tsv", "\t")):
        texts = read(tmp_path / f"a.{kind}", f"text{separator}label\n{'x' * 1_000_000}{separator}1\n")
        assert len(texts.texts[0]) == 1_000_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.tsv", "\n \n", "is empty"),
        ("a.jsonl", "", "is empty"),
        ("a.parquet", "", "is empty"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.tsv", "text\tlabel\n", "has no rows"),
        ("a.csv", b"text,label\ngood,1\ncaf\xe9,0\n", r"not UTF-8 \(byte 21, line 3\): re-encode it as UTF-8"),
        ("a.jsonl", b'{"text": "caf\xe9", "label": 1}', "not UTF-8"),
        ("a.csv", "text,label\na,1\nb,1,2\n", "is not csv .Expected 2 fields in line 3, saw 3"),
        ("a.csv", "text,label\n1,2,3\n", "is not csv .Expected 2 fields in line 2, saw 3"),
        ("a.csv", 'text,label\n"open,1\n', "is not csv .EOF inside string"),
        ("a.csv", "label,label\n1,2\n", "two columns of one name"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text"', "line 2 is not JSON"),
        ("a.jsonl", '"a"', "line 1 is str, not a JSON object"),
        ("a.jsonl", '\n[{"text": "a"}]', 'begins with a list, not with a JSON object: .*set data.source to "json"'),
        ("a.jsonl", '{"a":' * (10 * sys.getrecursionlimit()), "line 1 is not JSON"),
        ("a.json", "", "is empty"),
        ("a.json", "[]", "has no rows"),
        ("a.json", '[{"text": "caf', r"is not JSON .*char.*one list of objects"),
        ("a.json", b'[{"text": "caf\xe9"}]', "not UTF-8"),
        ("a.json", '{"text": "a", "label": 1}\n{"text": "b"}', r'is not JSON .Extra data.*set data.source to "jsonl"'),
        ("a.json", '{"data": []}', r'a.json is an object, not a list: write \[\{"column": value.*"jsonl"'),
        ("a.json", "3.5", "a.json is a number, not a list"),
        ("a.json", '[{"text": "a", "label": 1}, ["b", 2]]', "item 2 is a list, not an object"),
        ("a.json", "[null]", "item 1 is null, not an object"),
        ("a.json", "[" * (10 * sys.getrecursionlimit()), "is not JSON .*recursion"),
        ("a.json", '[{"a":' * (10 * sys.getrecursionlimit()), "is not JSON .*recursion"),
        ("a.json", '[{"text": "\\ud800", "label": 1}]', "row 1: the text is not valid Unicode"),
        ("a.json", '[{"text": "a", "label": 1}, {"text": "b"}]', "no label in row 2"),
        ("a.parquet", "no parquet", "is not parquet"),
        ("a.csv", "text,label\na,1\nb,\nc,\n", "data.label = 'label': a.csv has no label in row 2, and 1 more"),
        ("a.csv", "text,label\na,1\nb\n", "no label in row 2"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": null}', "no label in row 2"),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}', "row 1: the text is not valid Unicode"),
        ("a.csv", "txt,label\na,1\n", r"data.text = 'text': a.csv has no such column; it has txt, label: did you mean 'txt'"),
        ("a.csv", "text,klass\na,1\n", "data.label = 'label': a.csv has no such column; it has text, klass"),
    ],
)
def test_bad_files_are_refused_with_the_place_and_the_reason(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, content)


def test_the_wrong_number_of_column_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.columns = \['label'\]: 1 names, but .* has 2 columns"):
        read(tmp_path / "a.csv", "1,x\n", ["label"])


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=f"nowhere.{kind}: there is no such file"):
        read_table(tmp_path / f"nowhere.{kind}", kind)
    with pytest.raises(DataError, match=r"cannot be read .Is a directory"):
        read_table(tmp_path, kind)


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.csv", "text;label\na, b;1\n", None, r"separated by semicolons, and csv by commas: save it as csv.*sep=';'"),
        ("a.csv", "text|label\na|1\n", None, "separated by bars, and csv by commas: save it as csv"),
        ("a.csv", "text\tlabel\na\t1\n", None, 'separated by tabs, and csv by commas: set data.source to "tsv"'),
        ("a.tsv", "text,label\na,1\n", None, 'separated by commas, and tsv by tabs: set data.source to "csv"'),
        ("a.tsv", "text;label\r\na;1\r\n", None, "separated by semicolons, and tsv by tabs"),
        ("a.csv", '"a;b";1\n', ["text", "label"], "separated by semicolons, and csv by commas"),
    ],
)
def test_another_separator_is_named_with_the_remedy(
    tmp_path: Path, name: str, content: str, columns: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, content, columns)


def test_signs_inside_fields_are_no_separators(tmp_path: Path) -> None:
    texts = read(tmp_path / "a.csv", 'text,"the label; or class"\na;b;c,1\n', ["text", "label"])
    assert list(texts.texts) == ["text", "a;b;c"]
    with pytest.raises(DataError, match=r"data.columns = .* 2 names, but .* has 1 columns"):
        read(tmp_path / "a.csv", "one; two; three\n", ["text", "label"])


def test_no_text_column_and_a_wrong_pair_column_are_refused() -> None:
    table = Table("a", {"text": ["a"], "label": ["1"]})
    with pytest.raises(DataError, match=r"data.text = .*name at least one"):
        samples_of(table, Reading([], "label"))
    with pytest.raises(DataError, match=r"data.pair = 'other': a has no such column"):
        samples_of(table, Reading(["text"], "label", "other"))


@pytest.mark.parametrize(
    ("value", "name"),
    [(1, "1"), (1.0, "1"), (1.5, "1.5"), (" x ", " x "), (None, ""), (float("nan"), ""), (pd.NA, ""), ([1, "é"], '[1, "é"]')],
)
def test_a_cell_as_a_string(value: object, name: str) -> None:
    assert cell_text(value) == name


def test_a_label_is_stripped(tmp_path: Path) -> None:
    assert list(read(tmp_path / "a.csv", "text,label\na, x \n").labels) == ["x"]
