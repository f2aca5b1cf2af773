// The table of trials: columns, order, filter, and the panel of one trial.

const FIRST_ROWS = 100, MORE_ROWS = 200;
const WORDS = new Intl.Collator("en", { numeric: true });

/** The columns of a sweep: `of` is the value to sort and filter by, `text` what the cell shows. */
function columnsOf(sweep) {
  const { told } = sweep, found = [];
  const add = (group, key, title, of, text, more) => found.push({ group, key, title, of, text: text || ((value) => brief(value)), shown: true, ...more });
  const has = (field) => sweep.trials.some((trial) => known(trial[field]));
  add("ranking", "rank", "#", (trial) => trial.rank, (value) => (known(value) ? String(value) : MISSING), { number: true });
  add("ranking", "pareto", "★", (trial) => (trial.pareto ? 1 : 0), (value) => (value ? "★" : ""), { label: "Pareto front", down: true });
  add("ranking", "trial", "trial", (trial) => trial.trial, null, { row: true });
  add("metrics", "metric", told.metric, (trial) => trial.metric, score, { number: true, down: told.goal === "maximize" });
  if (has("standard_error")) add("metrics", "standard_error", "±", (trial) => trial.standard_error, (value) => (known(value) ? score(value) : ""), { number: true, label: "standard error" });
  if (sweep.trials.some(seedsOf)) add("metrics", "seeds", "seeds", (trial) => seedsOf(trial) || null, (_, trial) => seedsOf(trial), { label: "seeds in the mean ± the standard deviation between them" });
  if (has("difference_to_first")) {
    add("metrics", "difference_to_first", "to the first", (trial) => (trial.difference_to_first || [null])[0], (_, trial) =>
      (trial.difference_to_first ? trial.difference_to_first.map((one) => (one > 0 ? "+" : "") + score(one)).join(" … ") : ""), { number: true, shown: false, label: "difference to the first, 95 %" });
  }
  if (has("expected")) {
    add("metrics", "expected", "expected", (trial) => trial.expected, (value, trial) => (trial.expected_sd ? `${score(value)} ± ${score(trial.expected_sd)}` : score(value)), { number: true, down: told.goal === "maximize" });
  }
  add("settings", "size", "size", (trial) => trial.size, null, { order: new Map(sweep.sizes.map((size, at) => [size, at])) });
  add("settings", "method", "method", (trial) => trial.method, null);
  if (sweep.trials.some((trial) => known(trial.rate))) add("settings", "learning_rate", "lr", (trial) => trial.rate, (value) => brief(value), { number: true, label: "learning_rate" });
  add("progress", "rung", "rung", (trial) => trial.rung, (value) => (value ? `${value}/${told.levels.length}` : MISSING), { number: true, down: true });
  add("progress", "fidelity", told.unit, (trial) => trial.fidelity, count, { number: true, label: `${told.unit} at which the metric was reached`, down: true });
  add("progress", "state", "state", (trial) => trial.activity, null);
  add("progress", "stop_reason", "reason", (trial) => trial.stop_reason, (value) => value || "", {});
  add("cost", "gpu_seconds", "GPU s", (trial) => trial.gpu_seconds, seconds, { number: true });
  if (has("dollars")) add("cost", "dollars", "$", (trial) => trial.dollars, money, { number: true });
  for (const name of told.trials.keys.metrics || []) {
    if (name !== told.metric) add("metrics", `metrics.${name}`, name, (trial) => trial.metrics[name], (value, trial) =>
      score(value) + (known((trial.standard_errors || {})[name]) ? ` ± ${score(trial.standard_errors[name])}` : ""), { number: true, shown: name.startsWith("eval_") });
  }
  for (const { name } of told.axes) {
    if (name === "model_size" || name === "learning_rate") continue;
    add("settings", name, name, (trial) => trial.params[name], null, { number: sweep.trials.some((trial) => typeof trial.params[name] === "number"), absent: true, shown: name !== "unfreezing" });
  }
  add("cost", "wall_seconds", "wall s", (trial) => trial.wall_seconds, seconds, { number: true, shown: false });
  add("cost", "tokens", "tokens", (trial) => trial.tokens, count, { number: true, shown: false });
  add("cost", "flops", "FLOPs", (trial) => trial.flops, count, { number: true, shown: false });
  if (has("error")) add("progress", "error", "error", (trial) => trial.error, (value) => value || "", {});
  return found;
}

