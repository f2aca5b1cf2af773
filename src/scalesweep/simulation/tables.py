"""Learning curves from a table: one row per evaluation, read from Parquet or CSV.

Columns:

- One column per parameter that the search space varies, with the parameter's name. A cell is empty if the parameter does
  not exist in that configuration (`when`); a filled cell is ignored there. A parameter that the space fixes (`value:`) needs
  no column. If it has one, only rows with that value are read.
- `config` (optional): the id of a run. Without it, rows with equal parameter values form one curve.
- `seed` (optional): repetitions of a configuration. Runs that differ only in `config` or `seed`, and rows that repeat the
  same parameters and fidelity, are several curves of one configuration.
- A column with the name of the sweep's `early_terminate.time_attr` (`steps`, `tokens`, `flops`, `gpu_seconds` or
  `dollars`): the fidelity of the row, counted from the start of the run. Rows without a value above 0 are ignored. Without
  this column the table has final values only: one report per run, at `max_t`.
- A column with the name of the sweep's `metric.name`. An empty, NaN or infinite cell means that the run has diverged. A run
  that ends with one counts as diverged up to `max_t`.
- The cost of a run up to the row, in GPU seconds, comes from the first of these that the table has: `gpu_seconds`; `flops`;
  `n_params` (the model's parameters) × `tokens` × 6 FLOPs; `n_params` × fidelity × 6 FLOPs; the fidelity itself, one second
  per unit. 1e14 FLOPs count as one second. If the fidelity is `gpu_seconds`, it is the cost. If it is `dollars`, the cost is
  dollars ÷ `resources.dollars_per_gpu_hour`, unless there is a column `gpu_seconds`.
- `num_gpus` (optional) is a parameter like any other. If the space varies it and the table does not have it, n GPUs take the
  GPU seconds of one GPU ÷ efficiency^log2(n) and reach the same values.
- `n_params` (optional) also gives the parameters of each `model_size`, if the space has that parameter.

Other columns are not read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

from scalesweep.costs import FLOPS_PER_GPU_SECOND
from scalesweep.errors import UserError, counted, did_you_mean, nearest
from scalesweep.simulation.encoding import Encoding, Token, is_number, token
from scalesweep.simulation.source import Curve
from scalesweep.spec import SweepSpec

SAME = 1e-6  # fidelities with a smaller relative difference are equal
IMPORTANCE_FROM = 20  # configurations; importances from fewer are noise
FLOOR = 0.05  # smallest weight of a parameter, relative to the largest
JUDGED = 1000  # most configurations for measuring the error of the lookup


class TableSource:
    """A `Source` that uses the nearest configuration of a table for any parameters (columns: see the module).

    Words must match if some recorded configuration matches all of them. Numbers are compared on the unit interval of the
    space's range, on its scale. Parameters are weighted by their importance for the final value.
    """

    def __init__(self, frame: pd.DataFrame, spec: SweepSpec, efficiency: float = 0.9, name: str = "table") -> None:
        """
        Args:
            frame: see the module for its columns.
            efficiency: of twice as many GPUs, if the table has no `num_gpus`.
            name: prefix of notes and errors.

        Raises:
            UserError: a column is missing or has invalid cells, or no run reaches `max_t`.
        """
        if not 0 < efficiency <= 1:
            raise UserError(
                f"the efficiency must be above 0 and at most 1, not {efficiency}",
                "0.9 means a loss of 10 % per doubling of GPUs",
            )
        self.name, self.efficiency = name, efficiency
        self.minimize = spec.goal == "minimize"
        self.notes: list[str] = []
        self.n_params: dict[str, float] = {}
        self._spec, self._max_t = spec, float(spec.early_terminate.max_t)
        frame = self._fixed(frame.reset_index(drop=True))
        names = self._varied(frame)
        frame, configs, keys = self._configs(frame, names)
        self._collect(frame, configs, keys)
        self._encoding = Encoding(spec.search_space, names, self.configs)
        self._matrix = self._encoding.matrix(self.configs)
        self._by_key = {self._encoding.key(params): index for index, params in enumerate(self.configs)}
        self._scales_gpus = "num_gpus" in spec.search_space.parameters and "num_gpus" not in frame
        self._judge()

    # ---- the Source interface ------------------------------------------------------------------------------------------

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:
        """The curve of the nearest configuration. `seed` picks one of several."""
        curves = self._curves[self.lookup(params)]
        curve = curves[seed % len(curves)]
        gpus = params.get("num_gpus", 1) if self._scales_gpus else 1
        if gpus <= 1:  # a share of a GPU computes as much in a GPU second
            return curve
        return Curve(curve.fidelity, curve.value, curve.gpu_seconds / self.efficiency ** math.log2(gpus))

    def final(self, params: Mapping[str, Any]) -> float:
        """The mean final value over the seeds of the nearest configuration; NaN if one has diverged."""
        return float(self.finals[self.lookup(params)])

    def true_rank(self, value: float) -> int:
        """The rank of `value` among the table's configurations; 1 is the best."""
        better = self.finals < value if self.minimize else self.finals > value
        return 1 + int(np.sum(np.isfinite(self.finals) if math.isnan(value) else better))

    def lookup(self, params: Mapping[str, Any], without: Collection[int] = ()) -> int:
        """The index in `configs` of the configuration used for these parameters, which is not one of `without`."""
        exact = self._by_key.get(self.key(params))
        return self._nearest(self._encoding.row(params), without) if exact is None or exact in without else exact

    def key(self, params: Mapping[str, Any]) -> tuple[Token | None, ...]:
        """A key that is equal for parameters that have equal values in the columns of the table."""
        return self._encoding.key(params)

    # ---- reading -------------------------------------------------------------------------------------------------------

    def _fixed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows with the values that the space fixes."""
        for name, parameter in self._spec.search_space.parameters.items():
            if parameter.kind != "constant" or name not in frame or parameter.when:
                continue
            tokens = frame[name].astype(object).map(token)
            kept = tokens == token(parameter.value)
            if not kept.any():
                hint = f"values in the table: {', '.join(str(value) for value in tokens.dropna().unique()[:8]) or 'none'}"
                raise UserError(f"{self.name}: no row has {name} = {parameter.value}, which the search space fixes", hint)
            if not kept.all():
                self.notes.append(
                    f"{self.name}: {kept.sum()} of {len(frame)} rows have {name} = {parameter.value}; the others are ignored"
                )
            frame = frame[kept]
        return frame

    def _varied(self, frame: pd.DataFrame) -> list[str]:
        """The varied parameters with a column."""
        parameters = self._spec.search_space.parameters
        varied = [name for name, parameter in parameters.items() if parameter.kind != "constant"]
        missing = [name for name in varied if name not in frame and name != "num_gpus"]
        if missing:
            columns = list(map(str, frame.columns))
            hints = [
                f"{name}: {did_you_mean(name, columns)}" if len(missing) > 1 else did_you_mean(name, columns)
                for name in missing
            ]
            what = f"the table has no column for the parameter{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
            raise UserError(
                f"{self.name}: {what}", "\n      ".join([*hints, "rename the column, or fix the parameter with value:"])
            )
        if self._spec.metric.name not in frame:
            hint = did_you_mean(self._spec.metric.name, map(str, frame.columns))
            raise UserError(f"{self.name}: the table has no column for the metric {self._spec.metric.name}", hint)
        return [name for name in varied if name in frame]

    def _numbers(self, frame: pd.DataFrame, column: str, amount: bool = False) -> np.ndarray:
        """A column as floats, with NaN for empty cells. An `amount` must be present and not negative."""
        numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(float, na_value=np.nan)
        wrong = np.isnan(numbers) & frame[column].notna().to_numpy()
        if amount:
            wrong |= ~np.isfinite(numbers) | (numbers < 0)
        if wrong.any():
            cell = frame[column].to_numpy(object)[np.argmax(wrong)]
            shown = "an empty cell" if pd.isna(cell) else repr(cell)
            hint = "fill in the cell, or remove the column" if amount else "write numbers, or leave the cell empty"
            raise UserError(
                f"{self.name}: column {column} needs {'numbers from 0' if amount else 'numbers'}, but contains {shown}", hint
            )
        return numbers

    def _configs(self, frame: pd.DataFrame, names: list[str]) -> tuple[pd.DataFrame, list[dict[str, Any]], np.ndarray]:
        """The rows with a fidelity, all configurations, and the index of each row's configuration."""
        space, time_attr = self._spec.search_space, self._spec.early_terminate.time_attr
        if time_attr in frame:
            fidelity = self._numbers(frame, time_attr)
            if (empty := int(np.isnan(fidelity).sum())) > 0:
                self.notes.append(f"{self.name}: ignored, without {time_attr}: {counted(empty, 'row')}")
            frame = frame.assign(**{time_attr: fidelity})[fidelity > 0]
        else:
            near = nearest(time_attr, map(str, frame.columns))
            asked = f" (there is a column {near!r})" if near else ""
            self.notes.append(f"{self.name}: the table has no column {time_attr!r}, so it gives final values only{asked}")
        if frame.empty:
            above = f" with {time_attr} above 0" if time_attr in frame else ""
            raise UserError(f"{self.name}: the table has no usable rows", f"check that it has rows{above}")
        cells: dict[str, list[Any]] = {}
        codes: dict[str, np.ndarray] = {}
        for name in names:
            parameter = space.parameters[name]
            if is_number(parameter):
                self._numbers(frame, name)
            own = {token(choice): choice for choice in parameter.choices() or []}  # as spelled in the space and in `when`
            codes[name], unique = pd.factorize(frame[name].astype(object))
            tokens = [token(value) for value in unique]
            cells[name] = [*(own.get(value, value) for value in tokens), None]  # code -1, the last, is an empty cell
        groups = pd.DataFrame(codes, index=frame.index).groupby(names, sort=False) if names else None
        row_group = groups.ngroup().to_numpy() if groups is not None else np.zeros(len(frame), dtype=int)
        firsts = np.unique(row_group, return_index=True)[1]
        ordered = [(name, parameter) for name, parameter in space.ordered() if name in names or parameter.kind == "constant"]
        found: dict[tuple[Any, ...], int] = {}
        configs: list[dict[str, Any]] = []
        of_group = np.empty(len(firsts), dtype=int)
        for group, row in enumerate(firsts):
            params: dict[str, Any] = {}
            for name, parameter in ordered:
                value = parameter.value if name not in names else cells[name][codes[name][row]]
                if value is not None and parameter.holds(params):
                    params[name] = value
            key = tuple(token(params.get(name)) for name in names)
            of_group[group] = found.setdefault(key, len(found))
            if len(found) > len(configs):
                configs.append(params)
        return frame, configs, of_group[row_group]

    def _cost(self, frame: pd.DataFrame, fidelity: np.ndarray, configs: list[dict[str, Any]], keys: np.ndarray) -> np.ndarray:
        """The GPU seconds of a run up to each row."""
        time_attr = self._spec.early_terminate.time_attr
        if "gpu_seconds" in frame:
            return self._numbers(frame, "gpu_seconds", amount=True)
        if time_attr == "dollars":
            sizes = [size.name for size in self._spec.sizes()]
            names = [str(params.get("model_size")) for params in configs]
            prices = [self._spec.price(name if name in sizes else sizes[0]) for name in names]
            return fidelity * 3600 / np.array(prices, dtype=float)[keys]
        if time_attr == "gpu_seconds":
            return fidelity
        if "flops" in frame:
            return self._numbers(frame, "flops", amount=True) / FLOPS_PER_GPU_SECOND
        if "n_params" in frame:
            tokens = self._numbers(frame, "tokens", amount=True) if "tokens" in frame else fidelity
            return 6 * self._numbers(frame, "n_params", amount=True) * tokens / FLOPS_PER_GPU_SECOND
        return fidelity

    def _collect(self, frame: pd.DataFrame, configs: list[dict[str, Any]], keys: np.ndarray) -> None:
        """Collect the curves that reach `max_t`, by configuration."""
        early, max_t = self._spec.early_terminate, self._max_t
        fidelity = self._numbers(frame, early.time_attr) if early.time_attr in frame else np.full(len(frame), max_t)
        value = self._numbers(frame, self._spec.metric.name)
        rows = pd.DataFrame({"key": keys, "t": fidelity})
        rows["value"] = np.where(np.isfinite(value), value, np.nan)
        rows["cost"] = self._cost(frame, fidelity, configs, keys)
        by = ["key"]
        for column in ("config", "seed"):
            if column in frame and column not in self._spec.search_space.parameters:
                rows[column] = frame[column].to_numpy()
                by.append(column)
        if "config" in by:
            self._check_ids(rows, configs)
        rows["repeat"] = rows.groupby([*by, "t"], dropna=False).cumcount()
        rows["curve"] = rows.groupby([*by, "repeat"], dropna=False).ngroup()
        rows = rows.sort_values(["curve", "t"], kind="stable")
        starts = np.flatnonzero(np.diff(rows["curve"].to_numpy(), prepend=-1))
        table = rows[["t", "value", "cost"]].to_numpy(float)
        owners = rows["key"].to_numpy()[starts]
        curves: dict[int, list[Curve]] = {}
        runs = 0
        for owner, part in zip(owners, np.split(table, starts[1:]), strict=True):
            if (curve := _cut(part, max_t)) is not None:
                curves.setdefault(int(owner), []).append(curve)
                runs += 1
        if not curves:
            low, high = fidelity.min(), fidelity.max()
            reached = f"the largest value is {high:g}" if high < max_t else f"the values range from {low:g} to {high:g}"
            hint = (
                f"set early_terminate.max_t to {high:g} or less"
                if high < max_t
                else "choose a max_t within the rows of some runs"
            )
            raise UserError(f"{self.name}: no run has rows up to max_t ({max_t:g} {early.time_attr}); {reached}", hint)
        kept = sorted(curves)
        self.configs = [configs[index] for index in kept]
        self._curves = [curves[index] for index in kept]
        self.finals = np.array([np.mean([curve.value[-1] for curve in several]) for several in self._curves])
        left_out, short = len(configs) - len(kept), len(starts) - runs
        self.notes.append(
            f"{self.name}: {counted(len(kept), 'configuration')}, {counted(runs, 'run')} up to {early.time_attr} = {max_t:g}"
        )
        if short:
            self.notes.append(
                f"{self.name}: ignored, because they end earlier: {counted(left_out, 'configuration')} and {counted(short, 'run')}"
            )
        if "n_params" in frame and "model_size" in self._spec.search_space.parameters:
            counts = pd.Series(self._numbers(frame, "n_params", amount=True))
            sizes = [configs[key].get("model_size") for key in keys]
            self.n_params = {str(size): float(count) for size, count in counts.groupby(sizes).median().items()}

    def _check_ids(self, rows: pd.DataFrame, configs: list[dict[str, Any]]) -> None:
        """Check that a run has one value of each parameter. A column that changes may be, for example, a schedule's rate."""
        torn = rows.groupby("config")["key"].nunique()
        if (torn > 1).any():
            config = torn.index[int((torn > 1).to_numpy().argmax())]
            one, other = (configs[key] for key in rows.loc[rows["config"] == config, "key"].unique()[:2])
            name = next(name for name in [*one, *other] if one.get(name) != other.get(name))
            hint = "a parameter needs the same value in all rows of a run"
            raise UserError(f"{self.name}: config {config} has {name} = {one.get(name)} and {other.get(name)}", hint)

    # ---- looking up ----------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Compute the best and the median value, the weights of the parameters, and the error of the lookup."""
        finite = self.finals[np.isfinite(self.finals)]
        if not len(finite):
            raise UserError(f"{self.name}: every run has diverged", f"check that {self._spec.metric.name} is the right column")
        worst = math.inf if self.minimize else -math.inf
        losses = np.where(np.isfinite(self.finals), self.finals, worst)
        self.best = float(finite.min() if self.minimize else finite.max())
        self.median = float(np.median(losses))
        diverged = len(self.finals) - len(finite)
        if diverged:
            self.notes.append(f"{self.name}: {counted(diverged, 'configuration')} diverged")
        if not math.isfinite(self.median):
            self.median = float(finite.max() if self.minimize else finite.min())
            self.notes.append(f"{self.name}: at least half of them diverged, so the worst finite value is used as the median")
        place = pd.Series(losses).rank(pct=True).to_numpy()
        self._weights = np.ones(self._matrix.shape[1])
        count = len(self.configs)
        if count >= IMPORTANCE_FROM and self._matrix.shape[1] > 1:
            forest = RandomForestRegressor(100, random_state=0, max_samples=min(count, 2000))
            forest.fit(self._encoding.for_trees(self._matrix), place)
            importance = forest.feature_importances_
            if importance.max() > 0:
                self._weights = np.maximum(importance / importance.max(), FLOOR)
        if count > 1:
            judged = np.unique(np.linspace(0, count - 1, min(count, JUDGED)).astype(int))
            errors = [abs(place[index] - place[self._nearest(self._matrix[index], without=[index])]) for index in judged]
            self.notes.append(
                f"{self.name}: an unrecorded configuration gets the values of the nearest recorded one. If each recorded "
                f"configuration is replaced by its nearest neighbor, the median error is {np.median(errors):.1%} of the ranks"
            )

    def _nearest(self, row: np.ndarray, without: Collection[int] = ()) -> int:
        """The index of the recorded configuration nearest to an encoded one, excluding `without`."""
        words = self._encoding.is_word
        gaps = np.empty_like(self._matrix)
        gaps[:, words] = self._matrix[:, words] != row[words]
        gaps[:, ~words] = np.abs(self._matrix[:, ~words] - row[~words])
        # A number that only one of both has counts as the largest distance; one that neither has counts as equal.
        absent = np.isnan(row)
        gaps[:, absent] = ~np.isnan(self._matrix[:, absent])
        np.nan_to_num(gaps, copy=False, nan=1.0)
        matching = np.asarray(~gaps[:, words].any(axis=1))
        distance = gaps**2 @ self._weights
        if without:
            left_out = list(without)
            matching[left_out], distance[left_out] = False, math.inf
        if matching.any():
            distance[~matching] = math.inf
        return int(np.argmin(distance))


def _cut(rows: np.ndarray, max_t: float) -> Curve | None:
    """The curve of one run's rows (fidelity, value, cost) up to `max_t`; None if they end earlier."""
    fidelity = rows[:, 0]
    if fidelity[0] > max_t * (1 + SAME):
        return None
    if fidelity[-1] < max_t * (1 - SAME):
        if math.isfinite(rows[-1, 1]):
            return None
        rows = np.vstack([rows, [max_t, math.nan, rows[-1, 2] * max_t / fidelity[-1]]])  # the run stays diverged
    kept = rows[rows[:, 0] < max_t * (1 - SAME)]
    end = rows[len(kept)].copy()  # the first row at or beyond the end
    if end[0] > max_t * (1 + SAME):
        t, before = end[0], kept[-1]
        # The value changes about equally with each doubling of fidelity; the cost grows in proportion to it.
        end[1] = before[1] + (end[1] - before[1]) * math.log(max_t / before[0]) / math.log(t / before[0])
        end[2] = before[2] + (end[2] - before[2]) * (max_t - before[0]) / (t - before[0])
    end[0] = max_t
    kept = np.vstack([kept, end])
    return Curve(kept[:, 0].copy(), kept[:, 1].copy(), np.maximum.accumulate(kept[:, 2]))
