"use strict";
// Elements, numbers and words. Every text enters the page as text, never as markup.

const MISSING = "–";

/** A text in which control characters, such as those of terminal colours, can be seen and have no effect. */
function shown(text) {
  if (!/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/.test(text)) return String(text);
  return String(text)
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (one) => String.fromCharCode(0x2400 + one.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, (one) => `‹U+${one.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}›`);
}

/** An element with attributes, listeners (`onclick`) and children: elements, texts, or null for none. */
function el(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "paint") for (const [property, colour] of Object.entries(value)) element.style.setProperty(property, colour);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(shown(child)));
  }
  return element;
}

function known(value) {
  return value !== null && value !== undefined;
}

/** A metric's value with four decimals, or four digits where it is large. */
function score(value) {
  if (!known(value)) return MISSING;
  return Math.abs(value) < 1000 ? value.toFixed(4) : Number(value.toPrecision(4)).toLocaleString("en");
}

/** 18,873,216 → 18.9M */
function count(number) {
  if (!known(number)) return MISSING;
  for (const [scale, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
    if (number >= scale && number < 1e15) return `${Number((number / (letter === "k" ? 1e3 : scale)).toPrecision(3))}${letter}`;
  }
  return number >= 1e15 ? number.toExponential(1) : Number(number.toPrecision(4)).toLocaleString("en");
}

/** Seconds of GPUs: three digits where there are few. */
function seconds(value) {
  if (!known(value)) return MISSING;
  return value < 10 ? String(Number(value.toPrecision(2))) : Math.round(value).toLocaleString("en");
}

function money(value) {
  return known(value) ? `$${value < 0.1 && value > 0 ? value.toPrecision(2) : value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}` : MISSING;
}

function clock(told) {
  const whole = Math.max(0, Math.round(told)), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

/** A setting's value, short: 2.3e-4, 0.15, yes, cosine. */
function brief(value) {
  if (!known(value)) return MISSING;
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  if (Number.isInteger(value)) return Math.abs(value) < 1e6 ? String(value) : count(value);
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e6 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

/** A value with all its digits. */
function full(value) {
  return !known(value) ? "null" : typeof value === "string" ? value : JSON.stringify(value);
}

function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

function copyButton(text) {
  const button = el("button", { class: "copy", type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange();  // without the permission, the command is at least selected
      range.selectNodeContents(button.previousElementSibling);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

function commandLine(text) {
  return el("div", { class: "run" }, el("code", {}, text), copyButton(text));
}