/** The test of a filter: words that must appear, and comparisons such as `learning_rate<1e-3` or `state=complete`. */
function filterOf(sweep, text) {
  const terms = [...text.matchAll(/"([^"]*)"|(\S+)/g)].map((one) => one[1] ?? one[2]), byKey = new Map();
  for (const column of sweep.columns) for (const key of [column.key, column.title]) byKey.set(key.toLowerCase(), column);
  sweep.strange = [];
  const tests = terms.map((term) => {
    const [, key, sign, right] = term.match(/^([^<>=!]+)(<=|>=|!=|=|<|>)(.+)$/) || [], column = key && byKey.get(key.toLowerCase());
    if (key && !column) sweep.strange.push(key);
    if (!column) { const word = term.toLowerCase(); return (trial) => textOf(trial).includes(word); }
    const number = Number(right), word = right.toLowerCase();
    return (trial) => {
      const value = column.of(trial);
      if (sign === "=" || sign === "!=") return (known(value) && (typeof value === "number" ? value === number : brief(value).toLowerCase() === word)) === (sign === "=");
      if (!known(value) || Number.isNaN(number)) return false;
      return sign === "<" ? value < number : sign === ">" ? value > number : sign === "<=" ? value <= number : value >= number;
    };
  });
  return (trial) => tests.every((test) => test(trial));
}

function textOf(trial) {
  trial.words ??= [trial.trial, trial.size, trial.method, trial.activity, trial.stop_reason, trial.error, ...Object.values(trial.params).filter((value) => typeof value === "string")].join(" ").toLowerCase();
  return trial.words;
}

/** The places of the trials in the order of a column; what has no value comes last in either direction. */
function sorted(sweep, key, down) {
  const column = sweep.columns.find((one) => one.key === key) || sweep.columns[0], sign = down ? -1 : 1;
  const ranks = (column.ranks ??= ranksOf(sweep.trials.map(column.of), column.order)), places = Array.from(ranks.keys());
  return places.sort((one, other) => {
    const [a, b] = [ranks[one], ranks[other]];
    return a === b ? one - other : a < 0 ? 1 : b < 0 ? -1 : sign * (a - b);
  });
}

/** The place of each value in the order of all values; -1 for none. Words are compared once, and numbers from then on. */
function ranksOf(values, order) {
  const compare = (one, other) => (typeof one === "number" && typeof other === "number" ? one - other : WORDS.compare(String(one), String(other)));
  const every = [...new Set(values.filter(known))].sort(order ? (one, other) => order.get(one) - order.get(other) : compare);
  const places = new Map(every.map((value, at) => [value, at]));
  return Int32Array.from(values, (value) => (known(value) ? places.get(value) : -1));
}

