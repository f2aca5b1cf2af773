"""The provenance of a promoted model: the file `provenance.json` in the folder that `promote` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalesweep.errors import UserError
from scalesweep.storage import near_folder

PROVENANCE = "provenance.json"
NEW, OLD = "new_", "old_"  # of the names of metrics of one of the two parts of an evaluation beside earlier data


def read_provenance(export: Path) -> dict[str, Any]:
    """Read how a promoted model was made.

    Raises:
        UserError: the folder is not one that `promote` wrote, or an older version wrote it.
    """
    try:
        found: dict[str, Any] = json.loads((export / PROVENANCE).read_text(encoding="utf-8"))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError) and not export.is_dir()
        what, near = ("does not exist", near_folder(export)) if missing else (f"holds no {PROVENANCE}", "")
        raise UserError(f"{export} {what}", f"{near}give a folder that `scalesweep promote` wrote") from None
    except ValueError as error:
        raise UserError(
            f"{export / PROVENANCE} can't be read: {error}", "restore it from a copy, or promote the trial again"
        ) from None
    if not isinstance(found, dict) or "job" not in found:
        raise UserError(
            f"{export / PROVENANCE} lacks the job of the final run: an older version wrote it",
            "promote the trial again, into another --output",
        )
    return found


def metrics_of(part: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a part of an evaluation (`NEW` or `OLD`) under their usual names; empty for one without parts."""
    return {f"eval_{name.removeprefix(part)}": value for name, value in metrics.items() if name.startswith(part)}


def scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the split itself, without those of earlier data beside it."""
    return metrics_of(NEW, metrics) or {name: value for name, value in metrics.items() if name.startswith("eval_")}
