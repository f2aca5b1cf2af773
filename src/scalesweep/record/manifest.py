"""The manifest of a sweep (`sweep.json`): one builder, and one typed view for its readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scalesweep.spec import SweepSpec, price_of, rung_count, rung_levels

SCHEMA_VERSION = 2


def new_manifest(
    spec: SweepSpec,
    ladder: Sequence[Mapping[str, Any]],
    past: Sequence[Mapping[str, Any]] = (),
    launched: Mapping[str, Any] | None = None,
) -> Manifest:
    """The manifest of a sweep that begins, live or simulated.

    Args:
        ladder: a row per size, with the keys of `fields.MANIFEST`.
        past: trials of earlier sweeps for the warm start.
        launched: the further keys of a live sweep, which describe its data and reproduce it.
    """
    early = spec.early_terminate
    made = {
        "schema_version": SCHEMA_VERSION,
        "name": spec.name,
        "spec": spec.model_dump(mode="json"),
        "metric": {"name": spec.metric.name, "goal": spec.goal},
        "time_attr": early.time_attr,
        "max_t": early.max_t,
        "rungs": rung_levels(spec),
        "rung_count": rung_count(rung_levels(spec), early.max_t),
        "ladder": list(ladder),
        "past": list(past),
        "seeds": {"search": spec.search.seed, "training": spec.training.seed, "split": spec.data.split_seed},
        **(launched or {}),
    }
    return Manifest(made)


def in_todays_words(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an older version with the search settings that replaced its own."""
    search = dict(manifest.get("spec", {}).get("search") or {})
    search.pop("cost_weight", None)
    if search.get("sampler") == "scale_aware":
        search["sampler"] = "forecast"
    return {**manifest, "spec": {**manifest["spec"], "search": search}} if search else manifest


@dataclass(frozen=True)
class Size:
    """One row of the ladder: a model size as it was measured. `json` is the row as it is in the file."""

    json: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.json["name"])

    @property
    def model(self) -> str:
        return str(self.json["model"])

    @property
    def layers(self) -> int | None:
        layers: int | None = self.json["layers"]
        return layers

    @property
    def revision(self) -> str | None:
        revision: str | None = self.entry.get("revision")
        return revision

    @property
    def n_params(self) -> float | None:
        """The parameter count; None where it is unknown (curves of a table)."""
        n_params: float | None = self.json.get("n_params")
        return n_params

    @property
    def n_params_embedding(self) -> float | None:
        """The parameters of lookup tables (token, position and type embeddings); None where they are unknown."""
        count: float | None = self.json.get("n_params_embedding")
        return count

    @property
    def entry(self) -> Mapping[str, Any]:
        """The size as the user wrote it; empty in records of simulations."""
        entry: Mapping[str, Any] = self.json.get("entry", {})
        return entry

    @property
    def accelerator_type(self) -> str | None:
        kind: str | None = self.entry.get("accelerator_type")
        return kind


class Manifest(Mapping[str, Any]):
    """The manifest, typed. As a mapping, it is the JSON of the file, unknown keys included.

    A key that a reader needs and an old or small manifest lacks raises KeyError when it is read.
    """

    def __init__(self, json: Mapping[str, Any]) -> None:
        self._json: dict[str, Any] = dict(json)

    def __getitem__(self, key: str) -> Any:
        return self._json[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._json)

    def __len__(self) -> int:
        return len(self._json)

    def __repr__(self) -> str:
        return f"<Manifest of {self.get('name')}>"

    @property
    def id(self) -> str:
        return str(self["id"])

    @property
    def name(self) -> str:
        return str(self["name"])

    @property
    def spec(self) -> dict[str, Any]:
        """The whole sweep file with all defaults, as plain values."""
        spec: dict[str, Any] = self["spec"]
        return spec

    @property
    def metric(self) -> str:
        return str(self["metric"]["name"])

    @property
    def minimize(self) -> bool:
        return bool(self["metric"]["goal"] == "minimize")

    @property
    def time_attr(self) -> str:
        return str(self["time_attr"])

    @property
    def max_t(self) -> float:
        max_t: float = self["max_t"]
        return max_t

    @property
    def rungs(self) -> list[float]:
        rungs: list[float] = self["rungs"]
        return rungs

    @property
    def rung_count(self) -> int:
        return int(self["rung_count"])

    @cached_property
    def ladder(self) -> list[Size]:
        return [Size(row) for row in self.get("ladder", ())]

    def size(self, name: str) -> Size:
        """The row of a size.

        Raises:
            StopIteration: the ladder has no such size.
        """
        return next(size for size in self.ladder if size.name == name)

    @property
    def n_params(self) -> dict[str, float]:
        """The known parameter counts of model sizes."""
        return {size.name: size.n_params for size in self.ladder if size.n_params}

    @property
    def data(self) -> Mapping[str, Any]:
        data: Mapping[str, Any] = self["data"]
        return data

    @property
    def adapts(self) -> Mapping[str, Any] | None:
        """The promoted model that the sweep adapts; None for a sweep that adapts none."""
        adapts: Mapping[str, Any] | None = self.get("adapts")
        return adapts

    @property
    def chooses(self) -> bool:
        """Whether `choose` planned the sweep: every trial is named beforehand, on a share of the data, and runs to its end."""
        points = self.spec.get("search", {}).get("points_to_evaluate") or []
        whole = self.spec.get("early_terminate", {}).get("type") == "none"
        return whole and bool(points) and all("train_share" in point for point in points)

    @property
    def hopeless(self) -> list[tuple[Any, ...]]:
        """Pairs of size and method that are never proposed, some with the least rank for which that holds."""
        return [tuple(row) for row in self.get("hopeless", ())]

    @property
    def baseline(self) -> Mapping[str, Any] | None:
        """The score of guessing; None in older records."""
        baseline: Mapping[str, Any] | None = self.get("baseline")
        return baseline

    @property
    def versions(self) -> Mapping[str, str]:
        versions: Mapping[str, str] = self["versions"]
        return versions

    @property
    def functions(self) -> Mapping[str, str | None]:
        """The SHA-256 of the file of each function of the user's; empty in older records."""
        functions: Mapping[str, str | None] = self.get("functions", {})
        return functions

    @property
    def budget(self) -> dict[str, Any]:
        budget: dict[str, Any] = self.spec["budget"]
        return budget

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters of the search space, by name."""
        return (self.spec.get("search_space") or {}).get("parameters", {})

    @property
    def wandb(self) -> dict[str, Any]:
        wandb: dict[str, Any] = self.spec["tracking"]["wandb"]
        return wandb

    def price(self, size: str) -> float | None:
        """The dollars per GPU hour of a size; None without a price."""
        kind = next((row.accelerator_type for row in self.ladder if row.name == size), None)
        return price_of(self.spec["resources"].get("dollars_per_gpu_hour"), kind)

    def with_limits(self, changed: Mapping[str, Sequence[Any]]) -> Manifest:
        """The manifest with other budgets and limits in its spec. `changed` has the old and the new value of each key."""
        spec = dict(self.spec)
        for key, (_, value) in changed.items():
            section, _, name = key.partition(".")
            spec[section] = {**spec[section], name: value}
        return Manifest({**self, "spec": spec})
