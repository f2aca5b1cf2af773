"""Size and speed of the page of `scalesweep report -o`, on a made-up sweep of many trials.

    python benchmarks/page.py [--trials 5000] [--folder RUN_DIR] [--browser /usr/bin/chromium]

Writes a run folder with the space of `sweeps/quickstart.yaml`, every state of a trial and the numbers of 600 validation rows for
each evaluation, then the page. Prints the page's megabytes, the CPU seconds from the record to the page and, with a Chromium, the
milliseconds until its script has run (`script_ms`), until the first frame is there (`first_frame_ms`), and for a click on each of six
columns, the sort and the layout of the table (`sorts_ms`).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import tempfile
import time
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from scalesweep.examples import Columns
from scalesweep.record import read_record
from scalesweep.record.manifest import new_manifest
from scalesweep.record.store import encode
from scalesweep.report.page.write import write_page
from scalesweep.search.pick import with_forecasts
from scalesweep.spec import load_sweep
from scalesweep.spec.config import trial_config
from scalesweep.spec.space import Parameter

SWEEP = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
SIZES = {"L4": 19_163_136, "L5": 20_937_984, "L6": 22_712_832}
ROWS = 600
VISITS = 3  # of the browser; the least time of each counts, because other processes only ever add to it
START = 1_700_000_000.0
METRICS = ("eval_loss", "eval_accuracy", "eval_f1_macro", "eval_matthews")


def draw(parameters: dict[str, Parameter], rng: np.random.Generator) -> dict[str, Any]:
    """A configuration of the space, drawn at random."""
    drawn: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if not parameter.holds(drawn):
            continue
        choices = parameter.choices()
        if choices is not None:
            drawn[name] = choices[rng.integers(len(choices))]
            continue
        assert parameter.min is not None
        assert parameter.max is not None
        if parameter.kind == "log_uniform_values":
            drawn[name] = math.exp(rng.uniform(math.log(parameter.min), math.log(parameter.max)))
        elif parameter.kind == "int_uniform":
            drawn[name] = int(rng.integers(parameter.min, parameter.max + 1))
        else:
            drawn[name] = float(rng.uniform(parameter.min, parameter.max))
    return drawn


class Folder:
    """A run folder that is written without waiting for the disk."""

    def __init__(self, place: Path, manifest: dict[str, Any]) -> None:
        place.mkdir(parents=True, exist_ok=True)
        (place / "sweep.json").write_text(json.dumps(encode(manifest)))
        self.events = (place / "record.jsonl").open("w")
        self.numbers = (place / "examples.bin").open("wb")
        self.time = START

    def add(self, event: str, **fields: Any) -> None:
        self.time += 0.5
        self.events.write(json.dumps(encode({"event": event, "time": self.time, **fields})) + "\n")

    def block(self, **arrays: np.ndarray) -> dict[str, Any]:
        columns = Columns.of(arrays)
        start = self.numbers.tell()
        self.numbers.write(columns.content)
        place = {"file": "examples.bin", "start": start, "bytes": len(columns.content), "crc32": zlib.crc32(columns.content)}
        return {**place, "columns": columns.dtypes}

    def close(self) -> None:
        self.events.close()
        self.numbers.close()


def write_run(place: Path, trials: int, overrides: list[str], seed: int = 0) -> None:
    """A sweep that halves by three at the rungs 30 and 90, with some trials that diverge, fail or do not fit."""
    spec, rng = load_sweep(SWEEP, overrides), np.random.default_rng(seed)
    ladder = [
        {"name": name, "model": "minilm", "layers": int(name[1:]), "n_params": count, "n_layers": int(name[1:])}
        | {"group_names": ["embeddings", *(f"block.{n}" for n in range(int(name[1:]))), "head"]}
        for name, count in SIZES.items()
    ]
    launched = {"id": "0" * 32, "created": START, "data": {"fingerprint": "f00d"}, "versions": {"scalesweep": "0.1.0"}} | {
        "baseline": {
            "guess": "class shares in train",
            "metrics": dict(zip(METRICS, (0.6793, 0.5833, 0.3684, 0.0), strict=True)),
        }
    }
    folder = Folder(place, dict(new_manifest(spec, ladder, (), launched)))
    folder.add("session", resumed=False)
    parameters = dict(spec.search_space.ordered()) if spec.search_space is not None else {}
    hard = rng.normal(0, 0.5, ROWS)
    data = folder.block(label=rng.integers(0, 2, ROWS).astype(np.uint8), group=(np.arange(ROWS) // 2).astype(np.uint32))
    at_first: list[float] = []
    for number in range(trials):
        name, params = f"t{number:04}", draw(parameters, rng)
        config = trial_config(spec, params).model_dump()
        folder.add("trial", trial=name, number=number, params=params, config=config, bracket=0)
        if rng.random() < 0.004:
            error = f"{params['num_gpus']} GPUs are never free"
            folder.add("end", trial=name, state="INFEASIBLE", reason="placement", error=error)
            continue
        folder.add("start", trial=name, attempt=1, workers=[f"w{n}" for n in range(params["num_gpus"])])
        layers, rate = int(params["model_size"][1:]), math.log10(params["learning_rate"])
        head, gradual = params["unfreezing"] == "head", params["unfreezing"] == "gradual"
        end = 0.5 + 0.02 * (6 - layers) + 0.08 * head + 0.03 * (rate + 3.6) ** 2 + float(rng.normal(0, 0.015))
        seconds, fate = (0.05 if head else 0.25) * layers * float(rng.uniform(0.9, 1.2)), float(rng.random())
        for rung, fidelity in enumerate((30, 60, 90)):
            loss = end + 0.17 * math.exp(-(fidelity - 30) / 40) + float(rng.normal(0, 0.01))
            loss = math.nan if fate < 0.02 and rung else loss
            level = {0: 1, 2: 2}.get(rung, 0)
            losses = np.maximum(loss + hard * 0.4 + rng.normal(0, 0.2, ROWS), 0.01)
            right = float((losses < 0.69).mean())
            wall = seconds * fidelity / params["num_gpus"]
            used = {"wall_seconds": wall, "gpu_seconds": wall * params["num_gpus"]}
            at_first += [loss] * (rung == 0)
            passed = rung > 0 or loss <= float(np.quantile(at_first, 1 / 3))
            stop = not passed or math.isnan(loss) or fidelity == 90
            reason = "diverged" if math.isnan(loss) else "max_t" if fidelity == 90 else "rung"
            thawed = min(layers + 2, 1 + fidelity // params.get("unfreeze_interval", 1)) if gradual else layers + 2
            metrics = dict(zip(METRICS, (loss, right, right * 0.98, 2 * right - 1), strict=True)) | {
                "train_loss": loss * 0.95, "learning_rate": params["learning_rate"] * (1 - fidelity / 100), "epoch": fidelity / 250,
                "trainable_groups": 1 if head else thawed, "unfreezing_stage": thawed - 1 if gradual else 0,
            }  # fmt: skip
            marks = [{"rung": level, "fidelity": fidelity, "value": loss, "gpu_seconds": used["gpu_seconds"]}] * bool(level)
            found = folder.block(
                loss=np.nan_to_num(losses, nan=9).astype(np.float16), **{"class": (losses > 0.69).astype(np.uint8)}
            )
            folder.add(
                "report", trial=name, fidelity=fidelity, step=fidelity, tokens=fidelity * 439 + number % 97, model_flops=6.0 * fidelity * 1e10,
                flops=float(rng.uniform(5, 7)) * fidelity * 1e10, train_seconds=wall * 0.9, dollars=None, metrics=metrics,
                rungs=[level] * bool(level), marks=marks, action="stop" if stop else "continue", reason=reason if stop else None,
                cutoff=None, examples={"rows": ROWS, "of": ROWS, "found": found, "data": data}, **used,
            )  # fmt: skip
            if stop:
                state = "FAIL" if reason == "diverged" else "COMPLETE" if reason == "max_t" else "PRUNED"
                error = f"eval_loss is NaN at step {fidelity}" if reason == "diverged" else None
                folder.add("end", trial=name, state=state, reason=reason, error=error, **used)
                break
    folder.add("sweep_ended", reason="budget: run_cap", hypervolume=None, pareto=[])
    folder.close()


# Put into a copy of the page without its policy: waits for the page, clicks on columns, and sends the milliseconds back.
CLICKS = """<script>addEventListener("load", () => { const wait = setInterval(() => {
  const ready = document.documentElement.dataset.ready;
  if (!ready) return;
  clearInterval(wait);
  requestAnimationFrame(() => setTimeout(() => {
    const told = { script: Number(ready), first_frame: performance.now(), sorts: [] };
    setTimeout(() => {
      for (const key of ["metric", "learning_rate", "method", "gpu_seconds", "rank", "trial"]) {
        const rounds = [];
        for (let round = 0; round < 5; round++) {
          const began = performance.now();
          document.querySelector(`#trials button[data-key="${key}"]`).click();
          document.querySelector("#trials table").getBoundingClientRect();
          rounds.push(performance.now() - began);
        }
        told.sorts.push(Math.min(...rounds));
      }
      fetch("/told", { method: "POST", body: JSON.stringify(told) });
    }, 1000);
  }));
}, 5); });</script>"""


def in_browser(page: Path, browser: str) -> dict[str, Any]:
    """Milliseconds in a headless Chromium."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/" else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.replace("</body>", f"{CLICKS}</body>").encode() if self.path == "/" else b"")

        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        server.timeout = 30
        line = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", "--remote-debugging-port=0"]
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        running = subprocess.Popen([*line, f"--user-data-dir={profile}", address], stderr=subprocess.DEVNULL)
        try:
            while not told:
                server.handle_request()
        finally:
            running.terminate()
            running.wait()
    return told[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="keep the run folder and the page here")
    parser.add_argument("--browser", metavar="CHROMIUM")
    parser.add_argument("--set", action="append", default=["resources.dollars_per_gpu_hour=2.5"], metavar="KEY=VALUE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "run"
        write_run(folder, given.trials, given.set)
        page = folder / "report.html"
        began = time.process_time()
        write_page([with_forecasts(read_record(folder))], page)
        spent = time.process_time() - began
        figures: dict[str, Any] = {"trials": given.trials, "megabytes": page.stat().st_size / 1e6, "cpu_seconds": spent}
        if given.browser:
            visits = [in_browser(page, given.browser) for _ in range(VISITS)]
            figures |= {f"{name}_ms": round(min(visit[name] for visit in visits)) for name in ("script", "first_frame")}
            figures["sorts_ms"] = [round(min(times)) for times in zip(*(visit["sorts"] for visit in visits), strict=True)]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
