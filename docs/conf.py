"""Sphinx configuration; writes the recipe reference from the schema before the pages are read."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from recipe_reference import write_reference

import fedfit

project = "fedfit"
copyright = "2026, the fedfit authors"
release = fedfit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "description"
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"fedfit {release}"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

write_reference(Path(__file__).parent / "recipe.md")