function tableSection(sweep) {
  const box = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Trials, scrollable", onpointerover: (event) => explain(event, sweep) }), live = el("div", { class: "live", role: "status" });
  const { view } = sweep, more = el("div", { class: "more" }), search = el("input", { id: "filter", type: "search", value: view.filter, placeholder: "Filter: L6 gradual learning_rate<1e-3 state=complete",
    "aria-label": "Filter trials by words, or by comparisons such as learning_rate<1e-3", oninput: later(() => { view.filter = search.value; view.rows = FIRST_ROWS; filtered(); }) });
  const state = choice("State", "any state", [...new Set(sweep.trials.map((trial) => trial.activity))], view.state, (value) => { view.state = value; view.rows = FIRST_ROWS; filtered(); });
  const size = choice("Size", "any size", sweep.sizes, view.size, (value) => { view.size = value; view.rows = FIRST_ROWS; filtered(); });
  const counts = el("span", { class: "soft" });

  const head = el("thead", {}), body = el("tbody", {}), widths = el("colgroup", {});
  const table = el("table", {}, el("caption", { class: "live" }, `Trials of ${sweep.told.name}, ranked ${sweep.told.ranked}. The buttons in the header sort.`), widths, head, body);
  box.append(table);

  /** Fix the widths of the columns by their longest texts. Then no column moves when the order changes, and a sort takes half the time. */
  function settle() {
    const columns = sweep.columns.filter((column) => column.shown), longest = columns.map((column) => {
      let most = sweep.trials[0];
      for (const trial of sweep.trials) if (column.text(column.of(trial), trial).length > column.text(column.of(most), most).length) most = trial;
      return cell(column, most);
    });
    const probe = el("tr", {}, longest);
    body.append(probe);
    const found = [...head.rows[0].cells].map((one) => Math.ceil(one.getBoundingClientRect().width) + 12);
    probe.remove();
    widths.replaceChildren(...found.map((wide) => el("col", { paint: { width: `${wide}px` } })));
    Object.assign(table.style, { tableLayout: "fixed", width: `${found.reduce((sum, wide) => sum + wide, 0)}px` });
  }

  function fillHead() {
    widths.replaceChildren();
    Object.assign(table.style, { tableLayout: "", width: "" });
    if (sweep.trials.length) (window.requestIdleCallback || setTimeout)(settle);
    head.replaceChildren(el("tr", {}, sweep.columns.filter((column) => column.shown).map((column) => el("th", { scope: "col", class: `${column.number ? "n" : ""}${column.row ? " pin" : ""}`, "data-key": column.key },
      el("button", { type: "button", title: column.label || null, id: `sort-${column.key}`, "data-key": column.key, "aria-label": column.label ? `${column.title} (${column.label})` : null, onclick: () => sortBy(column) }, el("span", { class: "clip" }, column.title))))));
  }

  function fill() {
    const columns = sweep.columns.filter((column) => column.shown), some = sweep.order.filter((row) => sweep.on[row]), ranked = view.key === "rank" && !view.down;
    const ties = ranked ? sweep.trials.findLast((trial) => trial.tied_with_first) : null;
    for (const one of head.rows[0].cells) one.setAttribute("aria-sort", one.dataset.key !== view.key ? "none" : view.down ? "descending" : "ascending");
    const rows = some.slice(0, view.rows).map((row) => {
      const trial = sweep.trials[row], made = document.createElement("tr");
      made.className = trial.rank === 1 ? "first" : trial.rank ? "" : "out";
      if (trial.tied_with_first) made.classList.add("tied");
      if (ties && trial === ties) made.classList.add("last");
      made.trial = trial;
      made.append(...columns.map((column) => cell(column, trial)));
      return made;
    });
    body.replaceChildren(...rows);
    counts.textContent = some.length === sweep.trials.length ? counted(some.length, "trial") : `${some.length.toLocaleString("en")} of ${counted(sweep.trials.length, "trial")}`;
    if (!some.length && sweep.strange?.length) counts.textContent += `: there is no column ${sweep.strange.join(", ")}`;
    const left = some.length - view.rows;
    more.replaceChildren(...(left > 0 ? [el("span", { class: "soft" }, `${view.rows.toLocaleString("en")} of ${some.length.toLocaleString("en")} rows`), el("button", { type: "button", onclick: () => { view.rows += MORE_ROWS; fill(); } }, `Show ${Math.min(MORE_ROWS, left)} more`)] : []));
  }

  function sortBy(column) {
    view.down = view.key === column.key ? !view.down : Boolean(column.down);
    view.key = column.key;
    sweep.order = sorted(sweep, view.key, view.down);
    fill();
    live.textContent = `Sorted by ${column.label || column.title}, ${view.down ? "descending" : "ascending"}`;
  }

  function filtered() {
    applyFilter(sweep);
    fill();
    live.textContent = counts.textContent;
    redraw();
  }

  const chooser = el("details", { open: view.choosing, ontoggle: () => { view.choosing = chooser.open; } }, el("summary", {}, "Columns"), el("div", { class: "choose" }, sweep.columns.filter((column) => !column.row).map((column) => el("label", {},
    el("input", { type: "checkbox", checked: column.shown, onchange: (event) => { column.shown = event.target.checked; fillHead(); fill(); } }), ` ${column.label || column.title}`))));
  fillHead();
  fill();
  const explained = ["★ no other trial beats it in both the metric and GPU seconds", ...(sweep.trials.some((trial) => known(trial.standard_error)) ? ["± standard error over the validation rows"] : []),
    ...(sweep.trials.some((trial) => trial.repeats) ? ["With several seeds, the metric is their mean"] : []),
    ...(sweep.trials.some((trial) => trial.tied_with_first) ? ["≈ can't be told apart from the first (paired, 95 %, corrected for the number of trials)"] : [])];
  return el("section", { id: "trials" }, el("h2", {}, "Trials"), el("div", { class: "tools" }, search, state, size, counts), chooser, box, more,
    el("p", { class: "soft" }, `Ranked ${sweep.told.ranked}. ${explained.join(". ")}. ${MISSING} in a setting's column: the parameter does not exist in that trial.`), live);
}

