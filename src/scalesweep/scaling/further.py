"""The sweep that would let a scaling law be fitted, or fitted well enough to choose: an ordinary sweep file's content."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalesweep.record import Record
from scalesweep.scaling.refusal import RANGE, SIZES
from scalesweep.scaling.sizes import Counting, sizes_of
from scalesweep.spec import sweep_from_dict

TRIALS = 8  # per size
NEAR = 1.25  # factor between a wanted size and one that stands for it
SAME = 1.1  # factor between lengths that count as one


@dataclass(frozen=True)
class Further:
    """A sweep to run.

    Attributes:
        spec: keys of a sweep file.
        sizes: parameters of its sizes. `tokens`: of its longest trial, where known.
        missing: parameters of models that its ladder should have too, and that the records don't name.
        lengths: further values of `early_terminate.max_t` to launch it with.
    """

    spec: dict[str, Any]
    sizes: tuple[float, ...]
    tokens: float | None
    missing: tuple[float, ...] = ()
    lengths: tuple[float, ...] = ()


def further_sweep(
    record: Record,
    cells: Sequence[Mapping[str, float]],
    longest: float | None,
    others: Sequence[tuple[str, float, str]] = (),
    counting: Counting = "total",
) -> Further | None:
    """The sweep that trains the wanted cells, in the form of a sweep that was run; None where the record lacks what a sweep needs.

    Args:
        record: the sweep that gives data, space and training.
        cells: sizes and tokens to train.
        longest: tokens of the record's trials that reached `max_t`.
        others: further models, as name, parameters and checkpoint.
        counting: the parameters that `n_params` counts.
    """
    manifest = record.manifest
    if "ladder" not in manifest.spec or "search_space" not in manifest.spec:
        return None
    spec = copy.deepcopy(manifest.spec)
    spec["data"] = dict(manifest.get("data", {}).get("source") or spec["data"])
    spec["name"] = f"{manifest.name}-further"
    search = spec.get("search", {})  # with another seed, because sizes that were in the sweep would get the same trials again
    spec["search"] = {**search, "warm_start": [], "points_to_evaluate": [], "seed": search.get("seed", 0) + 1}
    sizes, missing = _ladder(spec, record, sorted({cell["n_params"] for cell in cells if "n_params" in cell}), others, counting)
    parameters = spec["search_space"]["parameters"]
    if "model_size" in parameters:
        parameters["model_size"] = {"values": list(sizes)}
    lengths = _lengths(
        manifest.max_t, manifest.time_attr, longest, sorted({cell["tokens"] for cell in cells if "tokens" in cell})
    )
    early = spec["early_terminate"]
    early["max_t"] = lengths[-1]
    if early.get("grace_period") not in (None, "auto") and early["grace_period"] > lengths[-1]:
        early["grace_period"] = "auto"
    spec["budget"] = {"run_cap": TRIALS * len(sizes)}
    tidy = sweep_from_dict(_without_nulls(spec)).model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    tokens = longest and longest * lengths[-1] / manifest.max_t
    return Further(_without_nulls(tidy), tuple(sizes.values()), tokens, tuple(missing), tuple(lengths[:-1]))


def _ladder(
    spec: dict[str, Any],
    record: Record,
    wanted: Sequence[float],
    others: Sequence[tuple[str, float, str]],
    counting: Counting,
) -> tuple[dict[str, float], list[float]]:
    """Set the ladder to the wanted sizes that exist, and return these, and the wanted sizes that don't."""
    known = sizes_of(record, counting)
    given = {name: n_params for name, n_params, _ in others}
    ladder = spec["ladder"]
    cuts = _cuts(record, known) if isinstance(ladder, dict) and not others else {}
    offered = {**known, **given, **cuts}
    chosen: dict[str, float] = {}
    for size in wanted:
        name = min(offered, key=lambda name: abs(math.log(offered[name] / size)))
        if max(offered[name] / size, size / offered[name]) <= NEAR:
            chosen[name] = offered[name]
    chosen |= given
    if wanted and not _mended({**known, **chosen}) and _mended({**known, **chosen, **cuts}):
        chosen |= cuts
    missing = (
        []
        if _mended({**known, **chosen})
        else [size for size in wanted if not any(max(n / size, size / n) <= NEAR for n in {**known, **chosen}.values())]
    )
    chosen = chosen or known
    if isinstance(ladder, dict) and not given:
        ladder["layers"] = sorted(int(name[1:]) for name in chosen)
        ladder["model"] = record.manifest.ladder[0].entry.get("model", ladder["model"])
        return {name: chosen[name] for name in sorted(chosen, key=lambda name: chosen[name])}, missing
    rows = {size.name: {**size.entry} for size in record.manifest.ladder if size.entry}
    rows |= {name: {"name": name, "model": model} for name, _, model in others}
    spec["ladder"] = [rows[name] for name in sorted(chosen, key=lambda name: chosen[name]) if name in rows]
    return {row["name"]: chosen[row["name"]] for row in spec["ladder"]}, missing


def _mended(sizes: Mapping[str, float]) -> bool:
    return len(set(sizes.values())) >= SIZES and max(sizes.values()) >= RANGE * min(sizes.values())


def _cuts(record: Record, known: Mapping[str, float]) -> dict[str, float]:
    """The shallower cuts of a ladder by depth, with their parameters: every block has as many as those of the ladder."""
    rows = sorted(
        (int(size.layers), known[size.name])
        for size in record.manifest.ladder
        if size.layers is not None and size.name in known
    )
    if len(rows) < 2:
        return {}
    (few, small), (many, large) = rows[0], rows[-1]
    block = (large - small) / (many - few)
    found = {f"L{layers}": small - block * (few - layers) for layers in range(1, few)}
    return {name: n_params for name, n_params in found.items() if n_params > 0}


def _lengths(max_t: float, time_attr: str, longest: float | None, tokens: Sequence[float]) -> list[float]:
    """The values of max_t for these numbers of tokens, ascending; the sweep's own where none is wanted."""
    found: list[float] = []
    for amount in tokens if longest else []:
        scaled = max_t * amount / float(longest or 1)
        length = max_t if max(scaled / max_t, max_t / scaled) < SAME else scaled
        length = math.ceil(length) if time_attr in ("steps", "tokens", "flops") else float(f"{length:.3g}")
        if not found or length > SAME * found[-1]:
            found.append(length)
    return found or [max_t]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_nulls(item) for key, item in value.items() if item is not None}
        return {key: item for key, item in kept.items() if item != {}}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
