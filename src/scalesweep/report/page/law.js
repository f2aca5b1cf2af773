// The scaling law of the sweeps on the page: points, curves with bands, parameters and predictions; or why there is none.

function lawSection(law, sweep) {
  const head = el("h2", {}, "Scaling law"), words = law.said.map((text) => el("p", { class: "soft" }, text));
  if (!law.law) return el("section", {}, head, words);
  const charts = [
    figure(law.formula, (_, host) => drawLaw(law, host), { double: true }, sweep),
    el("figure", {}, lawTable("Parameters", ["parameter", "value", "90 % interval"], law.parameters.map(([name, value, low, high]) => [name, digits(value), ends(low, high, digits)])),
      law.laws.length > 1 ? lawTable("Laws", ["law", "weight", "error at the largest"], law.laws.map(([name, weight, error]) => [name, weight.toFixed(2), known(error) ? `${Number((100 * error).toPrecision(2))} %` : MISSING])) : null,
      el("figcaption", {}, `${law.law} (${law.source}): ${law.symbols.join(", ")}. ${law.maximize ? `It describes 1 − ${law.metric}. ` : ""}${
        law.laws.length > 1 ? "The error is that of a fit without the largest; predictions combine the laws by weight." : ""}`)),
    el("figure", { class: "wide" }, lawTable("Predictions for larger runs", ["run", law.metric, "90 % interval of the law", "of the best of a search"],
      law.predictions.map((one) => [one.at, score(one.law[0]), ends(one.law[1], one.law[2], score), ends(one.run[1], one.run[2], score)])),
      el("figcaption", {}, "No interval covers a law that changes beyond the points. Other places: scalesweep scaling … --at KEY=VALUE.")),
  ];
  return el("section", {}, head, el("div", { class: "charts" }, charts), words);
}

function digits(value) {
  return known(value) ? (Math.abs(value) >= 1e6 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(4)))) : MISSING;
}

function ends(low, high, format) {
  return `${known(low) ? format(low) : "no limit"} … ${known(high) ? format(high) : "no limit"}`;
}

function lawTable(title, head, rows) {
  return [el("div", { class: "head" }, el("h3", {}, title)), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((text, at) => el("th", { scope: "col", class: at ? "n" : null }, text)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((text, at) => el(at ? "td" : "th", { class: at ? "n" : null, scope: at ? null : "row" }, text)))))))];
}

function drawLaw(law, host) {
  const seconds = [...new Set([...law.curves, ...law.points].map((one) => one.second))].sort((one, other) => one - other);
  const colour = (second) => `var(--size-${seconds.length > 1 ? Math.round((seconds.indexOf(second) * 7) / (seconds.length - 1)) : 2})`;
  const [left, right] = padded(...extent([...law.curves.flatMap((curve) => [curve.x[0], curve.x.at(-1)]), ...law.points.map((one) => one.x)]), true);
  const seen = [...law.points.map((one) => one.value), ...law.curves.flatMap((curve) => [...curve.value, ...curve.low, ...curve.high].filter(known))];
  const values = extent([...law.points.map((one) => one.value), ...law.curves.flatMap((curve) => curve.value.filter(known))]), room = values[1] - values[0];
  const [low, high] = padded(Math.max(extent(seen)[0], values[0] - room), Math.min(extent(seen)[1], values[1] + room));
  const frame = plot(host, { height: 300, x: { low: left, high: right, log: true, title: law.axes[0], format: count }, y: { low, high, title: law.metric },
    label: `${law.metric} of ${counted(law.points.length, "point")} over ${law.axes[0]}, with the fitted law` });
  for (const curve of law.curves) {
    const at = (side, other) => curve.x.map((x, n) => [frame.across(x), frame.up(curve[side][n] ?? (other === "low" ? low - room : high + room))]);
    const around = [...at("low", "low"), ...at("high", "high").reverse()].map(([x, y], n) => `${n ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
    frame.layer.append(svg("path", { d: `${around}Z`, paint: { fill: colour(curve.second) }, "fill-opacity": 0.14 }), line(at("value"), colour(curve.second), { "stroke-width": 1.8 }));
  }
  const of = (one) => (known(one.second) ? `, ${law.axes[1]} ${count(one.second)}` : ""), points = [];
  for (const one of law.points) {
    const x = frame.across(one.x), y = frame.up(one.value);
    frame.layer.append(dots([[x, y]], colour(one.second), 8, 1));
    points.push([x, y, () => `${law.axes[0]} ${count(one.x)}${of(one)}\n${score(one.value)}, best of ${counted(one.trials, "trial")}\nresidual of ln ${(100 * one.residual).toFixed(2)} %`]);
  }
  for (const one of law.predictions) {
    const x = frame.across(one.x), y = frame.up(one.run[0]);
    frame.layer.append(whisker(x, frame.up(one.run[1] ?? low - room), frame.up(one.run[2] ?? high + room), "var(--best)"), dots([[x, y]], "var(--best)", 7, 1));
    points.push([x, y, () => `predicted: ${one.at}\n${score(one.run[0])} (${ends(one.run[1], one.run[2], score)})`]);
  }
  hoverable(frame, points);
  host.append(legend([...(law.axes.length > 1 ? seconds.map((second) => [`${law.axes[1]} ${count(second)}`, colour(second)]) : [["the law", colour(seconds[0])]]), ["predicted", "var(--best)"]]));
  return `${counted(law.points.length, "point")}, the best of ${counted(law.trials, "trial")}, each corrected for the luck of being the best. Bands: 90 % intervals of the law. Bars: of the best of one more search.`;
}
