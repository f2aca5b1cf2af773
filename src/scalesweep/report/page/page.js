// The page: reading the data, the sections, drawing a figure when it comes into view, and asking for newer data.

const page = { sweeps: [], at: 0, figures: [], watcher: null };

async function read(text) {
  const told = JSON.parse(text);
  if (!told.gzip) return told;
  const raw = atob(told.gzip), bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
  return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
}

/** A sweep with its rows as trials: the fields of `leaderboard --json` by name, and what the figures need. */
function decoded(told, at, before) {
  const { fields, keys, rows } = told.trials, { common, own } = told.configs;
  const pairs = (names, values) => { const found = {}; names.forEach((name, n) => { if (known(values[n])) found[name] = values[n]; }); return found; };
  const trials = rows.map((row, index) => {
    const trial = { index };
    fields.forEach((field, n) => { trial[field] = keys[field] ? pairs(keys[field], row[n]) : row[n]; });
    trial.metrics ??= {};
    const curve = told.curves[index];
    const setting = (name) => trial.params[name] ?? (own[index] || {})[name] ?? common[name];
    Object.assign(trial, { method: told.methods[index], activity: told.activities[index], size: String(setting("model_size") ?? MISSING), rate: setting("learning_rate"), curve, groups: told.groups[index], points: [] });
    for (let n = 0; n < curve.length; n += 3) if (known(curve[n + 1])) trial.points.push([curve[n], curve[n + 1]]);
    return trial;
  });
  const ladder = told.sizes.map((size) => size.name), sizes = [...ladder, ...new Set(trials.map((trial) => trial.size).filter((size) => !ladder.includes(size)))];
  const sweep = { told, trials, sizes, byName: new Map(trials.map((trial) => [trial.trial, trial])), on: new Uint8Array(trials.length).fill(1), colour: `var(--sweep-${at % 6})` };
  sweep.colours = sizes.map((_, n) => `var(--size-${sizes.length > 1 ? Math.round((n * 7) / (sizes.length - 1)) : 2})`);
  sweep.settings = (trial) => ({ ...common, ...trial.params, ...(own[trial.index] || {}) });
  sweep.guess = ((told.floor.guessing || {}).metrics || {})[told.metric];
  sweep.view = before ? before.view : { key: "rank", down: false, filter: "", state: "", size: "", rows: FIRST_ROWS, choosing: false, choices: {} };
  sweep.columns = columnsOf(sweep);
  if (before) for (const column of sweep.columns) column.shown = (before.columns.find((one) => one.key === column.key) || column).shown;
  applyFilter(sweep);
  sweep.order = sorted(sweep, sweep.view.key, sweep.view.down);
  return sweep;
}

function header(told) {
  const { sweeps } = page, sweep = sweeps[page.at].told, states = Object.entries(sweep.states).map(([state, number]) => `${number.toLocaleString("en")} ${state}`).join(", ");
  const part = (text, strong) => el("span", {}, strong ? el("b", {}, strong) : null, strong ? " " : null, text);
  document.getElementById("top").replaceChildren(
    el("h1", { class: "cut" }, sweep.name),
    el("div", { class: "meta" },
      part(`(${sweep.goal === "minimize" ? "lower" : "higher"} is better)`, sweep.metric),
      part(`${sweep.trials.rows.length === 1 ? "trial" : "trials"}${states ? `: ${states}` : ""}`, sweep.trials.rows.length.toLocaleString("en")),
      part(`GPU hours${sweep.dollars === null ? "" : `, ${money(sweep.dollars)}`}`, String(Number((sweep.gpu_seconds / 3600).toPrecision(3)))),
      part("of wall clock", clock(sweep.elapsed_seconds)),
      part(stateOf(sweep)),
      sweep.run ? el("code", {}, sweep.run) : null,
      el("span", { id: "fresh" }, `as of ${new Date(told.written * 1000).toLocaleString()}`)),
    ...(sweeps.length > 1 ? [el("div", { class: "tabs", role: "group", "aria-label": "Sweep" }, sweeps.map((one, at) => el("button", { type: "button", "aria-pressed": String(at === page.at), onclick: () => { page.at = at; render(told); } }, one.label.slice(0, 60))))] : []),
  );
}

function stateOf(told) {
  if (told.status === "ended") return `ended (${told.ended})`;
  return told.over ? "interrupted" : "running";
}

