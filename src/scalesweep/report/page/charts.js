// Plots in SVG: scales, axes, marks, and the trial under the pointer.
// Colours are those of the style sheet, so that a plot follows the theme without being drawn again.

let clips = 0;

function scale(axis, from, to) {
  const f = axis.log ? Math.log : (value) => value;
  const low = f(axis.low), span = f(axis.high) - low || 1;
  return (value) => from + ((f(value) - low) / span) * (to - from);
}

/** Round numbers between two ends. */
function ticks(axis, most) {
  const { low, high } = axis;
  if (axis.log && high / low >= 8) {
    const found = [], decades = Math.log10(high / low), steps = decades > most ? [1] : decades > most / 3 ? [1, 3] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const step of steps) found.push(step * 10 ** power);
    }
    return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  }
  const rough = (high - low) / most || 1, unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * ([1, 2, 2.5, 5, 10].find((factor) => factor * unit >= rough) || 10), found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function padded(low, high, log, share = 0.04) {
  if (!(low < high)) { const half = Math.abs(low) * 0.05 || 0.5; return log ? [low / 1.2, high * 1.2] : [low - half, high + half]; }
  if (log) { const factor = (high / low) ** share; return [low / factor, high * factor]; }
  return [low - share * (high - low), high + share * (high - low)];
}

/** The range of values for an axis: all, without the worst hundredth. */
function range(values, minimize) {
  const sorted = Float64Array.from(values).sort(), last = sorted.length - 1;
  if (last < 0) return [0, 1];
  const cut = sorted.length > 20 ? 0.02 : 0;
  return minimize ? [sorted[0], sorted[Math.floor(last * (1 - cut))]] : [sorted[Math.ceil(last * cut)], sorted[last]];
}

