"""``fedfit predict`` and ``fedfit export``: a finished run put to use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedfit.terminal import SCREEN, Json, OwnDevice, Quiet, Tokens, polite_errors, prepare_libraries, print_json, say, waiting


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
    device: OwnDevice = None,
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

            predictor = Predictor(folder, adapter=own_adapter(folder, device))
        with waiting("predicting …", quiet):
            predictions = predictor.predict(texts, pairs, max_new_tokens)
        write_rows(rows.with_predictions(predictions), written_as, output)
        if output is not None:
            say(SCREEN, f"{len(rows)} rows: {output}")


def export(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    merged: Annotated[Path | None, typer.Option("--merged", help="Folder for the whole model, adapter merged.")] = None,
    device: OwnDevice = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With --device: personal, shared or fused; by default the one that it uses.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="With --device: folder for its adapter, in PEFT's format.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the whole model with the adapter merged, for plain transformers; or the adapter of one device."""
    with polite_errors(as_json), waiting("reading the model …", quiet):
        _check_export(merged, device, model, out)
        prepare_libraries()
        adapter = own_adapter(folder, device, model, out)
        written = {} if adapter is None else {"adapter": str(adapter)}
        if merged is not None:
            from fedfit.experiment.use import export_merged

            written["model"] = str(export_merged(folder, merged, adapter))
    if as_json:
        print_json(written)
    else:
        for what, where in written.items():
            say(SCREEN, f"{what}: {where}")


def _check_export(merged: Path | None, device: int | None, model: str | None, out: Path | None) -> None:
    """Options that do nothing by themselves, and a folder that is not free, before anything is written."""
    from fedfit.errors import DataError
    from fedfit.tracking.adapter_folder import check_free

    if merged is not None:
        check_free(merged, "--merged")
    if device is None:
        if model is not None or out is not None:
            raise DataError("--model and --out are of one device's adapter; add --device, or give --merged alone")
        if merged is None:
            raise DataError("give --merged DIR for the whole model, or --device K for the adapter of one device")


def own_adapter(folder: Path, device: int | None, model: str | None = None, out: Path | None = None) -> Path | None:
    """The folder of a device's own adapter; ``None`` without a device."""
    if device is None:
        return None
    from fedfit.experiment.device_adapter import device_adapter

    return device_adapter(folder, device, model, out)