function choice(label, none, values, value, onchange) {
  const box = el("select", { id: `filter-${label.toLowerCase()}`, "aria-label": label, onchange: () => onchange(box.value) }, el("option", { value: "" }, none), values.filter(known).map((one) => el("option", { value: one, selected: one === value }, one.length > 40 ? `${one.slice(0, 39)}…` : one)));
  return box;
}

function later(run) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(run, 120); };
}

function applyFilter(sweep) {
  const test = filterOf(sweep, sweep.view.filter), { state, size } = sweep.view;
  sweep.trials.forEach((trial, row) => { sweep.on[row] = (!state || trial.activity === state) && (!size || trial.size === size) && test(trial) ? 1 : 0; });
}

/** A cell of the table. Built without `el`, because a sort makes thousands. */
function cell(column, trial) {
  const value = column.of(trial), text = shown(column.text(value, trial)), long = text.length > 30;
  if (column.row) return el("th", { scope: "row", class: "pin" }, el("button", { type: "button", class: "link", onclick: () => openDetail(trial) }, long ? el("span", { class: "clip" }, text) : text));
  const made = document.createElement("td");
  if (column.number) made.className = "n";
  if (column.absent && !known(value)) made.className += " absent";
  if (long) made.append(el("span", { class: "clip" }, text)); else made.textContent = text;
  return made;
}

/** Show all digits of the number under the pointer, or the whole of a text that was cut. */
function explain(event, sweep) {
  const under = event.target.closest("tbody td, tbody th"), row = under && under.parentElement;
  if (!under || under.title) return;
  const value = sweep.columns.filter((column) => column.shown)[under.cellIndex].of(row.trial);
  if (typeof value === "number" && !Number.isInteger(value)) under.title = full(value);
  else if (under.querySelector(".clip")) under.title = shown(value).slice(0, 300);
}

