"""``fedfit predict`` and ``fedfit export``: a finished run put to use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfit.terminal import SCREEN, Json, Quiet, Tokens, polite_errors, prepare_libraries, print_json, say, waiting


def predict(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    source: Annotated[
        Path | None, typer.Option("--input", help="CSV, TSV, JSON, JSONL or parquet; standard input when left out.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--format", help="csv, tsv, json, jsonl or parquet; by the file's ending when left out.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write, its format by its ending; standard output when left out.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Column of the text or prompt, once for each; by default those of the recipe."),
    ] = None,
    pair: Annotated[
        str | None, typer.Option("--pair", help="Column of the second sentence; by default that of the recipe.")
    ] = None,
    max_new_tokens: Tokens = None,
    quiet: Quiet = False,
) -> None:
    """Add the columns prediction and probability to rows of your own: classes, or a language model's answers."""
    with polite_errors():
        from fedfit.errors import DataError
        from fedfit.experiment.rows import NoHeader, columns_of, output_kind, read_rows, write_rows
        from fedfit.experiment.runs import adapter_of, is_language_run, recipe_of

        recipe = recipe_of(folder)
        adapter_of(folder)
        data, language = recipe.data, is_language_run(recipe)
        if max_new_tokens is not None and not language:
            raise DataError(f"--max-new-tokens {max_new_tokens}: a classifier generates no text; leave it out")
        prompts = language and recipe.task.kind != "language_modelling"
        try:
            rows = read_rows(source, kind, data.columns, text or columns_of(data, prompts=prompts)[0])
        except NoHeader as error:
            raise DataError(f"{error} | fedfit predict {folder}") from None
        written_as = output_kind(output, rows)
        texts, pairs = rows.texts(data, text or (), pair, prompts=prompts)
        with waiting("reading the model …", quiet):
            prepare_libraries()
            from fedfit.experiment.use import Predictor

            predictor = Predictor(folder)
        with waiting("predicting …", quiet):
            predictions = predictor.predict(texts, pairs, max_new_tokens)
        write_rows(rows.with_predictions(predictions), written_as, output)
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
