// The figures of a sweep. Each shows the trials that the table shows, and says in words what it shows.

const CURVES = 150;  // lines of each size; of more, one sees an area
const PARALLEL_LINES = 120;  // of the best quarter, and of the others; more would be one grey area
const TIMELINES = 14;

/** The figures of what was learnt: by axis, and by size. */
function lessons(sweep) {
  const found = [], effects = (sweep.told.facts.axes || {}).effects || [];
  if (effects.length) found.push({ title: "Importance of the axes", draw: importance });
  if (sweep.told.sizes.some((size) => size.first !== null)) found.push({ title: "Each size: cost and reach", draw: sizes, double: true });
  return found;
}

/** The figures in order. `draw` fills its host and returns the caption; `choices` are buttons above the figure. */
function figures(sweep) {
  const found = [], add = (title, draw, more) => found.push({ title, draw, ...more });
  const { told } = sweep, axes = told.axes;
  if (told.best.length) {
    add("Best so far", bestSoFar, { choices: told.dollars === null ? null : ["GPU hours", "dollars"] });
  }
  if (sweep.trials.some((trial) => trial.curve.length)) add("Learning curves", learningCurves);
  const numbers = axes.filter((axis) => known(axis.low)).map((axis) => axis.name);
  if (numbers.length && sweep.trials.some((trial) => known(trial.metric))) {
    add("Metric against a setting", against, { select: numbers, choice: numbers.includes("learning_rate") ? "learning_rate" : numbers[0] });
  }
  if (sweep.trials.some((trial) => trial.rank && trial.gpu_seconds > 0)) add("Pareto front: metric and cost", front);
  if (told.orders.some((order) => order.trials.length > 1)) {
    add("Order at a rung, order at the end", orders, { choices: told.orders.map((order) => `rung ${order.rung}`) });
  }
  if (sweep.trials.some((trial) => trial.rank && trial.groups.length)) add("Unfreezing over time", timelines);
  if (axes.length > 1 && sweep.trials.some((trial) => trial.rank)) add("Parallel coordinates", parallel, { wide: true });
  return found;
}

/** At most so many of them, evenly spaced. */
function thinned(some, most) {
  return some.length > most ? some.filter((_, at) => Math.floor((at * most) / some.length) !== Math.floor(((at - 1) * most) / some.length)) : some;
}

function visible(sweep) {
  return sweep.trials.filter((trial) => sweep.on[trial.index]);
}

function nameOf(sweep, trial) {
  return `${trial.trial} · ${sweep.told.metric} ${score(trial.metric)}${known(trial.standard_error) ? ` ± ${score(trial.standard_error)}` : ""}\n${trial.size} · ${trial.method}${
    known(trial.rate) ? ` · lr ${brief(trial.rate)}` : ""}`;
}

function amount(sweep, fidelity) {
  return `${count(fidelity)} ${sweep.told.unit}`;
}

function bySize(sweep, trials) {
  return sweep.sizes.map((size, at) => [size, sweep.colours[at], trials.filter((trial) => trial.size === size)]).filter(([, , some]) => some.length);
}

function sizeLegend(sweep, trials) {
  const shownSizes = bySize(sweep, trials).map(([size, colour]) => [size, colour]);
  return legend([...shownSizes, ["the first", "var(--best)"]]);
}

