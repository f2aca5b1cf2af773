"""The Python interface: loads, plans and launches a sweep with the same objects as the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesweep.errors import UserError, check_interpreter, command
from scalesweep.spec import SweepSpec, load_sweep, sweep_from_dict
from scalesweep.storage import UrlPath, place

if TYPE_CHECKING:
    from scalesweep.record import Record
    from scalesweep.report.progress import Watch
    from scalesweep.report.sentences import Finding
    from scalesweep.report.wandb.publish import Published
    from scalesweep.scaling.analysis import Analysis
    from scalesweep.scaling.budget import BudgetPlan
    from scalesweep.scaling.choice import Choice
    from scalesweep.scaling.sizes import Counting
    from scalesweep.sweep.preflight import Plan


class Sweep:
    """A checked sweep that can be planned and launched.

    >>> sweep = Sweep.load("sweeps/quickstart.yaml", ["budget.run_cap=12"])
    >>> record = sweep.launch()  # doctest: +SKIP
    """

    def __init__(self, spec: SweepSpec, base: Path | None = None) -> None:
        """A relative path in the sweep starts at `base` if it exists there, else at the working folder. `base` is the sweep
        file's folder; default: the working folder."""
        check_interpreter()
        self.spec = spec
        self.base = base or Path.cwd()

    def __repr__(self) -> str:
        return f"<Sweep {self.spec.name}: {self.spec.task}, {len(self.spec.search_space.parameters)} parameters>"

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
        """Load a sweep file. `overrides` are `KEY=VALUE` strings, as for `--set`. Raises SpecError."""
        from scalesweep.sweep.preflight import static_problems

        return cls(load_sweep(path, overrides, also=lambda spec: static_problems(spec, None)), Path(path).parent)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Sweep:
        """Build a sweep from a mapping with the keys of a sweep file and the search space in it. Raises SpecError."""
        return cls(sweep_from_dict(data))

    def plan(self, num_gpus: int | None = None, cluster: str | Path | None = None) -> Plan:
        """Check models, data and resources, and bound the sweep's cost. Raises SpecError, OutsideError.

        Args:
            num_gpus: GPUs of a local cluster; default: those of this machine.
            cluster: file of the cluster that the sweep is meant for, in place of this machine.
        """
        from scalesweep.sweep.launch import local_slots

        return self._plan(None if cluster else local_slots(self.spec, num_gpus), cluster)

    def _plan(self, slots: int | None, cluster: str | Path | None) -> Plan:
        from scalesweep.sweep.cluster import workers_by_file
        from scalesweep.sweep.preflight import preflight

        if cluster is not None:
            slots = workers_by_file(self.spec, Path(cluster))
        return preflight(self.spec, slots, self.base)

    def launch(
        self,
        run_dir: str | Path | UrlPath | None = None,
        address: str | None = None,
        num_gpus: int | None = None,
        cluster: str | Path | None = None,
        progress: bool | Watch = True,
    ) -> Record:
        """Run the sweep and return its record.

        Works in a notebook and in any thread. Ctrl-C stops the sweep cleanly in the main thread only.

        Args:
            run_dir: run folder to create, a path or a URL; default: `runs/NAME`.
            address: 'auto' or HOST:PORT of a running Ray cluster; default: start a local one.
            num_gpus: GPUs of the local cluster; default: those of this machine.
            cluster: file of the cluster at `address`; checks that it can hold every trial.
            progress: True shows the sweep on stderr, False shows nothing. A function is called with each event (a mapping, as in
                the record) and the record after it. An error that it raises ends the session; `resume` continues the sweep.

        Raises:
            SpecError, OutsideError: as `plan`.
            UserError: if the run folder already holds a sweep.
            NothingUsableError: if the sweep ended without a usable trial.
        """
        from scalesweep.report.progress import displays
        from scalesweep.sweep.launch import check_unused, launch, local_slots

        folder = place(run_dir or Path("runs") / self.spec.name)
        check_unused(folder)  # before models and data are read
        plan = self._plan(None if address else local_slots(self.spec, num_gpus), cluster)
        return launch(plan, folder, address, num_gpus, displays(progress))


