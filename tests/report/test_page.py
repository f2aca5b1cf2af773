"""The page: its numbers are those of the leaderboard, its texts stay texts, and it asks for nothing from outside."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import math
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import scalesweep
from command_line import refused, run
from events import end, report, trial
from records import TRIALS, make_events, make_manifest, make_record, make_searched
from scalesweep.errors import UserError
from scalesweep.record import Record, RecordWriter, read_record
from scalesweep.report.leaderboard import leaderboard_json
from scalesweep.report.page import write
from scalesweep.report.page.data import page_data
from scalesweep.report.page.serve import server
from scalesweep.scaling.analysis import analyse
from scalesweep.scaling.recorded import points_of_records

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31mred\u202e"
LONG = "n" * 10_000


class Parsed(HTMLParser):
    """The elements of a page, and the text of its style and scripts, as a browser separates them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1] if self.tags else "", data))

    def of(self, tag: str) -> list[str]:
        return [text for one, text in self.texts if one == tag and text.strip()]


def embedded(text: str) -> dict[str, Any]:
    """The JSON in a page."""
    data: dict[str, Any] = json.loads(Parsed(text).of("script")[0])
    return json.loads(gzip.decompress(base64.b64decode(data["gzip"]))) if "gzip" in data else data


def unpacked(trials: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with their names, as `packed` has taken them off. A key without a value is absent."""

    def value(field: str, told: Any) -> Any:
        keys = trials["keys"].get(field)
        return told if keys is None else {key: one for key, one in zip(keys, told, strict=True) if one is not None}

    return [{field: value(field, told) for field, told in zip(trials["fields"], row, strict=True)} for row in trials["rows"]]


def without_none(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value
        for name, value in row.items()
    }


def hostile() -> Record:
    """Three trials whose names, sizes, settings and errors try to be more than text."""
    events = [{"event": "session", "time": 1.0, "resumed": False}]
    for number, name in enumerate((HOSTILE, LONG, "@data@ @script@")):
        told = trial(name, number) | {"params": {"model_size": HOSTILE, "learning_rate": 1e-3, "x": HOSTILE}}
        told["config"] = {**told["params"], "num_gpus": 1, "seed": 0, "when": number}
        events += [told, {"event": "start", "time": 1.0, "trial": name, "attempt": 1}, report(name, 40, 0.5 + number, 1)]
        events.append(
            end(name, "FAIL" if number == 2 else "PRUNED") | {"error": f"{HOSTILE}\nsecond line" if number == 2 else None}
        )
    return make_record(events, name=HOSTILE)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    writer = RecordWriter(tmp_path / "run", make_manifest())
    for event in make_events():
        writer.append(event)
    writer.close()
    return tmp_path / "run"


def test_every_number_is_that_of_the_leaderboard(run_dir: Path) -> None:
    shutil.copytree(run_dir, other := run_dir.with_name("other"))
    done = run("report", run_dir, other, "-o", run_dir / "page.html")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"page          {run_dir / 'page.html'}\n")
    data = embedded((run_dir / "page.html").read_text())
    scalesweep.write_page([run_dir, scalesweep.read_record(other)], run_dir / "python.html")
    assert embedded((run_dir / "python.html").read_text())["sweeps"] == data["sweeps"], "Python writes the same page"
    board = json.loads(run("leaderboard", run_dir, "--json").stdout)
    assert [sweep["name"] for sweep in data["sweeps"]] == ["quick", "quick"]
    assert data["unlike"] == []
    told = data["sweeps"][0]
    assert unpacked(told["trials"]) == [without_none(row) for row in board["trials"]]
    assert len(board["trials"]) == len(TRIALS)
    assert told["floor"] == board["floor"]
    assert told["findings"][0]["text"].startswith("The best of 7 trials is t0001")
    assert told["commands"]["promote"] == f"scalesweep promote {run_dir} --trial TRIAL"
    assert told["states"] == {"complete": 2, "pruned": 4, "failed": 2, "infeasible": 1, "unfinished": 1}


def test_every_setting_of_every_trial_is_there() -> None:
    record = make_record()
    told = page_data(record)
    for row, own in zip(unpacked(told["trials"]), told["configs"]["own"], strict=True):
        assert {**told["configs"]["common"], **row["params"], **(own or {})} == record.trials[row["trial"]].config
    assert told["configs"]["common"]["weight_decay"] == 0.01


def fitted(**changes: Any) -> Record:
    """A sweep of three sizes of which each is known at three rates, and that had flattened."""
    rows = []
    for size in SIZES:
        for rate in (1e-4, 3e-4, 9e-4):
            end = 0.4 + 20 / SIZES[size] ** 0.35 + 0.01 * abs(math.log(rate / 3e-4))
            rows.append(({"model_size": size, "learning_rate": rate}, [1.5 * end, 1.001 * end, end]))
    record = make_searched(rows, {"model_size": {"values": list(SIZES)}, "learning_rate": {"values": [1e-4, 3e-4, 9e-4]}})
    ladder = [{"name": name, "n_params": n_params} for name, n_params in SIZES.items()]
    record.manifest = type(record.manifest)({**record.manifest, "ladder": ladder, **changes})
    return record


SIZES = {"L1": 1e6, "L2": 4e6, "L4": 1.6e7}


def test_the_law_is_that_of_the_command() -> None:
    told = json.loads(write.page_json([fitted()]))["law"]
    found = analyse(points_of_records([fitted()]), None, [{"n_params": 3.2e7}, {"n_params": 6.4e7}])
    assert (told["law"], told["axes"], len(told["points"])) == ("saturating", ["n_params"], 3)
    assert {name: value for name, value, *_ in told["parameters"]} == pytest.approx(found.chosen.fit.parameters, rel=1e-5)
    for one, other in zip(told["predictions"], found.predictions, strict=True):
        assert one["run"] == pytest.approx([other.run.value, other.run.low, other.run.high], rel=1e-5)
    assert [one["at"] for one in told["predictions"]] == ["n_params 32M", "n_params 64M"]
    assert told["curves"][0]["x"][0] == 1e6
    assert all(
        low < value < high
        for low, value, high in zip(*(told["curves"][0][name] for name in ("low", "value", "high")), strict=True)
    )
    assert "Nothing tells the noise" in told["said"][0]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([make_record()], ["No fit: n_params has 2 of the 3 values that a law needs at least;"]),
        ([fitted(), fitted(metric={"name": "eval_loss", "goal": "maximize"})], ["The sweeps have different goals"]),
        ([make_record(make_events()[:3])], ["No trial of quick reached the end (max_t)."]),
    ],
)
def test_without_a_law_the_page_says_why(records: list[Record], said: list[str]) -> None:
    told = json.loads(write.page_json(records))["law"]
    assert told["law"] is None
    assert [text[: len(start)] for text, start in zip(told["said"], said, strict=False)] == said


@pytest.mark.parametrize(
    ("train", "validation", "said"),
    [
        ("a", "v", []),
        ("b", "v", ["The sweeps have different train splits. Their validation rows are the same."]),
        ("b", "w", ["The sweeps have different data or splits: their values don't compare."]),
    ],
)
def test_sweeps_compare_where_their_validation_rows_are_the_same(train: str, validation: str, said: list[str]) -> None:
    one, other = (
        make_record(data={"fingerprint": whole, "splits": {"validation": {"rows": 9, "fingerprint": mark}}})
        for whole, mark in (("a", "v"), (train, validation))
    )
    assert json.loads(write.page_json([one, other]))["unlike"] == said


def test_curves_and_costs_are_those_of_the_reports() -> None:
    record = make_record()
    told = page_data(record)
    rows = [row["trial"] for row in unpacked(told["trials"])]
    assert told["curves"][rows.index("t0001")] == [
        value for one in record.trials["t0001"].reports for value in (one.fidelity, one.metrics["eval_loss"], float(f"{one.gpu_seconds:.6g}"))
    ]  # fmt: skip
    assert told["curves"][rows.index("t0004")][4] is None  # NaN, of the trial that diverged
    best = told["best"]
    assert [one[3] for one in best] == ["t0000", "t0001", "t0002", "t0002", "t0001", "t0001", "t0001"]
    assert [one[2] for one in best] == [0.68, 0.60, 0.50, 0.49, 0.47, 0.44, 0.44]
    assert best[-1][0] == record.gpu_seconds
    assert [one[0] for one in best] == sorted(one[0] for one in best)
    (first, second) = told["orders"]
    assert [(rows[row], at, last) for row, at, last in first["trials"]] == [("t0001", 1, 1), ("t0000", 2, 2)]
    assert (first["rung"], second["rung"], first["pairs_within"] + first["pairs_between"]) == (1, 2, 6)
    size = {one["name"]: one for one in told["sizes"]}
    assert rows[size["L6"]["first"]] == "t0001"
    assert size["L6"]["gpu_seconds"] == record.trial_gpu_seconds["L6"]
    assert size["L1"]["whole_gpu_seconds"] == record.trials["t0000"].gpu_seconds


def test_thaws_are_shown_where_they_happened() -> None:
    told = make_record().trials["t0001"]
    for one, groups in zip(told.reports, (1, 1, 3, 8, 8), strict=True):
        one.metrics["trainable_groups"] = groups
    record = make_record()
    record.trials["t0001"] = told
    data = page_data(record)
    place = [row[1] for row in data["trials"]["rows"]].index("t0001")
    assert data["groups"][place] == [40, 1, 120, 3, 240, 8]


@pytest.mark.parametrize("plain", [write.PLAIN_BYTES, 0])
def test_hostile_texts_stay_texts(plain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "PLAIN_BYTES", plain)
    record, clean = hostile(), Parsed(write.page([make_record()]))
    text = write.page([record])
    parsed = Parsed(text)
    assert parsed.tags == clean.tags
    assert parsed.of("title") == ["</script><img src=x onerror=alert(1)>�[31mred� · scalesweep"]
    assert HOSTILE[:9] not in text.partition("<script")[2].partition("</script>")[0]
    (told,) = embedded(text)["sweeps"]
    assert [row["trial"] for row in unpacked(told["trials"])] == [HOSTILE, LONG, "@data@ @script@"]
    assert told["errors"] == {"@data@ @script@": f"{HOSTILE}\nsecond line"}
    assert told["quoted"][HOSTILE].startswith("'</script>")
    assert LONG not in told["quoted"]


def test_nothing_is_fetched() -> None:
    """The policy allows the page's own style and script by their hashes, and no request at all."""
    text = write.page([make_record()])
    parsed = Parsed(text)
    policy = next(one["content"] for one in parsed.attributes if one.get("http-equiv") == "Content-Security-Policy")
    hashes = [
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for part in (*parsed.of("style"), parsed.of("script")[1])
    ]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\((?!#)", text.replace("url(#${id})", ""))
    assert not [one for one in parsed.attributes if {"src", "href", "style"} & set(one) and one.get("href") != "#trials"]


@pytest.mark.parametrize(
    "events", [[], make_events()[:1], [one for one in make_events() if one.get("trial") in ("t0007", "t0008")]]
)
def test_a_sweep_without_a_usable_trial_has_a_page(events: list[dict[str, Any]]) -> None:
    record = make_record(events)
    (told,) = embedded(write.page([record]))["sweeps"]
    assert len(told["trials"]["rows"]) == len(record.trials)
    assert (told["best"], told["worth_promoting"]) == ([], False)


def test_mistakes_are_said(run_dir: Path) -> None:
    assert "is a folder\n\nhint: name the file too" in refused("report", run_dir, "-o", run_dir)
    assert "is not a folder\n\nhint: create it first" in refused("report", run_dir, "-o", run_dir / "a" / "b.html")
    assert "can't be combined" in refused("report", run_dir, "--json", "--watch")
    before = (run_dir / "record.jsonl").read_bytes()
    assert "the page is an HTML file\n\nhint: write a name that ends in .html or" in refused("report", run_dir, "-o", "x.pdf")
    (run_dir / "kept.html").write_bytes(before)
    with pytest.raises(UserError, match="exists and is no page"):
        write.write_page([make_record()], run_dir / "kept.html")
    assert (run_dir / "kept.html").read_bytes() == before


def test_watching_serves_new_numbers_to_this_machine_alone(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalesweep.report.page.serve.REFRESH_SECONDS", 0.0)
    monkeypatch.setattr("scalesweep.report.page.serve.IDLE", 0)

    def ask(path: str, **headers: str) -> tuple[int, str, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", running.server_address[1], timeout=10)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        told = answer.status, answer.read().decode(), answer.headers["ETag"]
        connection.close()
        return told

    with server(lambda: [read_record(run_dir)]) as running:
        assert running.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        try:
            status, page, tag = ask("/")
            assert (status, embedded(page)["refresh_seconds"]) == (200, 0.0)
            assert "connect-src 'self'" in page
            assert ask("/data.json", **{"If-None-Match": str(tag)})[:2] == (304, "")
            writer = RecordWriter(run_dir)
            writer.append(report("t0009", 120, 0.3, 2))
            writer.close()
            status, text, newer = ask("/data.json", **{"If-None-Match": str(tag)})
            assert status == 200
            assert newer != tag
            assert unpacked(json.loads(text)["sweeps"][0]["trials"]) == [
                without_none(row) for row in leaderboard_json(read_record(run_dir))["trials"]
            ]
            assert ask("/data.json", Host="evil.example:80")[0] == 403
            assert ask("/etc/passwd")[0] == 404
        finally:
            running.shutdown()
            thread.join()


# Clicks and keys in a page without its policy, which would not let this script in. What it finds becomes the title.
DRIVER = """<script>addEventListener("load", () => { const wait = setInterval(() => {
  if (!document.documentElement.dataset.ready) return;
  clearInterval(wait);
  const head = (key) => document.querySelector(`#trials button[data-key="${key}"]`), names = () => [...document.querySelectorAll("#trials tbody th")].map((one) => one.textContent);
  const sorts = () => [...document.querySelectorAll("#trials th[aria-sort]")].filter((one) => one.getAttribute("aria-sort") !== "none").map((one) => [one.textContent, one.getAttribute("aria-sort")]);
  const found = { first: names(), start: sorts() };
  head("gpu_seconds").focus(); head("gpu_seconds").click();
  Object.assign(found, { byCost: names(), sorted: sorts(), focus: document.activeElement.dataset.key });
  const filter = (text) => { page.sweeps[0].view.filter = text; applyFilter(page.sweeps[0]); return page.sweeps[0].trials.filter((one) => page.sweeps[0].on[one.index]).map((one) => one.trial); };
  Object.assign(found, { filtered: [filter("L6 gradual"), filter("learning_rate<3e-4 state=complete"), filter("size!=L6 rung>=2")], strange: [filter("lerning_rate<1 state=complete"), page.sweeps[0].strange] });
  openDetail(page.sweeps[0].trials[0]);
  Object.assign(found, { detail: document.getElementById("detail").textContent, charts: document.querySelectorAll("figure h3").length });
  Object.assign(found, { why: lawSection(page.law, page.sweeps[0]).textContent });
  document.getElementById("main").append(lawSection(LAW, page.sweeps[0]));
  page.figures.at(-1).draw();
  Object.assign(found, { law: [...document.querySelectorAll("#main section:last-child td")].map((one) => one.textContent), drawn: page.figures.at(-1).host.querySelectorAll("path[fill-opacity], .whisker, .dot").length });
  filter(""); document.getElementById("detail").close();
  for (const one of page.figures) one.draw();
  const curves = [...document.querySelectorAll("svg[role=application]")].find((one) => / trials over /.test(one.getAttribute("aria-label"))), tipped = () => document.getElementById("tip").hidden ? null : document.getElementById("tip").textContent;
  const press = (key) => (curves.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true })), tipped());
  curves.focus();
  Object.assign(found, { tabs: curves.tabIndex, walk: ["ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown", "ArrowDown"].map(press) });
  press("Enter");
  Object.assign(found, { opened: [document.getElementById("detail").open, document.getElementById("detail-title").textContent] });
  document.getElementById("detail").close();
  document.querySelectorAll(".tabs button")[1].click();
  Object.assign(found, { hostile: names(), images: document.images.length });
  document.body.replaceChildren(Object.assign(document.createElement("pre"), { id: "out", textContent: JSON.stringify(found) }));
}, 20); });</script>"""  # noqa: E501


def in_browser(text: str, folder: Path, law: str) -> dict[str, Any]:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    (folder / "page.html").write_text(
        re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace(
            "</body>", f"{DRIVER.replace('LAW', law)}</body>"
        )
    )
    line = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=5000",
        "--dump-dom",
    ]
    done = subprocess.run([*line, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=60, check=False)
    shown = re.search(r'<pre id="out">(.*)</pre>', done.stdout, re.DOTALL)
    assert shown is not None, done.stderr
    found: dict[str, Any] = json.loads(shown[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return found


def test_the_table_sorts_filters_opens_and_shows_hostile_texts_in_a_browser(tmp_path: Path) -> None:
    record = make_record()
    law = json.loads(write.page_json([fitted()]))["law"]
    found = in_browser(write.page([record, hostile()]), tmp_path, json.dumps(law))
    assert found["first"] == [row["trial"] for row in leaderboard_json(record)["trials"]]
    assert found["start"] == [["#", "ascending"]]
    assert found["sorted"] == [["GPU s", "ascending"]]
    assert found["focus"] == "gpu_seconds"
    known = sorted(
        (one for one in record.trials.values() if one.attempts),
        key=lambda one: (one.gpu_seconds, found["first"].index(one.name)),
    )
    assert found["byCost"] == [*(one.name for one in known), "t0008"]
    assert found["strange"] == [[], ["lerning_rate"]]
    assert found["filtered"] == [["t0001"], ["t0001"], ["t0000", "t0006", "t0002"]]
    assert "0.44" in found["detail"]
    assert found["charts"] >= 6
    assert found["images"] == 0
    assert found["tabs"] == 0, "Tab reaches a chart"
    # From the first point, t0001 at 40 steps: right, right, left, up, down, down. The text is that which the pointer gets.
    assert [(text.split()[0], text.splitlines()[-1]) for text in found["walk"]] == [
        ("t0001", "0.5500 at 80 steps"), ("t0002", "0.5700 at 120 steps"), ("t0001", "0.5500 at 80 steps"),
        ("t0000", "0.6600 at 80 steps"), ("t0001", "0.5500 at 80 steps"), ("t0006", "0.5400 at 80 steps"),
    ]  # fmt: skip
    assert found["opened"] == [True, "t0006"]
    assert found["why"].startswith("Scaling lawNo fit: n_params has 2 of the 3 values")
    assert found["law"][0] == f"{law['parameters'][0][1]:.4g}"
    assert found["law"][-2].startswith(f"{law['predictions'][1]['law'][1]:.4f} … ")
    assert found["drawn"] == 1 + 2 + 3 + 2, "a band, the predictions with their bars, and the points"
    assert found["hostile"][:2] == ["</script><img src=x onerror=alert(1)>␛[31mred‹U+202E›", LONG]