function bestSoFar(sweep, host, choice) {
  const paid = choice === "dollars", others = page.sweeps.filter((other) => other.told.best.length && other.told.metric === sweep.told.metric);
  const lines = (others.length > 1 ? others : [sweep]).map((one) => ({
    one, colour: others.length > 1 ? one.colour : "var(--good)",
    points: one.told.best.map(([spent, dollars, value, trial]) => [paid ? dollars : spent / 3600, value, trial]).filter(([at]) => known(at)),
  }));
  const all = lines.flatMap(({ points }) => points), x = { low: 0, high: Math.max(...all.map(([at]) => at)) || 1, title: paid ? "dollars spent" : "GPU hours spent" };
  const [low, high] = padded(...range(all.map(([, value]) => value), sweep.told.goal === "minimize"));
  const frame = plot(host, { x, y: { low, high, title: sweep.told.metric }, label: `${sweep.told.metric} of the best trial so far, over ${x.title}` });
  const points = [];
  for (const { one, colour, points: told } of lines) {
    const at = told.map(([spent, value]) => [frame.across(spent), frame.up(value)]);
    frame.layer.append(svg("path", { class: "curve", d: stairs(at), "stroke-width": 2, paint: { stroke: colour, "stroke-width": 2 } }), dots(at.slice(0, -1), colour, 6, 1));
    told.slice(0, -1).forEach(([spent, value, name], n) => points.push([...at[n],
      () => `${one.label} · ${name}\n${score(value)} after ${paid ? money(spent) : `${Number(spent.toPrecision(3))} GPU hours`}`, one.byName.get(name)]));
  }
  hoverable(frame, points);
  if (lines.length > 1) host.append(legend(lines.map(({ one, colour }) => [one.label, colour]), true));
  const [spent, dollars, value, name] = sweep.told.best.at(-1), before = sweep.told.best.at(-2) || sweep.told.best[0];
  return `The best value at any report, ${score(value)} (${name}), came after ${Number((before[0] / 3600).toPrecision(3))} of ${Number((spent / 3600).toPrecision(3))} GPU hours${
    known(dollars) ? ` and ${money(before[1])} of ${money(dollars)}` : ""}.`;
}

function learningCurves(sweep, host) {
  const { told } = sweep, trials = visible(sweep).filter((trial) => trial.points.length), minimize = told.goal === "minimize";
  const all = trials.flatMap((trial) => trial.points), places = all.map(([at]) => at);
  const low = Math.min(...[told.max_t], ...extent(places)), log = low > 0 && told.max_t / low > 15;
  const x = { low: log ? low : 0, high: Math.max(told.max_t, extent(places)[1]), log, title: told.unit, format: count };
  const [bottom, top] = padded(...range(all.map(([, value]) => value), minimize));
  const frame = plot(host, { x, y: { low: bottom, high: top, title: told.metric }, label: `${told.metric} of ${counted(trials.length, "trial")} over ${told.unit}` });
  for (const level of told.levels.slice(0, -1)) frame.layer.append(svg("path", { class: "rung", d: `M${frame.across(level)},${frame.top}V${frame.height - frame.bottom}` }));
  floorLine(sweep, frame, bottom, top);
  const few = trials.length <= 60, put = ([at, value]) => [frame.across(at), frame.up(value)], points = [];
  let lines = 0, whole = 0;
  for (const [, colour, some] of bySize(sweep, trials)) {
    const drawn = thinned(some.filter((trial) => trial.points.length > 1), CURVES);
    lines += drawn.length;
    whole += some.filter((trial) => trial.points.length > 1).length;
    const d = drawn.map((trial) => trial.points.map((one, n) => { const [px, py] = put(one); return `${n ? "L" : "M"}${px.toFixed(1)},${py.toFixed(1)}`; }).join("")).join("");
    frame.layer.append(svg("path", { class: "curve", d, "stroke-opacity": few ? 0.85 : 0.45, paint: { stroke: colour } }));
    frame.layer.append(dots(some.map((trial) => put(trial.points.at(-1))), colour, few ? 4.5 : 2.5, few ? 1 : 0.5));
  }
  const first = trials.find((trial) => trial.rank === 1);
  if (first) frame.layer.append(line(first.points.map(put), "var(--best)", { "stroke-width": 2.6 }), dots(first.points.map(put), "var(--best)", 6, 1));
  for (const trial of trials) for (const one of trial.points) points.push([...put(one), () => `${nameOf(sweep, trial)}\n${score(one[1])} at ${amount(sweep, one[0])}`, trial]);
  hoverable(frame, points, ([, , , trial]) => [line(trial.points.map(put), "var(--ink)", { class: "hover" })]);
  host.append(sizeLegend(sweep, trials));
  const rungs = told.levels.slice(0, -1).map(count);
  const left = lines < whole ? ` A dot for the last report of each, a line for ${lines.toLocaleString("en")} of ${whole.toLocaleString("en")} with several reports.` : "";
  return `${told.metric} at each report of ${counted(trials.length, "trial")}.${left} ${rungs.length ? `Dotted: the ${rungs.length > 1 ? "rungs" : "rung"} at ${rungs.join(", ")} ${told.unit}.` : ""}`;
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  return [low, high];
}

