"""``fedfit predict`` and ``fedfit export``: a finished run put to use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfit.terminal import SCREEN, Json, Quiet, polite_errors, prepare_libraries, print_json, say, waiting


def predict(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    source: Annotated[
        Path | None, typer.Option("--input", help="CSV, TSV, JSONL or parquet; standard input when left out.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--format", help="csv, tsv, jsonl or parquet; by the file's ending when left out.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Where to write; standard output when left out.")] = None,
    quiet: Quiet = False,
) -> None:
    """Add the columns prediction and probability to rows of your own."""
    with polite_errors():
        from fedfit.experiment.rows import read_rows, texts_of, with_predictions, write_rows
        from fedfit.experiment.runs import recipe_of

        rows = read_rows(source, kind)
        texts, pairs = texts_of(rows, recipe_of(folder).data)
        with waiting("reading the model …", quiet):
            prepare_libraries()
            from fedfit.experiment.use import Predictor

            predictor = Predictor(folder)
        write_rows(with_predictions(rows, predictor.predict(texts, pairs)), output)
        if output is not None:
            say(SCREEN, f"{len(rows)} rows: {output}")


def export(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    merged: Annotated[Path, typer.Option("--merged", help="Folder for the whole model, adapter merged.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the whole model with the adapter merged, for plain transformers."""
    with polite_errors(as_json), waiting("merging the adapter …", quiet):
        prepare_libraries()
        from fedfit.experiment.use import export_merged

        written = export_merged(folder, merged)
    if as_json:
        print_json({"model": str(written)})
    else:
        say(SCREEN, f"model: {written}")