/** The panel of one trial: its numbers with all their digits, curve, thaws, every setting, error, and the commands. */
function openDetail(trial) {
  const sweep = page.sweeps.find((one) => one.trials[trial.index] === trial), { told } = sweep, panel = document.getElementById("detail"), pair = (name, value) => (known(value) && value !== "" ? [el("dt", {}, name), el("dd", {}, value)] : []);
  const errors = trial.standard_errors || {}, numbers = Object.entries(trial.metrics || {}).filter(([name]) => name !== told.metric);
  const settings = sweep.settings(trial), curve = el("div", { class: "plot" }), error = told.errors[trial.trial] || trial.error;
  panel.replaceChildren(
    el("header", {}, el("div", {}, el("h2", { id: "detail-title" }, trial.trial), el("p", { class: "soft" }, `${trial.size} · ${trial.method}${known(trial.rate) ? ` · lr ${brief(trial.rate)}` : ""}`)), el("button", { type: "button", onclick: () => panel.close(), autofocus: true }, "Close")),
    el("dl", { class: "pairs" },
      pair("rank", trial.rank ? `${trial.rank} of ${sweep.trials.filter((one) => one.rank).length}${trial.tied_with_first ? ", can't be told apart from the first" : ""}` : "none"),
      pair(told.metric, known(trial.metric) ? `${full(trial.metric)}${known(trial.standard_error) ? ` ± ${full(trial.standard_error)}` : ""}` : null),
      pair("seeds", trial.repeats ? `mean of ${trial.repeats + 1}${known(trial.seed_sd) ? `; standard deviation between seeds ${full(trial.seed_sd)}` : ""}` : known(trial.repeat_of) ? `trains ${trial.repeat_of} again` : null),
      pair("less the first's", trial.difference_to_first ? `${trial.difference_to_first.map(full).join(" … ")} (95 %, paired)` : null),
      pair("expected at the end", trial.expected_sd ? `${full(trial.expected)} ± ${full(trial.expected_sd)}` : null),
      numbers.map(([name, value]) => pair(name, known(value) ? `${full(value)}${known(errors[name]) ? ` ± ${full(errors[name])}` : ""}` : null)),
      pair("reached", known(trial.fidelity) ? `${full(trial.fidelity)} ${told.unit}, ${trial.rung ? `rung ${trial.rung} of ${told.levels.length}` : "before the first rung"}` : null),
      pair("state", `${trial.activity}${trial.stop_reason ? ` · ${trial.stop_reason}` : ""}`),
      pair("GPU seconds", known(trial.gpu_seconds) ? `${full(trial.gpu_seconds)} on ${counted(settings.num_gpus || 1, "GPU")}` : null), pair("dollars", known(trial.dollars) ? full(trial.dollars) : null),
      pair("wall seconds", known(trial.wall_seconds) ? full(trial.wall_seconds) : null), pair("tokens", known(trial.tokens) ? full(trial.tokens) : null), pair("FLOPs", known(trial.flops) ? full(trial.flops) : null)),
    ...(error ? [el("h3", {}, "Error"), el("pre", { tabindex: 0 }, error), trial.traceback ? el("p", { class: "soft" }, `Traceback: ${told.run || "RUN_DIR"}/${trial.traceback}`) : null] : []),
    ...(trial.points.length ? [el("h3", {}, "Promote it"), commandLine(commandOf(told, "promote", trial))] : []),
    el("h3", {}, "Train it by hand, with its log on the screen"), commandLine(commandOf(told, "run", trial)),
    ...(trial.points.length ? [el("h3", {}, `${told.metric} at each report`), curve] : []),
    ...(trial.groups.length ? [el("h3", {}, "Layer groups that train"), el("p", {}, thaws(sweep, trial))] : []),
    el("h3", {}, "Settings"), el("p", { class: "soft" }, "Bold: drawn by the search."),
    el("dl", { class: "settings" }, Object.entries(settings).sort(([one], [other]) => (other in trial.params) - (one in trial.params)).map(([name, value]) => el("div", { class: name in trial.params ? "drawn" : null }, el("dt", {}, name), el("dd", {}, full(value))))),
  );
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
  if (trial.points.length) {
    const [low, high] = padded(...extent(trial.points.map(([, value]) => value)), false, 0.1), frame = plot(curve, { height: 170, x: { low: 0, high: told.max_t, title: told.unit, format: count }, y: { low, high }, label: `${told.metric} of ${trial.trial}` });
    const at = trial.points.map(([x, y]) => [frame.across(x), frame.up(y)]);
    frame.layer.append(line(at, "var(--good)", { "stroke-width": 2 }), dots(at, "var(--good)", 6, 1));
    hoverable(frame, trial.points.map(([x, y], n) => [...at[n], () => `${score(y)} at ${amount(sweep, x)}`, null]));
  }
}

/** The command line for one trial. */
function commandOf(told, name, trial) {
  const line = told.commands[name];
  return line.slice(0, line.lastIndexOf("TRIAL")) + (told.quoted[trial.trial] || trial.trial);
}

/** The trainings with other seeds: how many are in the mean, and how far they lie apart; or the trial that this one trains again. */
function seedsOf(trial) {
  if (known(trial.repeat_of)) return `again ${trial.repeat_of}`;
  return trial.repeats ? `${trial.repeats + 1}${known(trial.seed_sd) ? ` ± ${score(trial.seed_sd)}` : ""}` : "";
}

function thaws(sweep, trial) {
  const whole = sweep.told.group_counts[trial.size], steps = [];
  for (let n = 0; n < trial.groups.length; n += 2) steps.push(`${trial.groups[n + 1]}${whole ? ` of ${whole}` : ""} ${n ? "from" : "at"} ${amount(sweep, trial.groups[n])}`);
  return `${steps.join(", ")}, as the reports say.`;
}