/** The score of guessing, where it lies in the plot. */
function floorLine(sweep, frame, low, high) {
  const guess = sweep.guess;
  if (!known(guess) || guess < low || guess > high) return;
  const at = frame.up(guess);
  frame.layer.append(svg("path", { class: "rung", d: `M${frame.left},${at}H${frame.width - frame.right}` }),
    svg("text", { class: "over", x: frame.left + 4, y: at - 4 }, "guessing"));
}

/** The metric of each trial over another of its numbers. */
function scatter(sweep, host, x, of) {
  const trials = visible(sweep).filter((trial) => trial.rank && known(of(trial)) && (!x.log || of(trial) > 0));
  const [low, high] = padded(...range(trials.map((trial) => trial.metric), sweep.told.goal === "minimize"));
  const frame = plot(host, { x, y: { low, high, title: sweep.told.metric }, label: `${sweep.told.metric} of ${counted(trials.length, "trial")} over ${x.title}` });
  const put = (trial) => [frame.across(of(trial)), frame.up(trial.metric)], few = trials.length <= 200, top = Math.max(...trials.map((trial) => trial.rung));
  floorLine(sweep, frame, low, high);
  for (const [, colour, some] of bySize(sweep, trials)) {
    if (few) {
      for (const trial of some) {
        if (known(trial.standard_error)) {
          const [px] = put(trial);
          const bar = whisker(px, frame.up(trial.metric - trial.standard_error), frame.up(trial.metric + trial.standard_error), colour);
          bar.style.opacity = 0.4;
          frame.layer.append(bar);
        }
      }
    }
    const stopped = some.filter((trial) => trial.rung < top), went = some.filter((trial) => trial.rung >= top);
    frame.layer.append(dots(stopped.map(put), colour, few ? 5 : 3, few ? 0.5 : 0.25), dots(went.map(put), colour, few ? 7 : 3.5, few ? 0.95 : 0.6));
  }
  const first = trials.find((trial) => trial.rank === 1);
  if (first) frame.layer.append(svg("circle", { class: "ring", cx: put(first)[0], cy: put(first)[1], r: 6.5 }));
  hoverable(frame, trials.map((trial) => [...put(trial), () => `${nameOf(sweep, trial)}\n${x.title} ${brief(of(trial))}`, trial]));
  host.append(sizeLegend(sweep, trials));
  return { frame, trials, few };
}

function against(sweep, host, name) {
  const axis = sweep.told.axes.find((one) => one.name === name), [low, high] = padded(axis.low, axis.high, axis.log, 0.02);
  const { trials, few } = scatter(sweep, host, { low, high, log: axis.log, title: name }, (trial) => trial.params[name]);
  const top = Math.max(...trials.map((trial) => trial.rung)), mixed = trials.some((trial) => trial.rung < top);
  return `${counted(trials.length, "trial")}.${few && trials.some((trial) => known(trial.standard_error)) ? " Bars: ± one standard error over the validation rows." : ""}${
    mixed ? " Small and pale: trials that stopped early, with their value at their last rung." : ""}`;
}