/** An empty plot with axes. Returns its element, the two scales and the layer for marks. */
function plot(host, { x, y, height = 250, label, left = 54, bottom = 36, top = 10, right = 14 }) {
  const width = Math.max(host.clientWidth, 200), across = scale(x, left, width - right), up = scale(y, height - bottom, top), id = `clip${++clips}`;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": shown(label) });
  root.append(svg("clipPath", { id }, svg("rect", { x: left - 4, y: top - 4, width: width - left - right + 8, height: height - top - bottom + 8 })));
  for (const value of y.ticks || ticks(y, 5)) {
    const at = Math.round(up(value)) + 0.5;
    root.append(svg("path", { class: "grid", d: `M${left},${at}H${width - right}` }), svg("text", { x: left - 7, y: at + 4, "text-anchor": "end" }, (y.format || brief)(value)));
  }
  let end = -Infinity;
  for (const value of [...(x.ticks || ticks(x, width / 90))].sort((one, other) => across(one) - across(other))) {
    const at = across(value), text = (x.format || brief)(value), half = text.length * 3.2;
    if (at - half < end + 6) continue;
    end = at + half;
    root.append(svg("path", { class: "axis", d: `M${Math.round(at) + 0.5},${height - bottom}v4` }), svg("text", { x: at, y: height - bottom + 16, "text-anchor": "middle" }, text));
  }
  root.append(svg("path", { class: "axis", d: `M${left},${height - bottom + 0.5}H${width - right}` }));
  root.append(svg("text", { class: "label", x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, x.title || ""));
  if (y.title) root.append(svg("text", { class: "label", transform: `translate(11,${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.title));
  const layer = svg("g", { "clip-path": `url(#${id})` });
  root.append(layer);
  host.replaceChildren(root);
  return { root, layer, across, up, width, height, left, right, top, bottom };
}

/** Many dots as one path. `points`: pairs of places. */
function dots(points, colour, size = 5, opacity = 0.75) {
  const d = points.map(([x, y]) => `M${x.toFixed(1)},${y.toFixed(1)}h.01`).join("");
  return svg("path", { class: "dot", d, "stroke-width": size, "stroke-opacity": opacity, paint: { stroke: colour } });
}

function line(points, colour, attributes) {
  const d = points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
  return svg("path", { class: "curve", d, paint: { stroke: colour }, ...attributes });
}

function stairs(points) {
  return points.map(([x, y], at) => (at ? `H${x.toFixed(1)}V${y.toFixed(1)}` : `M${x.toFixed(1)},${y.toFixed(1)}`)).join("");
}

/** An error bar with ends. */
function whisker(x, low, high, colour, flat = false) {
  const d = flat ? `M${low},${x}H${high}M${low},${x - 3}v6M${high},${x - 3}v6` : `M${x},${low}V${high}M${x - 3},${low}h6M${x - 3},${high}h6`;
  return svg("path", { class: "whisker", d, paint: { stroke: colour } });
}

function legend(entries, lines = false) {
  return el("div", { class: "legend" }, entries.map(([text, colour]) => el("span", { class: lines ? "line" : null, paint: { "--mark": colour } }, text)));
}

const tip = {
  show(text, event) {
    const box = document.getElementById("tip");
    box.setAttribute("aria-live", event.type ? "off" : "polite");  // read out after a key, not under a pointer
    box.hidden = false;
    box.textContent = shown(text);
    const wide = box.offsetWidth, high = box.offsetHeight;
    box.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - wide - 8))}px`;
    box.style.top = `${event.clientY + 16 + high > innerHeight ? event.clientY - high - 12 : event.clientY + 16}px`;
  },
  hide() { document.getElementById("tip").hidden = true; },
};

/** Show the trial nearest to the pointer or reached by the arrow keys, and open it on a click or Enter. `points`: [x, y, () => text, trial]; `mark` draws it. */
function hoverable(frame, points, mark) {
  const { root } = frame, over = svg("g", {}), hide = () => { over.replaceChildren(); tip.hide(); };
  let near = null;
  root.append(over);
  const look = (point, at) => {
    near = point;
    over.replaceChildren(...(near ? (mark || ring)(near) : []));
    root.style.cursor = near && near[3] ? "pointer" : "";
    if (near) tip.show(near[2](), at); else tip.hide();
  };
  const step = (point) => {
    const box = root.getBoundingClientRect();
    look(point, { clientX: box.left + (point[0] * box.width) / frame.width, clientY: box.top + point[1] });
  };
  const open = () => { if (near && near[3]) { tip.hide(); openDetail(near[3]); } };
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect(), x = ((event.clientX - box.left) * frame.width) / box.width, y = event.clientY - box.top;
    let least = 24 ** 2, found = null;
    for (const point of points) {
      const away = (point[0] - x) ** 2 + (point[1] - y) ** 2;
      if (away < least) { least = away; found = point; }
    }
    look(found, event);
  });
  root.addEventListener("pointerleave", hide);
  root.addEventListener("click", open);
  if (!points.length) return;
  root.setAttribute("tabindex", 0);
  root.setAttribute("role", "application");
  root.addEventListener("focus", () => { if (root.matches(":focus-visible")) step(near || points[0]); });
  root.addEventListener("blur", hide);
  root.addEventListener("keydown", (event) => {
    if (event.key === "Enter") open();
    if (!ARROWS[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    step(near ? beside(points, near, ...ARROWS[event.key]) || near : points[0]);
  });
}

const ARROWS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 1], ArrowUp: [1, -1] };

/** The next point along an axis: up or down among those below one another, else the nearest of those that come next. */
function beside(points, from, axis, sign) {
  let least = Infinity, found = null;
  for (const point of points) {
    const along = sign * (point[axis] - from[axis]), aside = Math.abs(point[1 - axis] - from[1 - axis]), away = 1e4 * along + aside;
    if (along >= 0.5 && away < least && (!axis || aside < 0.5)) { least = away; found = point; }
  }
  return found;
}

function ring([x, y]) {
  return [svg("circle", { class: "hover", cx: x, cy: y, r: 6 })];
}
