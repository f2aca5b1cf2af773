"""The sweep that adapts a promoted model to new data, as a sweep file: from the model's provenance and the sweep that chose it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalesweep.data.files import suffixes
from scalesweep.data.folder import copy_rows, data_files
from scalesweep.errors import OutsideError, ScalesweepError, UserError
from scalesweep.promotion.adapted import REFUSED, RefusedError
from scalesweep.promotion.target import write_yaml
from scalesweep.record import Record, read_record
from scalesweep.record.exports import PROVENANCE, read_provenance
from scalesweep.record.ranking import rank
from scalesweep.record.store import began
from scalesweep.search.pick import with_forecasts
from scalesweep.spec import SweepSpec, sweep_from_dict
from scalesweep.spec.sweep import DataSpec, DepthLadder, EarlierData
from scalesweep.storage import place

Run = Callable[[Path, Path, bool], object]
SWEEP_FILE, ROWS = "adapt.yaml", "new.parquet"  # in the run folder
SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}  # of new data, where the old ones were split by counts or names
REHEARSAL = {"min": 0.0, "max": 0.75}
LEADERS = 3  # settings of the sweep that chose the model, which are tried first
OF_A_SOURCE = ("path", "name", "revision", "delimiter", "quoting", "labels", "splits", "earlier")  # of the old data alone


def chosen_by(export: Path, provenance: Mapping[str, Any], sweep: Path | None) -> Record | None:
    """Return the record of the sweep that chose a promoted model; None if it is not there any more.

    Args:
        sweep: its run folder; by default the one that the model's folder lies in.

    Raises:
        UserError: `sweep` holds another sweep, or none.
    """
    place_of = sweep or export.resolve().parent.parent
    try:
        record = read_record(place(place_of))
    except ScalesweepError:
        if sweep is not None:
            raise
        return None
    if record.manifest.get("id") == provenance["sweep"]["id"]:
        return with_forecasts(record)
    if sweep is not None:
        raise UserError(f"{sweep} is not the sweep that chose {export}", f"that one is called {provenance['sweep']['name']}")
    return None


def adaptation(
    export: Path | str,
    data: Path | str,
    sweep: Path | str | None = None,
    better_by: float | None = None,
    worse_by: float | None = None,
) -> dict[str, Any]:
    """Return the sweep that adapts a promoted model, as a mapping with the keys of a sweep file.

    Args:
        export: folder that `promote` wrote.
        data: the new data, as `data.path` names them.
        sweep: run folder of the sweep that chose the model; by default the one that its folder lies in.
        better_by: least improvement on the new test split, in units of the metric; default: any that is not noise.
        worse_by: most worsening on the old test split; default: 0.02.

    Raises:
        UserError: `export` holds no promoted model, its sweep is unknown, or `sweep` is another one.
    """
    export = Path(export).resolve()
    provenance = read_provenance(export)
    record = chosen_by(export, provenance, None if sweep is None else Path(sweep))
    written = provenance.get("spec") or (record.manifest.spec if record is not None else None)
    if written is None:
        hint = "name its run folder: --sweep RUN_DIR"
        raise UserError(f"{export} does not have the search space that it was chosen from: an older version wrote it", hint)
    spec = sweep_from_dict({**written, "adapt": None})
    old = {name: value for name, value in provenance["data"]["source"].items() if name != "trained_on"}
    before = _plain({name: value for name, value in old.items() if value is not None})
    made = json.loads(spec.model_dump_json(exclude_defaults=True, exclude={"search_space", "adapt"}))
    ladder = _ladder(export, provenance, spec)
    splits = old["splits"] if all(isinstance(size, float) for size in old["splits"].values()) else SPLITS
    keys = {name: value for name, value in made["data"].items() if name not in OF_A_SOURCE}
    earlier = {
        **before,
        "trained_on": [name for name in provenance["final_run"]["train_on"] if name in ("train", "validation")],
    }
    names = (
        [str(provenance["final_run"]["config"]["model_size"])]
        if isinstance(ladder, list)
        else [f"L{n}" for n in ladder["layers"]]
    )
    space = _space(spec, names)
    search = {name: value for name, value in made.get("search", {}).items() if name not in ("warm_start", "points_to_evaluate")}
    margins = {name: value for name, value in (("better_by", better_by), ("worse_by", worse_by)) if value is not None}
    name = spec.name if spec.name.endswith("-adapted") else f"{spec.name}-adapted"
    return {
        **made,
        "name": name,
        "data": {"path": str(data), **keys, "splits": dict(splits), "earlier": earlier},
        "ladder": ladder,
        "search_space": {"parameters": space},
        "search": {**search, "points_to_evaluate": _points(provenance, record, space, names)},
        "adapt": {"model": str(export), **margins},
    }


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of some data without those that are as they are by default."""
    dumped: dict[str, Any] = json.loads(EarlierData(**data).model_dump_json(exclude_defaults=True, exclude={"earlier"}))
    return dumped | ({"earlier": _plain(data["earlier"])} if data.get("earlier") else {})