function front(sweep, host) {
  const trials = sweep.trials.filter((trial) => trial.rank && trial.gpu_seconds > 0), [low, high] = padded(...extent(trials.map((trial) => trial.gpu_seconds)), true);
  const { frame } = scatter(sweep, host, { low, high, log: true, title: "GPU seconds of the trial", format: count }, (trial) => trial.gpu_seconds);
  const best = trials.filter((trial) => trial.pareto).sort((one, other) => one.gpu_seconds - other.gpu_seconds);
  const at = best.map((trial) => [frame.across(trial.gpu_seconds), frame.up(trial.metric)]);
  frame.layer.append(svg("path", { class: "curve", d: stairs([...at, [frame.width - frame.right, at.at(-1)[1]]]), paint: { stroke: "var(--best)" }, "stroke-dasharray": "5 3" }));
  return `★ No other trial beats ${best.length > 1 ? `these ${best.length}` : "this one"} in both ${sweep.told.metric} and GPU seconds: ${listed(best.map((trial) => trial.trial), 8)}.`;
}

function listed(names, most) {
  return names.slice(0, most).join(", ") + (names.length > most ? ` and ${names.length - most} more` : "");
}

function orders(sweep, host, choice) {
  const order = sweep.told.orders.find((one) => `rung ${one.rung}` === choice), shownTrials = order.trials.filter(([row]) => sweep.on[row]);
  const high = Math.max(...order.trials.map(([, , end]) => end)), ends = { low: high + 0.5, high: 0.5 };
  const some = high > 8 ? ticks({ low: 1, high }, 5).map((one) => Math.max(1, Math.round(one))) : [...Array(high).keys()].map((n) => n + 1);
  const axis = { ...ends, ticks: [...new Set([1, ...some.filter((one) => one > high / 9), high])] };
  const frame = plot(host, { x: { ...axis, title: `place at rung ${order.rung} (${amount(sweep, order.fidelity)})` }, y: { ...axis, title: "place at the end" },
    label: `Place of ${counted(shownTrials.length, "trial")} at rung ${order.rung} against the place at the end` });
  frame.layer.append(svg("path", { class: "rung", d: `M${frame.across(high)},${frame.up(high)}L${frame.across(1)},${frame.up(1)}` }));
  const put = ([, at, end]) => [frame.across(at), frame.up(end)], many = shownTrials.length > 200;
  for (const [, colour, trials] of bySize(sweep, visible(sweep))) {
    const mine = new Set(trials.map((trial) => trial.index));
    frame.layer.append(dots(shownTrials.filter(([row]) => mine.has(row)).map(put), colour, many ? 3.5 : 7, many ? 0.55 : 0.9));
  }
  const first = shownTrials.find(([row]) => sweep.trials[row].rank === 1);
  if (first) frame.layer.append(svg("circle", { class: "ring", cx: put(first)[0], cy: put(first)[1], r: 6.5 }));
  hoverable(frame, shownTrials.map((one) => [...put(one), () => `${nameOf(sweep, sweep.trials[one[0]])}\nplace ${one[1]} at the rung, ${one[2]} at the end`, sweep.trials[one[0]]]));
  host.append(sizeLegend(sweep, visible(sweep)));
  const shares = [["flipped_within", "pairs_within", "of one size"], ["flipped_between", "pairs_between", "of two sizes"]]
    .filter(([, pairs]) => order[pairs]).map(([flipped, pairs, kind]) => `${Math.round((100 * order[flipped]) / order[pairs])} % of ${counted(order[pairs], "pair")} ${kind}`);
  const found = ((sweep.told.facts.rungs || {}).correlations || []).find((one) => one.rung === order.rung);
  const told = shares.length ? ` Of all trials that went on, ${shares.join(" and ")} changed order.` : "";
  return `The trials that reached the end; on the line, the rung said what the end says.${told}${
    found ? ` Rank correlation ${found.value.toFixed(2)} (95 %: ${found.low.toFixed(2)} … ${found.high.toFixed(2)}).` : ""}`;
}

