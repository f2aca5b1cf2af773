"""Reading a table of runs from a Parquet or CSV file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from scalesweep.errors import UserError, nearest

_SUFFIXES = (".parquet", ".pq", ".csv")
_PACKED = (".gz", ".bz2", ".xz", ".zip")
_EMPTY = ["", "nan", "NaN", "NA", "N/A", "null", "NULL"]  # without `None`, which may be a word in a table


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet or CSV file; CSV may be compressed (.csv.gz, .csv.bz2, .csv.xz, .csv.zip).

    Raises:
        UserError: the file is missing, has an unsupported format, or can't be read.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    packed = suffixes[-1:] and suffixes[-1] in _PACKED
    kind = (suffixes[-2] if len(suffixes) == 2 else "") if packed else (suffixes[-1] if suffixes else "")
    if kind not in _SUFFIXES or (packed and kind != ".csv"):
        hint = f"use a file that ends in {', '.join(_SUFFIXES)}, or in .csv and one of {', '.join(_PACKED)}"
        raise UserError(f"{path}: the format of this table is not supported", hint)
    if not path.is_file():
        near = nearest(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else None
        raise UserError(f"{path}: the file does not exist", f"did you mean {path.parent / near}?" if near else "check the path")
    try:
        if kind == ".csv":
            missing = {"keep_default_na": False, "na_values": _EMPTY}
            words = {"config": str}  # an id as written: run 001 is not run 1
            return pd.read_csv(path, **missing, dtype=words, float_precision="round_trip", low_memory=False)
        return pd.read_parquet(path)
    except Exception as error:  # noqa: BLE001 - parsers and decompressors raise many kinds of errors for a damaged file
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: can't be read as {'CSV' if kind == '.csv' else 'Parquet'}: {why}", "check that the file is complete"
        ) from None
