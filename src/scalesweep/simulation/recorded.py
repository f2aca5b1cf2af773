"""Learning curves of a finished sweep: what its trials showed, and a model fitted to them for all other parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from scalesweep.errors import UserError, did_you_mean
from scalesweep.record import Record, State, Trial
from scalesweep.simulation.encoding import Encoding, Token
from scalesweep.simulation.source import Curve
from scalesweep.spec import SweepSpec

LEAST = 5  # trials that ran to the end
FOLDS = 5
SAME = 1e-6  # fidelities that differ by less, relatively, are the same


class RecordSource:
    """A `Source` that answers parameters that were run to the end with what they showed, and others with a model.

    The model (extremely randomized trees on the parameters and the logarithm of the fidelity) takes every report of every
    trial in; it never leaves the range of what was recorded. It has no noise: `seed` is not used. A second one tells the
    GPU seconds per unit of fidelity. Values don't depend on the GPU count (the global batch is held), unless the fidelity is
    itself bought with GPUs. Costs are as recorded: a trial's own loading is in them, the start of its workers is not.
    """

    def __init__(self, record: Record, spec: SweepSpec, goal: str, name: str = "record") -> None:
        """
        Args:
            record: of a sweep with the spec's `time_attr` and `max_t`, whose space has every parameter of the spec's.
            goal: `minimize` or `maximize`.
            name: stands before the notes and errors.

        Raises:
            UserError: the record does not fit the spec, or fewer than 5 of its trials ran to the end.
        """
        self.name, self.minimize = name, goal == "minimize"
        self.notes: list[str] = []
        self._record, self._spec = record, spec
        self._metric, self._max_t = spec.metric.name, float(spec.early_terminate.max_t)
        self._check_fits()
        trials = [trial for trial in record.by_number() if trial.reports]
        self._measured = {trial.name: self._measure(trial) for trial in trials}
        ended = [trial for trial in trials if self._ran_to_the_end(trial)]
        if len(ended) < LEAST:
            hint = f"run it with early_terminate: {{type: none}}, or with a larger budget; {LEAST} are needed at least"
            raise UserError(f"{name}: {len(ended)} of {len(record.trials)} trials ran to the end ({self._max_t:g})", hint)
        self.n_params = {entry["name"]: float(entry["n_params"]) for entry in record.manifest["ladder"]}
        self._encoding = self._encode(trials)
        self._exact: dict[tuple[Token | None, ...], Curve] = {}
        for trial in ended:
            self._exact.setdefault(self._encoding.key(trial.params), self._measured[trial.name])
        self.finals = np.array([self._measured[trial.name].value[-1] for trial in ended])
        self.best = float(self.finals.min() if self.minimize else self.finals.max())
        self.median = float(np.median(self.finals))
        self._grid = self._fidelities()
        self._worst = self._worst_value()
        self._modelled: dict[tuple[Token | None, ...], Curve] = {}
        self.notes.append(f"{name}: {len(ended)} of {len(record.trials)} trials ran to the end and are known exactly")
        self._cross_validate(trials, ended)
        self._value_model, self._cost_model = self._fit(trials)

    # ---- what a source offers ------------------------------------------------------------------------------------------

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:  # noqa: ARG002 - there is no noise to draw
        """What a trial with these parameters showed, or what the model makes of them."""
        key = self._encoding.key(params)
        if (known := self._exact.get(key)) is not None:
            return known
        if key not in self._modelled:
            value = _predict(self._value_model, self._inputs(params, self._grid, cost=False))
            rate = np.exp(_predict(self._cost_model, self._inputs(params, self._grid, cost=True)))
            self._modelled[key] = Curve(self._grid, value, np.maximum.accumulate(rate * self._grid))
        return self._modelled[key]

    def final(self, params: Mapping[str, Any]) -> float:
        return float(self.curve(params, 0).value[-1])

    def true_rank(self, value: float) -> int:
        """The place of `value` among the trials that ran to the end."""
        better = self.finals < value if self.minimize else self.finals > value
        return 1 + (len(self.finals) if math.isnan(value) else int(better.sum()))

    # ---- reading -------------------------------------------------------------------------------------------------------

    def _check_fits(self) -> None:
        manifest, early = self._record.manifest, self._spec.early_terminate
        given = {"time_attr": early.time_attr, "max_t": early.max_t}
        for key, value in given.items():
            if manifest[key] != value:
                message = f"{self.name}: its trials count {key} {manifest[key]}, and the sweep {value}"
                raise UserError(message, f"set early_terminate.{key} to {manifest[key]}: schedules depend on it")
        searched = manifest["spec"].get("search_space") or {}
        known = set(searched.get("parameters", {})).union(*(trial.params for trial in self._record.trials.values()))
        for name, parameter in self._spec.search_space.parameters.items():
            if name not in known and parameter.kind != "constant":
                hint = f"{did_you_mean(name, known)}; or fix it (value:)"
                raise UserError(f"{self.name}: its space has no parameter {name}", hint)
            had = {str(trial.config[name]) for trial in self._record.trials.values() if name in trial.config}
            if name not in known and had - {str(parameter.value)}:
                self.notes.append(f"{self.name}: its trials had {name} = {', '.join(sorted(had))}, not {parameter.value}")
        self._known = known
        metrics = {metric for trial in self._record.trials.values() for report in trial.reports for metric in report.metrics}
        if metrics and self._metric not in metrics:
            raise UserError(f"{self.name}: it has no metric {self._metric}", did_you_mean(self._metric, metrics))

    def _measure(self, trial: Trial) -> Curve:
        """The trial's reports as a curve."""
        # A trial that went on after a failure may have reported a fidelity twice: the later one counts.
        reports = [report for _, report in sorted({report.fidelity: report for report in trial.reports}.items())]
        fidelity = np.minimum([report.fidelity for report in reports], self._max_t)
        if fidelity[-1] > self._max_t * (1 - SAME):
            fidelity[-1] = self._max_t
        value = np.array([float(report.metrics.get(self._metric, math.nan)) for report in reports])
        value[~np.isfinite(value)] = math.nan
        cost = np.maximum.accumulate([report.gpu_seconds for report in reports])
        return Curve(fidelity, value, cost)

    def _ran_to_the_end(self, trial: Trial) -> bool:
        curve = self._measured[trial.name]
        return trial.state is State.COMPLETE and curve.fidelity[-1] == self._max_t and math.isfinite(curve.value[-1])

    def _encode(self, trials: Sequence[Trial]) -> Encoding:
        names = [name for name in self._spec.search_space.parameters if name in self._known]
        encoding = Encoding(self._spec.search_space, names, [trial.params for trial in trials])
        bought = self._spec.early_terminate.time_attr in ("gpu_seconds", "dollars")
        self._of_value = np.array([bought or name != "num_gpus" for name in names], dtype=bool)
        return encoding

    def _fidelities(self) -> np.ndarray:
        """Where the curves of other parameters have reports: where the trials had theirs."""
        seen = np.unique(np.concatenate([curve.fidelity for curve in self._measured.values()]))
        most = max(len(curve.fidelity) for curve in self._measured.values())
        if len(seen) > 2 * most:  # no common grid: fidelities that are measured differ from trial to trial
            seen = np.unique(np.quantile(seen, np.linspace(0, 1, most + 1)[1:]))
        return seen

    def _worst_value(self) -> float:
        values = np.concatenate([curve.value for curve in self._measured.values()])
        return float(np.nanmax(values) if self.minimize else np.nanmin(values))

    # ---- the models ----------------------------------------------------------------------------------------------------

    def _inputs(self, params: Mapping[str, Any], fidelity: np.ndarray, cost: bool) -> np.ndarray:
        row = self._encoding.for_trees(self._encoding.row(params))
        row = row if cost else row[self._of_value]
        return np.column_stack([np.tile(row, (len(fidelity), 1)), np.log(fidelity / self._max_t)])

    def _fit(self, trials: Sequence[Trial]) -> tuple[ExtraTreesRegressor, ExtraTreesRegressor]:
        """Models of the value and of the log of GPU seconds per unit of fidelity."""
        inputs: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        values, rates = [], []
        for trial in trials:
            curve = self._measured[trial.name]
            fidelity, value = curve.fidelity, np.where(np.isnan(curve.value), self._worst, curve.value)
            inputs[1].append(self._inputs(trial.params, fidelity, cost=True))
            rates.append(np.log(np.maximum(curve.gpu_seconds, 1e-9) / fidelity))
            if trial.stop_reason == "diverged":  # as bad as can be from there on, or it would look unfinished
                rest = self._grid[self._grid > fidelity[-1]]
                fidelity, value = np.append(fidelity, rest), np.append(value, np.full(len(rest), self._worst))
            inputs[0].append(self._inputs(trial.params, fidelity, cost=False))
            values.append(value)
        targets = (np.concatenate(values), np.concatenate(rates))
        models = [
            ExtraTreesRegressor(100, random_state=0).fit(np.concatenate(x), y) for x, y in zip(inputs, targets, strict=True)
        ]
        return models[0], models[1]

    def _cross_validate(self, trials: Sequence[Trial], ended: Sequence[Trial]) -> None:
        """The models' errors at full fidelity, on trials of which they have seen no report."""
        end = np.array([self._max_t])
        fold = np.random.default_rng(0).permutation(len(ended)) % FOLDS
        values, costs = np.empty(len(ended)), np.empty(len(ended))
        for k in range(FOLDS):
            held = {ended[index].name for index in np.flatnonzero(fold == k).tolist()}
            value_model, cost_model = self._fit([trial for trial in trials if trial.name not in held])
            for index in np.flatnonzero(fold == k).tolist():
                params = ended[index].params
                values[index] = _predict(value_model, self._inputs(params, end, cost=False))[0]
                costs[index] = _predict(cost_model, self._inputs(params, end, cost=True))[0]
        true_costs = np.log([self._measured[trial.name].gpu_seconds[-1] / self._max_t for trial in ended])
        spread = float(self.finals.std()) or 1.0
        self.error = float(np.sqrt(np.mean((values - self.finals) ** 2))) / spread
        self.rank_correlation = _rank_correlation(values, self.finals)
        self.cost_error = float(np.exp(np.median(np.abs(costs - true_costs))) - 1)
        self.notes.append(
            f"{self.name}: other parameters are answered by a model. On trials held out ({FOLDS} folds) its error at full "
            f"fidelity is {self.error:.2f} of the spread of the final values (RMSE ÷ standard deviation; 1 is a guess of the "
            f"mean), its rank correlation {self.rank_correlation:.2f}; the cost is off by {self.cost_error:.0%} in the median"
        )


def _predict(model: ExtraTreesRegressor, inputs: np.ndarray) -> np.ndarray:
    """What `model.predict` says in a tenth of the time: it checks its input and starts threads, which a few rows don't repay."""
    single = inputs.astype(np.float32)  # what trees compare
    return np.mean([tree.tree_.predict(single)[:, 0] for tree in model.estimators_], axis=0)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, with mean ranks for ties; 0 where one of both does not vary."""
    ranks = [(np.searchsorted(np.sort(x), x, "left") + np.searchsorted(np.sort(x), x, "right")) / 2 for x in (one, other)]
    if min(np.std(rank) for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