def _ladder(export: Path, provenance: Mapping[str, Any], spec: SweepSpec) -> Any:
    """The promoted model as a ladder: cut at the depths of the old ladder, if that was one checkpoint cut by depth."""
    size = next(size for size in spec.sizes() if size.name == provenance["final_run"]["config"]["model_size"])
    flags = size.model_dump(exclude={"name", "model", "layers", "revision", "keep_head", "allow_pickle"}, exclude_defaults=True)
    base = {"model": str(export), **flags, "keep_head": True}
    if isinstance(spec.ladder, DepthLadder) and size.layers is not None:
        return {**base, "layers": [depth for depth in spec.ladder.layers if depth <= size.layers]}
    return [{"name": size.name, **base}]


def _space(spec: SweepSpec, names: list[str]) -> dict[str, Any]:
    """The old search space, with the sizes that there are now and the share of old data."""
    found: dict[str, Any] = json.loads(spec.search_space.model_dump_json(exclude_defaults=True))["parameters"]
    found.pop("model_size", None)
    for name, parameter in list(found.items()):
        if "model_size" not in (when := parameter.get("when", {})):
            continue
        wanted = when["model_size"] if isinstance(when["model_size"], list) else [when["model_size"]]
        if left := [size for size in wanted if size in names]:
            when["model_size"] = left
        else:
            del found[name]
    sizes = {"value": names[0]} if len(names) == 1 else {"values": names, "prior": names[-1]}
    return {"model_size": sizes, **found, "rehearsal_share": found.get("rehearsal_share", REHEARSAL)}


def _points(
    provenance: Mapping[str, Any], record: Record | None, space: Mapping[str, Any], names: list[str]
) -> list[dict[str, Any]]:
    """The settings of the promoted trial, then those of the leaders of its sweep; each size larger than the model is the model's."""
    from scalesweep.spec.space import Parameter

    tried = [provenance["trial"]["params"]]
    tried += [row.trial.params for row in rank(record) if row.rank is not None] if record is not None else []
    known = {name: Parameter(**parameter) for name, parameter in space.items()}
    points: list[dict[str, Any]] = []
    for params in tried:
        size = {"model_size": params["model_size"] if params.get("model_size") in names else names[-1]}
        point = {name: value for name, value in {**params, **size}.items() if name in known and name != "rehearsal_share"}
        if all(known[name].takes(value) for name, value in point.items()) and point not in points:
            points.append(point)
    return points[:LEADERS]