function sizes(sweep, box) {
  const host = el("div", {});
  const paid = sweep.told.dollars !== null, head = ["size", "params", "trials", "whole", "GPU s", ...(paid ? ["$"] : []), "one whole", "best", "tokens/s"];
  const row = (size) => [size.name, size.n_params ? count(size.n_params) : MISSING, size.trials.toLocaleString("en"), size.complete.toLocaleString("en"), seconds(size.gpu_seconds), ...(paid ? [money(size.dollars)] : []),
    seconds(size.whole_gpu_seconds), size.first === null ? MISSING : bestOf(sweep.trials[size.first]), known(size.tokens_per_second) ? count(size.tokens_per_second) : MISSING];
  box.replaceChildren(el("div", { class: "pair" }, host, el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Sizes" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((text, at) => el("th", { scope: "col", class: at ? "n" : null }, text)))),
    el("tbody", {}, sweep.told.sizes.map((size) => el("tr", {}, row(size).map((text, at) => el(at ? "td" : "th", { class: at ? "n" : null, scope: at ? null : "row" }, text)))))))));
  const reached = sweep.told.sizes.filter((size) => size.first !== null).map((size) => ({ ...size, best: sweep.trials[size.first] }));
  const cost = (size) => size.whole_gpu_seconds || size.best.gpu_seconds || 1, errors = (one) => one.best.standard_error || 0;
  const [left, right] = padded(...extent(reached.map(cost)), true, 0.25), values = reached.flatMap((one) => [one.best.metric - errors(one), one.best.metric + errors(one)]);
  const [low, high] = padded(...extent(values), false, 0.12);
  const frame = plot(host, { height: 200, x: { low: left, high: right, log: true, title: "GPU seconds of a whole trial", format: count }, y: { low, high, title: sweep.told.metric },
    label: `Best ${sweep.told.metric} of each size over the cost of a whole trial` });
  const points = reached.map((size) => {
    const x = frame.across(cost(size)), y = frame.up(size.best.metric), colour = sweep.colours[sweep.sizes.indexOf(size.name)];
    if (errors(size)) frame.layer.append(whisker(x, frame.up(size.best.metric - errors(size)), frame.up(size.best.metric + errors(size)), colour));
    frame.layer.append(dots([[x, y]], colour, 10, 1), svg("text", { class: "strong", x: x + 10, y: y + 4 }, size.name));
    return [x, y, () => nameOf(sweep, size.best), size.best];
  });
  hoverable(frame, points);
  return "The best trial of each size ± its standard error. Whole: trials that ran to the end, and the median GPU seconds of one. Tokens/s: trained in full by one worker.";
}

function bestOf(trial) {
  return `${score(trial.metric)}${known(trial.standard_error) ? ` ± ${score(trial.standard_error)}` : ""}`;
}

