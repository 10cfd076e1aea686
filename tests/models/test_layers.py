import pytest

from fedfit.models.layers import select_layers


@pytest.mark.parametrize(
    ("spec", "count", "expected"),
    [
        ("last:3", 12, (9, 10, 11)),
        ("first:3", 12, (0, 1, 2)),
        ("middle:2", 12, (5, 6)),  # five below, five above
        ("middle:3", 12, (5, 6, 7)),  # nine are left: five below, four above
        ("middle:3", 6, (2, 3, 4)),
        ("middle:2", 4, (1, 2)),
        ("middle:12", 12, tuple(range(12))),
        ("last:1", 1, (0,)),
        ("all", 4, (0, 1, 2, 3)),
        ("3-5", 6, (3, 4, 5)),
        ("0-0", 6, (0,)),
        ([5, 1], 6, (1, 5)),
        ((2,), 6, (2,)),
    ],
)
def test_layers_by_spec(spec: str | list[int], count: int, expected: tuple[int, ...]) -> None:
    assert select_layers(spec, count) == expected


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ("last:7", "between 1 and 6"),
        ("first:0", "between 1 and 6"),
        ("top:2", "first:k"),
        ("last: 2", "first:k"),
        ("", "first:k"),
        ("last:-1", "first:k"),
        ("5-3", "at least one"),
        ([], "at least one"),
        ([1, 1], "once"),
        ("4-6", "layers 0 to 5"),
        ([-1], "layers 0 to 5"),
    ],
)
def test_a_bad_spec_is_refused_with_the_remedy(spec: str | list[int], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        select_layers(spec, 6)
