"""The parameters of a size that a law counts: those beside the embeddings, where the records know them.

A token's way through a model passes all its parameters but those of the lookup tables. Models cut from one checkpoint share these
tables, so that their total sizes hardly differ where the work and the depth differ several times. Laws of size are therefore clearer
in the parameters without embeddings (Kaplan et al., 2020, arXiv 2001.08361).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from scalesweep.record import Record

Counting = Literal["non-embedding", "total"]


def counting_of(records: Sequence[Record]) -> Counting:
    """The default: without embeddings, where every size of known parameters has that count."""
    rows = [size for record in records for size in record.manifest.ladder if size.n_params]
    known = rows and all(
        size.n_params_embedding is not None and size.n_params_embedding < (size.n_params or 0) for size in rows
    )
    return "non-embedding" if known else "total"


def n_params_of(row: Mapping[str, Any], counting: Counting) -> float | None:
    """The counted parameters of a row of a ladder; None where they are unknown."""
    total = row.get("n_params")
    if not total:
        return None
    return float(total) if counting == "total" else float(total) - float(row["n_params_embedding"])


def sizes_of(record: Record, counting: Counting) -> dict[str, float]:
    """The counted parameters of each size of a ladder, where they are known."""
    found = {size.name: n_params_of(size.json, counting) for size in record.manifest.ladder}
    return {name: count for name, count in found.items() if count}