/** Several sweeps side by side. */
function comparison(told) {
  const { sweeps } = page, best = (sweep) => sweep.trials.find((trial) => trial.rank === 1);
  const lines = [
    ["best", (sweep) => { const trial = best(sweep); return trial ? el("button", { type: "button", class: "link", onclick: () => openDetail(trial) }, trial.trial) : MISSING; }],
    ["metric", (sweep) => (best(sweep) ? `${sweep.told.metric} ${bestOf(best(sweep))}` : sweep.told.metric)],
    ["size, method", (sweep) => (best(sweep) ? `${best(sweep).size} · ${best(sweep).method}` : MISSING)],
    ["learning rate", (sweep) => (best(sweep) ? brief(best(sweep).rate) : MISSING)],
    ["can't be told apart", (sweep) => String(sweep.trials.filter((trial) => trial.tied_with_first).length)],
    ["trials", (sweep) => sweep.trials.length.toLocaleString("en")],
    ["GPU hours", (sweep) => String(Number((sweep.told.gpu_seconds / 3600).toPrecision(3)))],
    ["dollars", (sweep) => money(sweep.told.dollars)],
    ["GPU hours to the best", (sweep) => { const at = sweep.told.best.at(-2); return at ? String(Number((at[0] / 3600).toPrecision(3))) : MISSING; }],
    ["state", (sweep) => stateOf(sweep.told)],
    ["run folder", (sweep) => el("code", {}, sweep.told.run || MISSING)],
  ];
  const metrics = new Set(sweeps.map((sweep) => sweep.told.metric));
  return el("section", {}, el("h2", {}, "Side by side"), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Sweeps side by side" }, el("table", { class: "compare" },
    el("thead", {}, el("tr", {}, el("th", {}, ""), sweeps.map((sweep) => el("th", { scope: "col" }, el("span", { class: "clip" }, sweep.label))))),
    el("tbody", {}, lines.map(([name, of]) => el("tr", {}, el("th", { scope: "row" }, name), sweeps.map((sweep) => el("td", {}, of(sweep)))))))),
  metrics.size > 1 ? el("p", { class: "soft" }, `The sweeps have different metrics (${[...metrics].join(", ")}), so their values can't be compared.`) : null,
  told.unlike.map((text) => el("p", { class: "soft" }, text)));
}

function answer(sweep) {
  const { told } = sweep, first = sweep.trials.find((trial) => trial.rank === 1), found = el("dl", { class: "found" }, told.findings.map(({ about, text }) => [el("dt", {}, about), el("dd", {}, text)]));
  if (!first) return el("section", { class: "answer", "aria-label": "The answer" }, el("p", { class: "value" }, told.status === "ended" ? "No usable trial" : "No usable trial yet"), found);
  const ties = sweep.trials.filter((trial) => trial.tied_with_first), link = (trial, text) => el("button", { type: "button", class: "link", onclick: () => openDetail(trial) }, text || trial.trial);
  const pair = (name, ...value) => [el("dt", {}, name), el("dd", {}, value)];
  const guess = sweep.guess, untrained = Object.entries(told.floor.untrained || {}).map(([size, metrics]) => `${size} ${score(metrics[told.metric])}`);
  return el("section", { class: "answer", "aria-label": "The answer" },
    el("div", {},
      el("div", { class: "name cut" }, link(first), ` · ${first.size} · ${first.method}${known(first.rate) ? ` · lr ${brief(first.rate)}` : ""}`),
      el("div", { class: "value" }, score(first.metric), known(first.standard_error) ? el("small", {}, ` ± ${score(first.standard_error)}`) : null, el("small", {}, ` ${told.metric}`)),
      el("dl", { class: "pairs" },
        pair("reached at", `${amount(sweep, first.fidelity)}${first.rung ? `, rung ${first.rung} of ${told.levels.length}` : ""}`),
        first.repeats ? pair("seeds", `mean of ${first.repeats + 1}${known(first.seed_sd) ? `, ± ${score(first.seed_sd)} between seeds` : ""}`) : null,
        known(first.expected) && first.expected_sd ? pair("expected at the end", `${score(first.expected)} ± ${score(first.expected_sd)}`) : null,
        Object.entries(first.metrics).filter(([name]) => name.startsWith("eval_") && name !== told.metric).map(([name, value]) => pair(name, `${score(value)}${known((first.standard_errors || {})[name]) ? ` ± ${score(first.standard_errors[name])}` : ""}`)),
        known(guess) ? pair("guessing", score(guess)) : null,
        untrained.length ? pair("untrained", listed(untrained, 4)) : null,
        first.difference_to_first === undefined || !sweep.trials.some((trial) => known(trial.tied_with_first)) ? null
          : pair("can't be told apart", ties.length ? [...ties.slice(0, 6).flatMap((trial, at) => [at ? ", " : "", link(trial)]), ties.length > 6 ? ` and ${ties.length - 6} more` : ""] : "none"),
        pair("cost of the trial", `${seconds(first.gpu_seconds)} GPU seconds${known(first.dollars) ? `, ${money(first.dollars)}` : ""}`),
        pair("cost of the sweep", `${seconds(told.gpu_seconds)} GPU seconds${told.dollars === null ? "" : `, ${money(told.dollars)}`}`)),
      told.commands.choose ? commandLine(told.commands.choose)
        : told.worth_promoting ? commandLine(commandOf(told, "promote", first))
        : el("p", { class: "bad" }, "It does not beat guessing or the untrained model: there is nothing to promote. Change learning_rate or the data, and launch again.")),
    found);
}