def resume(
    run_dir: str | Path | UrlPath,
    overrides: Sequence[str] = (),
    address: str | None = None,
    num_gpus: int | None = None,
    progress: bool | Watch = True,
) -> Record:
    """Continue an interrupted sweep, or extend one that has ended, and return its record.

    Args:
        run_dir: run folder of the sweep, a path or a URL.
        overrides: budgets and limits to change, as `KEY=VALUE`: `["budget.run_cap=60"]`.
        address: as for `Sweep.launch`.
        num_gpus: as for `Sweep.launch`.
        progress: as for `Sweep.launch`.

    Raises:
        UserError: if the run folder is missing or in use, its budget is spent, or another setting would change.
        SpecError: if a value is not allowed.
        NothingUsableError: if the sweep ended without a usable trial.
    """
    from scalesweep.report.progress import displays
    from scalesweep.sweep import launch

    sinks = None if progress is True else displays(progress)  # None also shows which models and data the folder names
    return launch.resume(place(run_dir), address, num_gpus, sinks, overrides)


def confirm(
    run_dir: str | Path | UrlPath,
    most: int | None = None,
    seeds: int = 2,
    address: str | None = None,
    num_gpus: int | None = None,
    progress: bool | Watch = True,
) -> Record:
    """Train the leaders of an ended sweep again on new seeds, as `scalesweep promote --confirm` does, and return its record.

    `promote` then takes the best mean over all seeds. A second call trains only what is missing. `record.confirmation` is None
    if nothing was confirmed.

    Args:
        run_dir: run folder of the sweep, a path or a URL.
        most: configurations to compare, at most; default: those that `promote` would confirm by default, often none.
        seeds: new seeds of each, at most.
        address: as for `Sweep.launch`.
        num_gpus: as for `Sweep.launch`.
        progress: as for `Sweep.launch`.

    Raises:
        UserError: if the run folder is missing or in use, or its sweep has not ended.
        SpecError: if the cluster can't hold the sweep's trials.
    """
    from scalesweep.report.progress import displays
    from scalesweep.search.confirm import plan
    from scalesweep.sweep import launch

    record = read_record(run_dir)
    if not (record.status == "ended" or record.confirming):
        raise UserError(f"the sweep in {run_dir} has not ended", f"finish it: {command('resume', run_dir)}")
    planned = plan(record, most, seeds)
    if not planned.trials:
        return record
    sinks = None if progress is True else displays(progress)
    launch.resume(place(run_dir), address, num_gpus, sinks, confirm=(planned.trials, planned.seeds))
    return read_record(run_dir)


def adapt(
    export: str | Path,
    data: str | Path,
    run_dir: str | Path | None = None,
    better_by: float = 0.0,
    worse_by: float = 0.02,
    sweep: str | Path | None = None,
    max_t: float | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    num_gpus: int | None = None,
    progress: bool | Watch = True,
) -> dict[str, Any]:
    """Adapt a promoted model to new data, as `scalesweep adapt` does. The same call continues after an interruption.

    Returns what `promote` returns. Its `adapted` compares both models on the new and on the old test split.

    Args:
        export: folder that `promote` wrote.
        data: the new data: a file, a folder of data files, or what else `data.path` names.
        run_dir: run folder of the adaptation; default: `runs/NAME-adapted`.
        better_by: least improvement on the new test split, in units of the sweep's metric.
        worse_by: most worsening on the old test split.
        sweep: run folder of the sweep that chose the model; default: the one that `export` lies in.
        max_t: length of the final run; default: as `promote` chooses it.
        overrides: changes of the sweep that is written, as `KEY=VALUE`.
        address: as for `Sweep.launch`.
        num_gpus: as for `Sweep.launch`.
        progress: as for `Sweep.launch`.

    Raises:
        NothingUsableError: nothing is better, and the old model stays.
        SpecError, UserError, OutsideError: as `Sweep.launch` and `promote`, or if `export` holds no promoted model.
    """
    from scalesweep.promotion.adapt import adapt as adapted
    from scalesweep.promotion.adapt import adaptation, in_place
    from scalesweep.promotion.promote import promote

    made = adaptation(export, data, sweep, better_by, worse_by)
    folder = Path(run_dir or Path("runs") / made["name"])

    def run(file: Path, run_dir: Path, resumes: bool) -> None:
        if resumes:
            resume(run_dir, (), address, num_gpus, progress)
        else:
            Sweep.load(file).launch(run_dir, address, num_gpus, progress=progress)

    return adapted(
        in_place(made, folder, overrides), folder, run, lambda at: promote(at, max_t=max_t, address=address), say=lambda _: None
    )


