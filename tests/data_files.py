"""Data files of a few rows in any format, and the errors that they cause."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from scalesweep.data.prepare import prepare
from scalesweep.data.problems import DataProblem
from scalesweep.spec.sweep import DataSpec

TASK = "sequence-classification"
TEXTS = ["plain", 'with "quotes", a comma', "two\nlines", "NA", "3.14", "été 😀", "seven", "eight"]
HALVES = {"train": 0.5, "validation": 0.5}
LABELS = [0, 1, 0, 1, 0, 1, 0, 1]


def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": TEXTS, "label": LABELS, "unused": [0.5] * 8})


def spec(path: str, **changes) -> DataSpec:
    fields = {"path": path, "text": "text", "label": "label", "splits": {"train": 4, "validation": 2, "test": 2}}
    return DataSpec(**(fields | changes))


def problem(base: Path, **changes) -> DataProblem:
    with pytest.raises(DataProblem) as caught:
        prepare(spec(**changes), TASK, base)
    return caught.value


def write(path: Path, data: pd.DataFrame) -> None:
    """Write by pandas and the standard library, in the format that the name says."""
    inner = path.name.split(".")[1]
    if inner == "parquet":
        content = data.to_parquet()
    elif inner == "json":
        content = data.to_json(orient="records").encode()
    elif inner == "jsonl":
        content = data.to_json(orient="records", lines=True).encode()
    else:
        content = data.to_csv(index=False, sep="\t" if inner == "tsv" else ",").encode()
    if path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(content)
    else:
        compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
        path.write_bytes(compress(content))


def write_lines(path: Path, columns: dict[str, list]) -> None:
    """Write a CSV without quoting, or JSON lines."""
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".csv":
        lines = [",".join(row) for row in [tuple(columns), *rows]]
    else:
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
