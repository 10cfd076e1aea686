"""Guesses at what a misspelt word meant."""

import pytest

from fedfit.errors import choose, did_you_mean, nearest


@pytest.mark.parametrize(
    ("given", "names", "near"),
    [
        ("demmo", ["demo", "fedit"], ["demo"]),
        ("agnews", ["agnews-minilm", "sst2", "agnews-noniid"], ["agnews-minilm", "agnews-noniid"]),
        ("AG-News", ["ag_news", "ag_news_big"], ["ag_news"]),
        ("fedavg", ["fedavg", "fedavgm"], ["fedavg"]),
        ("colla", ["demo", "fedit"], []),
        ("f", ["fedit"], []),
        ("", ["fedit"], []),
        (7, ["fedit"], []),
        ("x", [], []),
    ],
)
def test_nearest(given: object, names: list[str], near: list[str]) -> None:
    assert nearest(given, names) == near


def test_two_names_alike_but_for_case_are_one_guess() -> None:
    assert nearest("Tex", ["text", "TEXT"]) == ["text", "TEXT"]
    assert nearest("txt", ["text", "TEXT"]) == ["text"]


def test_an_alias_is_tried_when_no_name_is_near() -> None:
    aliases = {"cola": ["cola-minilm", "cola-roberta"], "demo": ["other"]}
    assert did_you_mean("colla", ["demo"], aliases) == "did you mean 'cola-minilm' or 'cola-roberta'? "
    assert did_you_mean("demmo", ["demo"], aliases) == "did you mean 'demo'? "
    assert did_you_mean("nothing", ["demo"], aliases) == ""


def test_choose_lists_all() -> None:
    assert choose("adam", ("adamw", "sgd")) == "did you mean 'adamw'? choose one of adamw, sgd"
    assert choose(3, ("adamw", "sgd")) == "choose one of adamw, sgd"