def findings(run: str | Path | UrlPath | Record) -> list[Finding]:
    """The findings of a sweep in words with numbers, as `scalesweep report` prints them. Each has `about` (its subject in one
    word), `text` (its sentences) and `facts` (the same as plain values).

    Args:
        run: run folder of the sweep, a path or a URL; or its record.

    Raises:
        UserError, OutsideError: as `read_record`.
    """
    from scalesweep.record import Record
    from scalesweep.report.sentences import paragraph

    return paragraph(run if isinstance(run, Record) else read_record(run))


def write_page(runs: Sequence[str | Path | UrlPath | Record], path: str | Path | UrlPath) -> None:
    """Write the page of one or several sweeps, as `scalesweep report -o` does: one HTML file that needs no server.

    Args:
        runs: run folders or records.
        path: file to write, a path or a URL; an existing one is replaced.

    Raises:
        UserError, OutsideError: as `read_record`, or if `path` is no place for a file.
    """
    from scalesweep.record import Record
    from scalesweep.report.page.write import write_page as write

    write([run if isinstance(run, Record) else read_record(run) for run in runs], place(path))


def publish(run_dir: str | Path | UrlPath, offline: bool = False, say: Callable[[str], None] = print) -> Published:
    """Make the W&B runs of a sweep from its record, as `scalesweep publish` does. A second call changes nothing.

    Returns an object with `runs` (of the sweep), `written` (those that W&B lacked, or that had changed) and `place`.

    Args:
        run_dir: run folder of the sweep, a path or a URL.
        offline: write the runs to files for `wandb sync`; earlier files are replaced.
        say: called with remarks, such as the reason why a server failed.

    Raises:
        UserError, OutsideError: as `read_record`, or if nobody is logged in, or the server failed.
    """
    from scalesweep.report.wandb.publish import publish as made
    from scalesweep.search.pick import with_forecasts

    return made(place(run_dir), offline, with_forecasts, say)


def fit_scaling(
    runs: Sequence[str | Path | UrlPath | Record] | Mapping[str, Sequence[Any]],
    law: str | None = None,
    at: Sequence[Mapping[str, float]] = (),
    metric: str | None = None,
    n_params: Counting | None = None,
) -> Analysis:
    """Fit a scaling law to finished sweeps or to a table, as `scalesweep scaling` does, and predict.

    Returns an object with `laws` (each with `parameters` and their intervals), `predictions`, `trends`, `points`, and `refused` in
    place of laws where the points can't carry one.

    Args:
        runs: run folders or records; or a table of runs, such as a pandas DataFrame.
        law: name of the law; default: those that suit the points.
        at: places to predict: `[{"n_params": 7e9, "tokens": 1e12}]`.
        metric: column of the metric in a table.
        n_params: parameters that count in sweeps: `non-embedding` or `total`; default: those without embeddings, where the records
            know them.

    Raises:
        UserError, OutsideError: as `read_record`, for sweeps that can't be compared, or for a table or a place that lacks something.
    """
    from scalesweep.record import Record
    from scalesweep.scaling.analysis import analyse
    from scalesweep.scaling.recorded import points_of_records
    from scalesweep.scaling.tables import points_of_table

    if isinstance(runs, Sequence):
        records = [run if isinstance(run, Record) else read_record(run) for run in runs]
        return analyse(points_of_records(records, n_params), law, at)
    columns = {str(name): list(runs[name]) for name in runs.keys()}  # noqa: SIM118 - a DataFrame's rows are no names
    return analyse(points_of_table(columns, metric=metric), law, at)