def adapt(
    made: dict[str, Any], run_dir: Path, run: Run, promote: Callable[..., dict[str, Any]], say: Callable[[str], object] = print
) -> dict[str, Any]:
    """Run the sweep that `adaptation` returned, and promote its choice if that is better. The same call continues after a crash.

    Args:
        run_dir: run folder of the sweep. Its file `adapt.yaml` holds the sweep.
        run: runs a sweep file into a run folder, or resumes it (the last argument).
        promote: promotes from a run folder.
        say: called with remarks.

    Returns:
        What `promote` returns.

    Raises:
        NothingUsableError: nothing is better. The model that was adapted stays.
        UserError: the run folder holds another sweep.
    """
    file = run_dir / SWEEP_FILE
    if began(run_dir):
        record = read_record(run_dir)
        if sweep_from_dict(record.manifest.spec) != sweep_from_dict(made):
            hint = "choose another --run-dir, or repeat the options of the first time"
            raise UserError(f"{run_dir} holds another sweep, or one with other settings", hint)
        if (done := _done(run_dir)) is not None:
            return done
        if record.status != "ended":
            run(file, run_dir, True)
    else:
        write_adaptation(made, file)
        say(f"sweep file  {file}")
        run(file, run_dir, False)
    return promote(run_dir)


def _done(run_dir: Path) -> dict[str, Any] | None:
    """Return what was promoted from a run folder, or None. Raises NothingUsableError if the choice was tested and refused."""
    for path in sorted((run_dir / "promoted").glob(f"*/{PROVENANCE}")):
        return {**read_provenance(path.parent), "output": str(path.parent)}
    for path in sorted((run_dir / "promoted").glob(f"*{REFUSED}")):
        hint = f"adapt it to more data, or see {path}"
        message = f"nothing to promote: the choice of {run_dir} has been tested and was not better"
        raise RefusedError(message, hint, json.loads(path.read_text(encoding="utf-8")))
    return None


def in_place(made: dict[str, Any], folder: Path, overrides: Sequence[str] = (), copy: str = ROWS) -> dict[str, Any]:
    """The sweep of `adaptation` with the user's changes, and with absolute paths of its data.

    Args:
        folder: folder for a copy of the rows, where the data are a folder of files.
        overrides: `KEY=VALUE` strings, as for `--set`.
        copy: name of that copy.

    Raises:
        SpecError: the sweep would be wrong.
        DataProblem, OutsideError: the data can't be read or copied.
    """
    sweep_from_dict(made, overrides=overrides)  # changes it
    if isinstance(data := made["data"]["path"], str):
        made["data"]["path"] = given_data(data, made, folder / copy, keep=began(folder))
    return made


def given_data(data: str, made: Mapping[str, Any], copy: Path, keep: bool) -> str:
    """The new data as a source for a sweep file. The rows of a folder of data files are copied, so that the sweep's data don't change.

    Args:
        copy: file for that copy.
        keep: leave a copy of an earlier call as it is.

    Raises:
        UserError: there is no such file.
        DataProblem: a folder holds no data file, or one that can't be read.
        OutsideError: the copy can't be written.
    """
    path = Path(data).expanduser()
    if not path.exists():
        if suffixes(path)[1] and not data.startswith("package:"):
            raise UserError(f"{data} not found", "name the file or folder of the new data, from the working folder on")
        return data
    if path.is_dir() and not any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        if not keep or not copy.exists():
            copy_rows(path, list(data_files(path)), data_spec(made), made["task"], copy)
        return str(copy.resolve())
    return str(path.resolve())


def data_spec(made: Mapping[str, Any]) -> DataSpec:
    return DataSpec(**made["data"])


def write_adaptation(made: Mapping[str, Any], path: Path) -> None:
    """Write the sweep file. Raises OutsideError if that fails."""
    head = [
        f"A sweep that adapts {made['adapt']['model']} to new data. scalesweep adapt wrote it; edit it as you like.",
        "data: the new rows; data.earlier: those that the model has learnt, of which rehearsal_share is trained again.",
        "launch runs it; promote then exports the model, if it is better.",
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutsideError(f"{path.parent} can't be made: {error.strerror}", "name another place") from None
    write_yaml(path, dict(made), head)