function timelines(sweep, host) {
  const trials = visible(sweep).filter((trial) => trial.rank && trial.groups.length).slice(0, TIMELINES), { told } = sweep;
  const width = Math.max(host.clientWidth, 200), left = Math.min(170, width * 0.38), high = 19, height = trials.length * high + 34;
  const across = scale({ low: 0, high: told.max_t }, left, width - 12), root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
    "aria-label": shown(`Layer groups that train over ${told.unit}, of ${counted(trials.length, "trial")}`) });
  trials.forEach((trial, at) => {
    const y = at * high + 4, reports = trial.curve.filter((_, n) => n % 3 === 0), whole = told.group_counts[trial.size] || Math.max(...trial.groups.filter((_, n) => n % 2));
    const text = `${trial.trial} ${trial.size} ${trial.method}`, most = Math.floor(left / 6.2);
    root.append(svg("text", { x: left - 8, y: y + 12, "text-anchor": "end", class: trial.rank === 1 ? "strong" : null }, text.length > most ? `${text.slice(0, most - 1)}…` : text));
    for (let n = 0; n < trial.groups.length; n += 2) {
      const before = n ? reports.filter((report) => report < trial.groups[n]).at(-1) || 0 : 0, groups = trial.groups[n + 1];
      const after = n + 2 < trial.groups.length ? reports.filter((report) => report < trial.groups[n + 2]).at(-1) : reports.at(-1);
      const x = across(before), wide = Math.max(1, across(after) - x - 1);
      root.append(svg("rect", { class: "bar", x, y: y + 1, width: wide, height: high - 4, rx: 2, "fill-opacity": 0.15 + (0.75 * groups) / whole, paint: { fill: trial.rank === 1 ? "var(--best)" : "var(--good)" } },
        svg("title", {}, `${trial.trial}: ${groups} of ${whole} layer groups train from ${count(before)} to ${amount(sweep, after)}`)));
      if (wide > 34) root.append(svg("text", { x: x + 5, y: y + 12.5, class: groups / whole > 0.55 ? "on" : "strong" }, `${groups}/${whole}`));
    }
  });
  for (const value of ticks({ low: 0, high: told.max_t }, 4)) root.append(svg("text", { x: across(value), y: height - 16, "text-anchor": "middle" }, count(value)));
  root.append(svg("text", { x: (left + width) / 2, y: height - 2, "text-anchor": "middle" }, told.unit));
  host.replaceChildren(root);
  return `Layer groups that train, of all groups of the size, as each report says. ${trials.length > 1 ? `The first ${trials.length} trials of the ranking.` : ""}`.trim();
}