function learnt(sweep) {
  const plots = effectPlots(sweep);
  if (!plots.length) return null;
  page.figures.push(...plots.map(({ host, draw }) => ({ host, draw })));
  return figure("At a glance: how much worse than the best value", () => `Each value's ${sweep.told.metric} less that of the best value, on average over the other axes. Bars and bands: 5–95 % intervals that hold for all values of an axis at once. Orange: the trials show that the axis matters.`,
    { wide: true, inside: el("div", { class: "small" }, plots.map(({ host }) => host)) }, sweep);
}

function figure(title, draw, more, sweep) {
  const host = more.inside || el("div", { class: "plot" }), caption = el("figcaption", {}), controls = el("div", { class: "controls" });
  const every = more.choices || more.select || [];
  let choice = every.includes(sweep.view.choices[title]) ? sweep.view.choices[title] : more.choice || every[0];
  const one = { host, draw: () => { caption.textContent = shown(draw(sweep, host, choice)); } }, pick = (value) => { choice = sweep.view.choices[title] = value; mark(); one.draw(); };
  const buttons = (more.choices && more.choices.length > 1 ? more.choices : []).map((name) => el("button", { type: "button", onclick: () => pick(name) }, name));
  const mark = () => buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(more.choices[at] === choice)));
  if (more.select) {
    const box = el("select", { "aria-label": "Setting", onchange: () => pick(box.value) }, more.select.map((name) => el("option", { value: name, selected: name === choice }, name)));
    controls.append(box);
  }
  controls.append(...buttons);
  mark();
  page.figures.push(one);
  return el("figure", { class: more.wide ? "wide" : more.double ? "double" : null }, el("div", { class: "head" }, el("h3", {}, title), controls), host, caption);
}

const watched = new WeakMap();
const eye = "IntersectionObserver" in window ? new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) if (isIntersecting) { const one = watched.get(target); if (one && one.stale) { one.stale = false; one.draw(); } }
}, { rootMargin: "400px" }) : null;

/** Draw each figure when it is in view, or about to be. */
function redraw() {
  for (const one of page.figures) {
    one.stale = true;
    if (!eye) { one.draw(); continue; }
    watched.set(one.host, one);
    eye.unobserve(one.host);
    eye.observe(one.host);
  }
}

function render(told) {
  const sweep = page.sweeps[page.at], { activeElement: focused } = document, place = focused && [focused.id, focused.selectionStart, focused.selectionEnd];
  const scrolls = () => [document.documentElement, ...document.querySelectorAll("#trials .scroll")], kept = scrolls().map((one) => [one.scrollLeft, one.scrollTop]);
  page.figures = [];
  header(told);
  const shownFigures = figures(sweep).map((one) => figure(one.title, one.draw, one, sweep));
  const learntFigures = [learnt(sweep), ...lessons(sweep).map((one) => figure(one.title, one.draw, one, sweep))].filter(Boolean);
  document.getElementById("main").replaceChildren(...[
    page.sweeps.length > 1 ? comparison(told) : null, answer(sweep),
    learntFigures.length ? el("section", {}, el("h2", {}, "What was learnt"), el("div", { class: "charts" }, learntFigures)) : null,
    lawSection(page.law, sweep),
    shownFigures.length ? el("section", {}, el("h2", {}, "Charts"), el("div", { class: "charts" }, shownFigures)) : null,
    tableSection(sweep),
    el("footer", { class: "soft" }, el("p", {}, told.refresh_seconds ? "Served by scalesweep on this machine." : "Written by scalesweep. This file holds all its data and makes no request.")),
  ].filter(Boolean));
  redraw();
  scrolls().forEach((one, at) => { if (kept[at]) [one.scrollLeft, one.scrollTop] = kept[at]; });
  const again = place && place[0] && document.getElementById(place[0]);
  if (again && again !== document.activeElement) {
    again.focus({ preventScroll: true });
    if (again.type === "search") again.setSelectionRange(place[1], place[2]);
  }
}

async function refresh(wait) {
  try {
    const answer = await fetch("data.json", { headers: page.tag ? { "If-None-Match": page.tag } : {}, cache: "no-store" });
    if (answer.status === 200) {
      page.tag = answer.headers.get("ETag");
      take(JSON.parse(await answer.text()));
    } else if (answer.status !== 304) throw new Error(String(answer.status));
  } catch {
    document.getElementById("fresh").textContent = "the server has stopped: these are its last numbers";
  }
  setTimeout(refresh, wait * 1000, wait);
}

function take(told) {
  page.law = told.law;
  page.sweeps = told.sweeps.map((one, at) => decoded(one, at, page.sweeps[at]));
  const names = told.sweeps.map((one) => one.name);
  for (const sweep of page.sweeps) {
    const { name, run } = sweep.told, twice = names.indexOf(name) !== names.lastIndexOf(name);
    sweep.label = twice && run ? `${name} (${run.split("/").at(-1)})` : name;
  }
  render(told);
}

let width = innerWidth;
addEventListener("resize", later(() => { if (innerWidth !== width) { width = innerWidth; redraw(); } }));

read(document.getElementById("data").textContent).then((told) => {
  take(told);
  document.documentElement.dataset.ready = performance.now().toFixed(0);
  if (told.refresh_seconds) setTimeout(refresh, told.refresh_seconds * 1000, told.refresh_seconds);
});
