"""A sweep from Python: everything the command line does, on the same objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesweep.spec import SweepSpec, load_sweep, sweep_from_dict
from scalesweep.storage import UrlPath, place

if TYPE_CHECKING:
    from scalesweep.record import Record
    from scalesweep.sweep.preflight import Plan


class Sweep:
    """A checked specification that can be planned and launched.

    >>> sweep = Sweep.load("sweeps/quickstart.yaml", ["budget.run_cap=12"])
    >>> record = sweep.launch()  # doctest: +SKIP
    """

    def __init__(self, spec: SweepSpec, base: Path | None = None) -> None:
        """`base` is the folder that relative data paths start from (default: the working directory)."""
        self.spec = spec
        self.base = base or Path.cwd()

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
        """From a sweep file; `overrides` are `KEY=VALUE` strings. Raises SpecError."""
        return cls(load_sweep(path, overrides), Path(path).parent)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Sweep:
        """From a mapping with the keys of a sweep file, the search space in place. Raises SpecError."""
        return cls(sweep_from_dict(data))

    def plan(self, num_gpus: int | None = None, cluster: str | Path | None = None) -> Plan:
        """Check models, data and resources, and say what the sweep costs at most. Raises SpecError, OutsideError.

        `cluster` is the file of a cluster that it is meant for, instead of this machine with `num_gpus`.
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
    ) -> Record:
        """Run the sweep (run folder: a path or a URL, by default `runs/NAME`) and return its record.

        `cluster` is the file of the one at `address`, by which is checked that every trial can be placed there. Raises what
        `plan` raises, UserError for a folder in use, and NothingUsableError.
        """
        from scalesweep.sweep.launch import launch, local_slots

        plan = self._plan(None if address else local_slots(self.spec, num_gpus), cluster)
        return launch(plan, place(run_dir or Path("runs") / self.spec.name), address, num_gpus)