function parallel(sweep, host) {
  const { told } = sweep, trials = visible(sweep).filter((trial) => trial.rank), height = 330, top = 26, bottom = 74, space = Math.max(84, (host.clientWidth - 130) / told.axes.length);
  const width = Math.max(host.clientWidth, space * told.axes.length + 130), absent = height - bottom + 26;
  const axes = told.axes.map((axis, at) => {
    const x = 60 + at * space, values = trials.map((trial) => trial.params[axis.name]), lacking = values.filter((value) => !known(value)).length;
    const place = known(axis.low) ? scale(axis, height - bottom, top) : words(values.filter(known), height - bottom, top);
    return { ...axis, x, place, lacking, sometimes: Object.keys(axis.when).length > 0, of: (trial) => trial.params[axis.name] };
  });
  const ends = padded(...range(trials.map((trial) => trial.metric), told.goal === "minimize"), false, 0);
  const last = { name: told.metric, x: 60 + told.axes.length * space, low: ends[0], high: ends[1], when: {}, of: (trial) => Math.min(ends[1], Math.max(ends[0], trial.metric)) };
  const minimize = told.goal === "minimize";
  last.place = minimize ? scale(last, top, height - bottom) : scale(last, height - bottom, top);
  axes.push(last);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": shown(`Settings of ${counted(trials.length, "trial")}: ${told.axes.map((axis) => axis.name).join(", ")}`) });
  root.style.width = `${width}px`;
  const points = (trial) => axes.map((axis) => [axis.x, known(axis.of(trial)) ? axis.place(axis.of(trial)) : absent]);
  const path = (some) => some.map((trial) => points(trial).map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(0)},${y.toFixed(1)}`).join("")).join("");
  const quarter = Math.max(1, Math.ceil(trials.length / 4)), leaders = trials.filter((trial) => trial.rank === 1 || trial.tied_with_first).slice(0, 12), ahead = new Set(leaders);
  const good = thinned(trials.slice(0, quarter).filter((trial) => !ahead.has(trial)), PARALLEL_LINES), rest = thinned(trials.slice(quarter).filter((trial) => !ahead.has(trial)), PARALLEL_LINES);
  root.append(
    svg("path", { class: "curve", d: path(rest), "stroke-opacity": 0.3, paint: { stroke: "var(--rest)", "stroke-width": 1 } }),
    svg("path", { class: "curve", d: path(good), "stroke-opacity": good.length > 100 ? 0.3 : 0.6, paint: { stroke: "var(--good)", "stroke-width": 1.2 } }),
    svg("path", { class: "curve", d: path(leaders.slice(1)), "stroke-opacity": 0.6, paint: { stroke: "var(--best)", "stroke-width": 1.3 } }),
    svg("path", { class: "curve", d: path(leaders.slice(0, 1)), paint: { stroke: "var(--best)", "stroke-width": 2.6 } }),
  );
  for (const axis of axes) {
    root.append(svg("path", { class: "axis", d: `M${axis.x},${top}V${height - bottom}`, paint: { stroke: "var(--faint)" } }));
    const title = axis.name.length > space / 6.4 ? `${axis.name.slice(0, Math.floor(space / 6.4) - 1)}…` : axis.name;
    root.append(svg("text", { class: "strong", x: axis.x, y: 13, "text-anchor": "middle" }, title, svg("title", {}, axis.name)));
    const marks = known(axis.low) ? ticks(axis, 4) : [...axis.place.values];
    for (const value of marks) root.append(svg("text", { x: axis.x + 5, y: axis.place(value) + 3.5, class: "over" }, short(axis.log ? brief(value) : brief(value), space)));
    if (axis.lacking || axis.sometimes) {
      root.append(svg("circle", { cx: axis.x, cy: absent, r: 3.5, paint: { fill: "var(--bg)", stroke: "var(--faint)" } }), svg("text", { x: axis.x, y: absent + 16, "text-anchor": "middle" }, `absent in ${axis.lacking}`));
    }
  }
  host.replaceChildren(el("div", { class: "across", tabindex: 0, role: "region", "aria-label": "Parallel coordinates" }, root));
  const frame = { root, width, height }, near = [...leaders, ...good, ...rest].flatMap((trial) => points(trial).map((point) => [...point, () => nameOf(sweep, trial), trial]));
  hoverable(frame, near, ([, , , trial]) => [svg("path", { class: "hover", d: path([trial]) })]);
  host.append(legend([[`the first${leaders.length > 1 ? ` and ${leaders.length - 1} that can't be told apart from it` : ""}`, "var(--best)"], ["the best quarter", "var(--good)"], ["the others", "var(--rest)"]], true));
  const left = trials.length - leaders.length - good.length - rest.length;
  return `A line for each trial. A line at the bottom of an axis: the parameter does not exist in that trial.${left > 0 ? ` Of ${trials.length.toLocaleString("en")} trials, ${left.toLocaleString("en")} are left out evenly, so that lines can be seen.` : ""}`;
}

function short(text, space) {
  const most = Math.floor(space / 6.5);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** A scale for words: evenly spaced, in order of appearance; numbers in order of size. */
function words(values, from, to) {
  const all = [...new Set(values)].sort((one, other) => (typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other))));
  const places = new Map(all.map((value, at) => [value, all.length > 1 ? from + ((to - from) * at) / (all.length - 1) : (from + to) / 2])), place = (value) => places.get(value);
  place.values = all;
  return place;
}

/** A small plot for each axis: how much worse each value is than the best one, with its interval. */
function effectPlots(sweep) {
  const effects = (sweep.told.facts.axes || {}).effects || [], logs = new Map(sweep.told.axes.map((axis) => [axis.name, axis.log]));
  return effects.slice(0, 8).map((effect) => {
    const host = el("div", { class: "plot" }), colour = effect.low > 0 ? "var(--best)" : "var(--rest)";
    const many = effect.profile.length > 8, log = Boolean(logs.get(effect.axis));
    const draw = () => (many ? band : bars)(host, effect, colour, log, sweep.told.metric);
    const told = effect.low > 0 ? `${brief(effect.better)} is better than ${brief(effect.worse)} by ${brief(effect.difference)} (${brief(effect.low)} … ${brief(effect.high)})` : "not shown to matter";
    return { host: el("div", {}, el("h4", {}, effect.axis, el("span", {}, ` · ${told}`)), host), draw };
  });
}

function bars(host, effect, colour, log, metric) {
  const profile = typeof effect.better === "number" ? effect.profile : [...effect.profile].sort(([, one], [, other]) => one - other);
  const width = Math.max(host.clientWidth, 160), high = 20, left = Math.min(140, width * 0.42), height = profile.length * high + 8;
  const far = Math.max(...profile.map(([, gap, half]) => gap + half)), near = Math.min(0, ...profile.map(([, gap, half]) => gap - half));
  const across = scale({ low: near, high: far || 1 }, left, width - 8), root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img",
    "aria-label": shown(`${effect.axis}: ${profile.map(([value, gap, half]) => `${brief(value)} worse by ${brief(gap)} ± ${brief(half)}`).join(", ")}`) });
  root.append(svg("path", { class: "axis", d: `M${across(0)},0V${height - 4}`, paint: { stroke: "var(--faint)" } }));
  profile.forEach(([value, gap, half], at) => {
    const y = at * high + 12;
    root.append(svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, short(brief(value), left - 8)), whisker(y, across(gap - half), across(gap + half), colour, true), dots([[across(gap), y]], colour, 7, 1),
      svg("title", {}, `${metric} worse than with the best value by …`));
  });
  host.replaceChildren(root);
}

function band(host, effect, colour, log, metric) {
  const values = effect.profile.map(([value]) => value), x = { low: values[0], high: values.at(-1), log };
  const y = { low: Math.min(...effect.profile.map(([, gap, half]) => gap - half)), high: Math.max(...effect.profile.map(([, gap, half]) => gap + half)), format: (value) => brief(value) };
  const frame = plot(host, { height: 112, left: 46, bottom: 22, top: 6, x, y, label: `${effect.axis}: ${metric} worse than with the best value` });
  const at = (side) => effect.profile.map(([value, gap, half]) => [frame.across(value), frame.up(gap + side * half)]);
  const around = [...at(1), ...at(-1).reverse()].map(([px, py], n) => `${n ? "L" : "M"}${px.toFixed(1)},${py.toFixed(1)}`).join("");
  frame.layer.append(svg("path", { d: `${around}Z`, paint: { fill: colour }, "fill-opacity": 0.18 }), line(at(0), colour, { "stroke-width": 2 }));
}

/** The effects as bars: the difference that each axis makes, with its interval. */
function importance(sweep, host) {
  const effects = (sweep.told.facts.axes || {}).effects || [], width = Math.max(host.clientWidth, 200), left = Math.min(170, width * 0.42), high = 22, height = effects.length * high + 30;
  const x = { low: Math.min(0, ...effects.map((one) => one.low)), high: Math.max(...effects.map((one) => one.high)) }, across = scale(x, left, width - 10);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "Importance of the axes" });
  for (const value of ticks(x, width / 110)) root.append(svg("path", { class: "grid", d: `M${across(value)},0V${height - 26}` }), svg("text", { x: across(value), y: height - 12, "text-anchor": "middle" }, brief(value)));
  effects.forEach((effect, at) => {
    const y = at * high + 12, colour = effect.low > 0 ? "var(--best)" : "var(--rest)";
    root.append(svg("text", { x: left - 8, y: y + 4, "text-anchor": "end", class: effect.low > 0 ? "strong" : null }, short(effect.axis, left)),
      svg("rect", { class: "bar", x: across(0), y: y - 6, width: Math.max(1, across(effect.difference) - across(0)), height: 12, "fill-opacity": 0.35, paint: { fill: colour } }),
      whisker(y, across(effect.low), across(effect.high), colour, true));
  });
  host.replaceChildren(root);
  const sure = effects.filter((effect) => effect.low > 0).length;
  return `How much ${sweep.told.metric} differs between the two values of each axis that differ most, on average over the other axes, with 5–95 % intervals. ${
    sure ? "Grey: the trials do not show that it matters." : "The trials do not show that any axis matters."}`;
}
