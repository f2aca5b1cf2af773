"""The promoted model that a sweep adapts, checked before any compute: its data are the earlier ones, and none of them leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesweep.errors import SpecError, UserError
from scalesweep.record.exports import read_provenance
from scalesweep.spec import LadderSize, SweepSpec

if TYPE_CHECKING:
    from scalesweep.models.ladder import ResolvedSize

KEPT = ("sweep", "trial", "test", "test_standard_errors", "earlier_test", "data", "weights", "adapted")  # of its provenance


def adapted_model(
    spec: SweepSpec, base: Path, fingerprint: str | None, sizes: Sequence[ResolvedSize], ladder: Mapping[str, LadderSize]
) -> dict[str, Any] | None:
    """Return what a record keeps of the model that the sweep adapts; None without one.

    Args:
        base: folder that relative paths start from.
        fingerprint: of the earlier data, as they were read now.
        sizes: of the ladder.
        ladder: the same as the user wrote them, with absolute local paths.

    Raises:
        SpecError: the folder holds no promoted model, or its data are not `data.earlier`.
    """
    if spec.adapt is None or spec.data.earlier is None:
        return None
    folder = next((path for root in (base, Path()) if (path := root / spec.adapt.model).exists()), base / spec.adapt.model)
    try:
        provenance = read_provenance(folder)
    except UserError as error:
        raise SpecError([spec.problem(("adapt", "model"), error.message, error.hint)]) from None
    known = provenance["data"]["fingerprint"]
    if fingerprint != known:
        message = f"these are not the data that {folder} was trained on, or they have changed since"
        hint = "restore them: a changed row may move from test to train, and then the old test split judges nothing"
        raise SpecError([spec.problem(("data", "earlier"), message, hint)])
    if missing := [split for split in provenance["final_run"]["train_on"] if split not in spec.data.earlier.trained_on]:
        message = f"{folder} was trained on {missing[0]} too, which can't judge it then"
        raise SpecError([spec.problem(("data", "earlier", "trained_on"), message, f"add {missing[0]}")])
    own = [size for size in sizes if ladder[size.name].model == str(folder.resolve())]
    whole = max(own, key=lambda size: size.n_params, default=None)
    kept = {name: provenance[name] for name in KEPT if name in provenance}
    return {"model": str(folder.resolve()), "size": whole.name if whole else None, "provenance": kept}


def check_heads(spec: SweepSpec, ladder: Mapping[str, LadderSize], classes: Sequence[str]) -> None:
    """Check that each head that is kept has been trained for the classes of the data. Raises SpecError."""
    from scalesweep.models.ladder import check_head

    for index, size in enumerate(ladder.values()):
        try:
            check_head(size, spec.task, classes)
        except UserError as error:
            path = ("ladder", index, "keep_head") if isinstance(spec.ladder, list) else ("ladder", "keep_head")
            raise SpecError([spec.problem(path, error.message, error.hint)]) from None
