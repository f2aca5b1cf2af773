"""Learning curves of a finished sweep: those of its trials, and a model fitted to them for all other parameters."""

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

LEAST = 5  # fewest trials that ran to the end
FOLDS = 5
SAME = 1e-6  # fidelities with a smaller relative difference are equal


class RecordSource:
    """A `Source` that returns the recorded curves of trials that ran to the end, and modelled curves for other parameters.

    The model (extremely randomized trees on the parameters and the logarithm of the fidelity) is fitted to every report of
    every trial, and never leaves the recorded range. It has no noise, so `seed` is not used. A second model predicts the GPU
    seconds per unit of fidelity. Values do not depend on the GPU count (the global batch is constant), unless the fidelity
    itself is counted in GPU time. Costs are as recorded: they include a trial's loading, but not the start of its workers.
    """

    def __init__(self, record: Record, spec: SweepSpec, name: str = "record") -> None:
        """
        Args:
            record: of a sweep with the same `time_attr` and `max_t`, whose space has every parameter of the spec's.
            name: prefix of notes and errors.

        Raises:
            UserError: the record does not fit the spec, or fewer than 5 of its trials ran to the end.
        """
        self.name = name
        self.notes: list[str] = []
        self._record, self._spec = record, spec
        self._metric, self._max_t = spec.metric.name, float(spec.early_terminate.max_t)
        self._check_fits()
        self.minimize = spec.goal == "minimize"
        trials = [trial for trial in record.by_number() if trial.reports]
        self._measured = {trial.name: self._measure(trial) for trial in trials}
        ended = [trial for trial in trials if self._ran_to_the_end(trial)]
        if len(ended) < LEAST:
            hint = "run that sweep with early_terminate: {type: none}, or with a larger budget"
            ran = f"{len(ended)} of {len(record.trials)} trials ran to the end ({self._max_t:g})"
            raise UserError(f"{name}: {ran}, and at least {LEAST} are needed", hint)
        self.n_params = {name: float(count) for name, count in record.n_params.items()}
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
        self.notes.append(f"{name}: {len(ended)} of {len(record.trials)} trials ran to the end; their curves are exact")
        self._cross_validate(trials, ended)
        self._value_model, self._cost_model = self._fit(trials)

    # ---- the Source interface ------------------------------------------------------------------------------------------

    def curve(self, params: Mapping[str, Any], seed: int) -> Curve:  # noqa: ARG002 - there is no noise to draw
        """The recorded curve of a trial with these parameters, or the modelled one."""
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
        """The rank of `value` among the trials that ran to the end; 1 is the best."""
        better = self.finals < value if self.minimize else self.finals > value
        return 1 + (len(self.finals) if math.isnan(value) else int(better.sum()))

    # ---- reading -------------------------------------------------------------------------------------------------------

    def _check_fits(self) -> None:
        manifest, early = self._record.manifest, self._spec.early_terminate
        given = {"time_attr": early.time_attr, "max_t": early.max_t}
        for key, value in given.items():
            if manifest[key] != value:
                message = f"{self.name}: its {key} is {manifest[key]}, but that of the sweep is {value}"
                raise UserError(message, f"set early_terminate.{key} to {manifest[key]}, because schedules depend on it")
        known = set(manifest.parameters).union(*(trial.params for trial in self._record.trials.values()))
        for name, parameter in self._spec.search_space.parameters.items():
            if name not in known and parameter.kind != "constant":
                hint = f"{did_you_mean(name, known)}; or fix the parameter with value:"
                raise UserError(f"{self.name}: its search space has no parameter {name}", hint)
            had = {str(trial.config[name]) for trial in self._record.trials.values() if name in trial.config}
            if name not in known and had - {str(parameter.value)}:
                self.notes.append(f"{self.name}: its trials had {name} = {', '.join(sorted(had))}, not {parameter.value}")
        self._known = known
        metrics = {metric for trial in self._record.trials.values() for report in trial.reports for metric in report.metrics}
        if metrics and self._metric not in metrics:
            raise UserError(f"{self.name}: the record has no metric {self._metric}", did_you_mean(self._metric, metrics))

    def _measure(self, trial: Trial) -> Curve:
        """The curve of a trial's reports."""
        # A trial that continued after a failure may have reported a fidelity twice; the later report counts.
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
        """The fidelities of modelled reports, which are those of the recorded reports."""
        seen = np.unique(np.concatenate([curve.fidelity for curve in self._measured.values()]))
        most = max(len(curve.fidelity) for curve in self._measured.values())
        if len(seen) > 2 * most:  # no common grid: measured fidelities differ between trials
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
        """Fit the models of the value and of the logarithm of GPU seconds per unit of fidelity."""
        inputs: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        values, rates = [], []
        for trial in trials:
            curve = self._measured[trial.name]
            fidelity, value = curve.fidelity, np.where(np.isnan(curve.value), self._worst, curve.value)
            inputs[1].append(self._inputs(trial.params, fidelity, cost=True))
            rates.append(np.log(np.maximum(curve.gpu_seconds, 1e-9) / fidelity))
            if trial.stop_reason == "diverged":  # the worst value from there on; otherwise the trial would look unfinished
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
        """Measure the models' errors at full fidelity on held-out trials."""
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
            f"{self.name}: a model predicts all other configurations. On held-out trials ({FOLDS} folds) its error at full "
            f"fidelity is {self.error:.2f} (RMSE ÷ standard deviation of the final values; guessing the mean gives 1), and its "
            f"rank correlation is {self.rank_correlation:.2f}. The median error of the cost is {self.cost_error:.0%}"
        )


def _predict(model: ExtraTreesRegressor, inputs: np.ndarray) -> np.ndarray:
    """The result of `model.predict` in a tenth of the time, without its input checks and threads, which a few rows don't need."""
    single = inputs.astype(np.float32)  # the type that trees compare
    return np.mean([tree.tree_.predict(single)[:, 0] for tree in model.estimators_], axis=0)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation, with mean ranks for ties; 0 if one side does not vary."""
    ranks = [(np.searchsorted(np.sort(x), x, "left") + np.searchsorted(np.sort(x), x, "right")) / 2 for x in (one, other)]
    if min(np.std(rank) for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
