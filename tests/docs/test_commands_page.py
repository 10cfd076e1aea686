"""The page on the command line names every command and every option; the quickstart's recipe holds."""

import re
from pathlib import Path
from typing import Any

import typer

from fedfit.cli import app
from fedfit.experiment.load import parse_recipe
from fedfit.experiment.validate import validate_offline

DOCS = Path(__file__).parents[2] / "docs"


def options(command: Any, path: str) -> list[tuple[str, str]]:
    """Each command's path with each of its options, in the subcommands as well."""
    names = [name for item in command.params for name in item.opts if name.startswith("--") and name != "--help"]
    below = getattr(command, "commands", {}).items()
    return [(path, name) for name in names] + [pair for name, item in below for pair in options(item, f"{path} {name}")]


def test_every_command_and_option_is_on_the_page() -> None:
    page = (DOCS / "commands.md").read_text()
    group: Any = typer.main.get_command(app)
    assert [name for name in group.commands if f"`fedfit {name}" not in page] == []
    found = options(group, "fedfit")
    assert len(found) > 20
    assert [pair for pair in found if not re.search(rf"`(?:fedfit )?{pair[1]}[` ]", page)] == []


def test_the_recipe_of_the_quickstart_holds() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (DOCS / "quickstart.md").read_text(), re.DOTALL)
    assert validate_offline(parse_recipe(text)) == []


def test_the_index_links_every_page() -> None:
    text = (DOCS / "index.md").read_text()
    files = [*DOCS.glob("*.md"), *DOCS.glob("results/*/README.md")]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in files}
    assert {page for page in pages - {"index"} if f"({page}.md)" not in text or f"\n{page}\n" not in text} == set()