def plan_budget(
    runs: Sequence[str | Path | UrlPath | Record],
    gpu_hours: float | None = None,
    dollars: float | None = None,
    deadline: float | None = None,
    sizes: Mapping[str, float] | None = None,
    prices: float | Mapping[str, float] | None = None,
    max_gpus: int | None = None,
) -> BudgetPlan:
    """Choose the run that a budget should buy, as `scalesweep plan --from` does.

    Returns an object with `choice` (its `size`, `tokens`, `num_gpus`, costs and `predicted`), `cheapest`, `frontier`, `settings`, and
    `first`: another sweep in place of a choice where the fit can't tell.

    Args:
        runs: run folders or records of finished sweeps.
        gpu_hours: most GPU hours of the run.
        dollars: most dollars of the run.
        deadline: most seconds of wall-clock of the run.
        sizes: sizes outside the ladders, with their parameters: `{"70b": 7e10}`.
        prices: dollars per GPU hour, or those of each accelerator type; default: those of the sweeps.
        max_gpus: most GPUs of the run; default: the most that a trial had.

    Raises:
        UserError, OutsideError: as `read_record`, or the budget buys no run.
    """
    from scalesweep.record import Record
    from scalesweep.scaling.analysis import analyse
    from scalesweep.scaling.budget import Budget, Other, plan_budget
    from scalesweep.scaling.recorded import points_of_records

    records = [run if isinstance(run, Record) else read_record(run) for run in runs]
    others = [Other(name, n_params) for name, n_params in (sizes or {}).items()]
    priced = dict(prices) if isinstance(prices, Mapping) else None if prices is None else {"default": float(prices)}
    budget = Budget(gpu_hours, dollars, deadline)
    return plan_budget(records, analyse(points_of_records(records)), budget, others, priced, max_gpus)


def choose(
    source: Sweep | str | Path | UrlPath | Record | Mapping[str, Sequence[Any]],
    share: float = 1 / 8,
    subsets: int = 6,
    rates: int = 3,
    examples: float | None = None,
    metric: str | None = None,
    run_dir: str | Path | UrlPath | None = None,
    address: str | None = None,
    num_gpus: int | None = None,
    progress: bool | Watch = True,
) -> Choice:
    """Choose the checkpoint to start a task from, as `scalesweep choose` does.

    Returns an object with `ranking` (each with `name`, `predicted` and its interval, `power`, `tied`, `subsets`), `best`, `tied`, and
    `refused` in place of a ranking where the trainings can't carry a choice.

    Args:
        source: a sweep, whose checkpoints are trained on subsets of its data; the run folder or the record of such trainings; or a
            table with the columns `model`, `examples` and the metric, such as a pandas DataFrame.
        share: of a sweep's train split, the largest subset.
        subsets: of a sweep, each half as large as the next; at least six.
        rates: learning rates of each checkpoint and subset of a sweep, at most.
        examples: size of all data, for a table; default: eight times the largest subset.
        metric: column of the metric in a table.
        run_dir: run folder to create for a sweep, a path or a URL; default: `runs/NAME-choose`.
        address: as for `Sweep.launch`.
        num_gpus: as for `Sweep.launch`.
        progress: as for `Sweep.launch`.

    Raises:
        SpecError, OutsideError, NothingUsableError: as `Sweep.launch`, or the choice needs more than the sweep's budget.
        UserError: as `read_record`, or the subsets are too small, or the table lacks something.
    """
    from scalesweep.record import Record
    from scalesweep.scaling.choice import choice_of_record, choose_among

    if isinstance(source, Sweep):
        from scalesweep.sweep.choosing import check_budget, design, parts

        made = design(source.spec, share, subsets, rates)
        sweep = Sweep(made.spec, source.base)
        check_budget(source.spec, parts(made, sweep.plan(num_gpus)))
        source = sweep.launch(run_dir, address, num_gpus, progress=progress)
    if isinstance(source, Record | str | Path | UrlPath):
        return choice_of_record(source if isinstance(source, Record) else read_record(source))
    columns = {str(name): list(source[name]) for name in source.keys()}  # noqa: SIM118 - a DataFrame's rows are no names
    return choose_among(columns, metric=metric, whole=examples)


def read_record(run_dir: str | Path | UrlPath) -> Record:
    """Read the record of a running or finished sweep, with the forecasts of its trials where these drive the sweep.

    Raises:
        UserError: if `run_dir` is not a run folder, has another record version, or contains a line that can't be read.
        OutsideError: if the object store can't be read.
    """
    from scalesweep.record.store import read_record as read
    from scalesweep.search.pick import with_forecasts

    return with_forecasts(read(run_dir))
