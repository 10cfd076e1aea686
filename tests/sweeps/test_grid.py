"""Parsing the arguments of a grid: valid ones, and every kind of fault."""

import tomllib
from contextlib import suppress
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfit.errors import RecipeError
from fedfit.sweeps.grid import MAX_RUNS, parse_grid, split_values


def test_lists_ranges_and_fixed_keys() -> None:
    grid = parse_grid(["adapter.rank=4,8,16", "seed=0..2", "federation.rounds=3", "training.learning_rate=1e-3, 1e-2"])
    assert grid.axes == (("adapter.rank", ("4", "8", "16")), ("training.learning_rate", ("1e-3", "1e-2")))
    assert (grid.fixed, grid.seeds) == (("federation.rounds=3",), (0, 1, 2))
    assert grid.cells()[:3] == [
        (("adapter.rank", "4"), ("training.learning_rate", "1e-3")),
        (("adapter.rank", "4"), ("training.learning_rate", "1e-2")),
        (("adapter.rank", "8"), ("training.learning_rate", "1e-3")),
    ]


def test_ranges_and_single_values_mix() -> None:
    grid = parse_grid(["adapter.rank=1..3,8", "seed=7,9..10"])
    assert (grid.axes, grid.seeds) == ((("adapter.rank", ("1", "2", "3", "8")),), (7, 9, 10))


def test_seeds_alone_are_a_grid_of_one_cell() -> None:
    grid = parse_grid(["seed=-1..1"])
    assert (grid.axes, grid.seeds, grid.cells()) == ((), (-1, 0, 1), [()])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('["query"],["query", "key"]', ['["query"]', '["query", "key"]']),
        ("{choice=[1,2]},{uniform=[1,4]}", ["{choice=[1,2]}", "{uniform=[1,4]}"]),
        ('"a,b",c', ['"a,b"', "c"]),
        ("'[',\"]\"", ["'['", '"]"']),
        ("last:1, last:2", ["last:1", "last:2"]),
        ("1,,2", ["1", "", "2"]),
    ],
)
def test_commas_inside_a_value_do_not_separate(text: str, parts: list[str]) -> None:
    assert split_values(text) == parts


def test_an_empty_value_removes_the_key_from_the_recipe() -> None:
    assert parse_grid(["federation.ranks=", "seed=0..1"]).fixed == ("federation.ranks=",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adapter.rank"], "override = 'adapter.rank': write section.key=value"),
        (["=1,2"], "write section.key=value"),
        (["adapter.rank=4", "adapter.rank=8"], "adapter.rank = '8': the key is given twice"),
        (["adapter.rank=4,,8"], "adapter.rank = '4,,8': a value between two commas is missing"),
        (["adapter.rank=4,8,4"], "4 is given twice"),
        (["adapter.rank=8..4"], "adapter.rank = '8..4': the range is empty; write 4..8"),
        (["seed=0..1000000000"], "1,000,000,001 values; a sweep has at most 1,000 runs"),
        (["adapter.rank=1..40", "seed=0..39"], "1,600 runs; a sweep has at most 1,000"),
        (["seed=0,one"], "seed = 'one': seeds are whole numbers; write seed=0..2"),
        (["adapter.rank=4"], "this is one run only"),
        (["seed=3"], "this is one run only"),
        ([], "this is one run only"),
    ],
)
def test_a_fault_names_key_value_and_remedy(words: list[str], said: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_grid(words)
    assert said in str(error.value)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(RecipeError) as error:
        parse_grid(["adapter.rank", "seed=x", "adapter.alpha=3..1"])
    assert {fault.key for fault in error.value.faults} == {"override", "seed", "adapter.alpha"}


KEYS = ("adapter.rank", "adapter.alpha", "federation.rounds", "training.learning_rate")
TOML_VALUES = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.floats(1e-9, 1e9).map(repr),
    st.text("abc,[]{}'. ", max_size=6).map(lambda text: f'"{text}"'),
    st.lists(st.text("ab,]", max_size=3).map(lambda text: f'"{text}"'), max_size=3).map(lambda items: f"[{', '.join(items)}]"),
)


@given(
    st.dictionaries(st.sampled_from(KEYS), st.lists(TOML_VALUES, min_size=2, max_size=3, unique=True), min_size=1, max_size=3)
)
def test_any_grid_of_toml_values_is_read_back(values: dict[str, list[str]]) -> None:
    """Lists written with commas are parsed back unchanged; every combination appears once."""
    grid = parse_grid([f"{key}={','.join(listed)}" for key, listed in values.items()])
    assert {key: list(found) for key, found in grid.axes} == values
    for listed in values.values():
        assert all(tomllib.loads(f"x = {value}") for value in listed)
    cells = grid.cells()
    assert len(set(cells)) == len(cells) == prod(len(listed) for listed in values.values())


@given(st.integers(-1000, 1000), st.integers(2, MAX_RUNS))
def test_a_range_is_every_whole_number_from_end_to_end(first: int, count: int) -> None:
    assert parse_grid([f"seed={first}..{first + count - 1}"]).seeds == tuple(range(first, first + count))


@given(st.lists(st.text(max_size=12), max_size=4))
def test_any_text_is_a_grid_or_a_fault(words: list[str]) -> None:
    with suppress(RecipeError):
        assert parse_grid(words).cells()
