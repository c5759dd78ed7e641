// Moves and shows what the page already holds; every figure and number is there without it.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const SVG = "http://www.w3.org/2000/svg";
for (const element of all("[data-script]")) element.hidden = false;

// Theme: the system's until the reader chooses.
const dark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
function nameTheme() {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
  $("theme").textContent = isDark ? "Light theme" : "Dark theme";
  return isDark;
}
$("theme").addEventListener("click", () => {
  root.dataset.theme = nameTheme() ? "light" : "dark";
  nameTheme();
});
dark.addEventListener("change", nameTheme);
nameTheme();

// Size in parameters, weights or layers: every chart holds a drawing of each.
function showUnit(unit) {
  for (const drawing of all(".chart .unit")) drawing.toggleAttribute("hidden", drawing.dataset.unit !== unit);
  drawn = charts.map((chart) => all(".unit:not([hidden]) .point", chart).sort((a, b) => a.dataset.p - b.dataset.p));
  markChosen();
}
const charts = all(".chart");
let drawn = [], chosen = "";
function markChosen() {
  all(".halo").forEach((mark) => mark.remove());
  all("tr.chosen").forEach((row) => row.classList.remove("chosen"));
  for (const point of drawn.flat()) if (point.dataset.member === chosen) circle(point, "halo", 11);
  all(`tr[data-member="${chosen}"]`).forEach((row) => row.classList.add("chosen"));
}
const units = all("input[name=unit]");
for (const input of units) input.addEventListener("change", () => showUnit(input.value));

// What a point is, by mouse, finger or arrow keys.
const tip = $("tip");
function circle(point, name, radius) {
  const mark = document.createElementNS(SVG, "circle");
  mark.setAttribute("class", name);
  mark.setAttribute("cx", point.getAttribute("x"));
  mark.setAttribute("cy", point.getAttribute("y"));
  mark.setAttribute("r", radius);
  point.before(mark);
}
function hideTip() {
  tip.hidden = true;
  all(".near").forEach((mark) => mark.remove());
}
function showTip(chart, points, index) {
  hideTip();
  const point = points[index];
  circle(point, "near", 12);
  const [heading, ...lines] = data.charts[chart.dataset.chart][point.dataset.p];
  tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: heading }));
  for (const line of lines) tip.append(Object.assign(document.createElement("div"), { textContent: line }));
  tip.hidden = false;
  const at = point.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.x + at.width / 2 - own.width / 2), innerWidth - own.width - 8);
  const above = at.y - own.height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : at.bottom + 8}px`;
}
function nearest(chart, points, event) {
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
  let best = -1, least = 26;
  points.forEach((point, index) => {
    const distance = Math.hypot(point.getAttribute("x") - place.x, point.getAttribute("y") - place.y);
    if (distance <= least) [best, least] = [index, distance];
  });
  return best;
}
charts.forEach((chart, number) => {
  let at = -1;
  chart.setAttribute("tabindex", "0");
  const show = (event) => {
    at = nearest(chart, drawn[number], event);
    if (at < 0) hideTip(); else showTip(chart, drawn[number], at);
  };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", hideTip);
  chart.addEventListener("blur", hideTip);
  chart.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hideTip();
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const points = drawn[number];
    at = at < 0 && step < 0 ? points.length - 1 : (at + step + points.length) % points.length;
    showTip(chart, points, at);
  });
});
addEventListener("scroll", hideTip, { passive: true });

showUnit(units.find((input) => input.checked).value);

// Which member for a budget: the rule is that of `boomerang build --memory`, the sums are its own.
const part = (id, text) => { $(id).textContent = text; };
function showBytes(bytes) {
  for (const [power, unit] of [[3, "GiB"], [2, "MiB"], [1, "KiB"]]) {
    if (bytes >= 1024 ** power) return `${(bytes / 1024 ** power).toFixed(2)} ${unit}`;
  }
  return `${bytes} B`;
}
if (data.choices.length) {
  const slider = $("slider"), budget = $("budget"), context = $("context"), which = $("family");
  let family = 0;
  function needs(member) {
    const [weights, cache, workspace, total] = member.memory[context.selectedIndex];
    return { weights, cache, workspace, total };
  }
  const widths = (sums, limit) => {
    for (const name of ["weights", "cache", "workspace"]) {
      $(`bar-${name}`).style.width = `${(100 * sums[name]) / Math.max(limit, sums.total)}%`;
      part(`part-${name}`, showBytes(sums[name]));
    }
  };
  function limits() {
    const { members, unit: [bytes, name] } = data.choices[family];
    const totals = members.map((member) => needs(member).total / bytes);
    const span = Math.max(...totals) - Math.min(...totals) || Math.max(...totals);
    slider.step = 10 ** Math.floor(Math.log10(span / 60));
    slider.min = Math.max(0, Math.min(...totals) - 0.08 * span).toFixed(3);
    slider.max = (Math.max(...totals) + 0.08 * span).toFixed(3);
    part("budget-unit", name);
    return totals;
  }
  function choose() {
    const { members, unit: [bytes] } = data.choices[family];
    const limit = Math.floor(Number(budget.value) * bytes);
    const sums = members.map(needs);
    let best = -1;
    members.forEach((member, index) => {
      const larger = best < 0 || member.layers >= members[best].layers;
      if (sums[index].total <= limit && larger) best = index;
    });
    show(members, sums, best, limit);
  }
  function show(members, sums, best, limit) {
    chosen = best < 0 ? "" : `${family}:${best}`;
    markChosen();
    $("found").hidden = best < 0;
    slider.setAttribute("aria-valuetext", `${showBytes(limit)}: ${best < 0 ? "nothing fits" : `${members[best].layers} layers`}`);
    if (best < 0) {
      const least = sums.reduce((a, b) => (b.total < a.total ? b : a));
      const smallest = members[sums.indexOf(least)];
      part("member", "Nothing fits");
      part("why", `The smallest member, ${smallest.layers} layers, needs ${showBytes(least.total)}.`);
      return;
    }
    const member = members[best], next = members[best + 1];
    part("member", `${member.layers} layers`);
    part("why", member.about + (next ? ` The next size, ${next.layers} layers, needs ${showBytes(sums[best + 1].total)}.` : ""));
    part("total", `${showBytes(sums[best].total)} of ${showBytes(limit)}`);
    part("quality", member.quality);
    part("rival", member.rival);
    widths(sums[best], limit);
    if (data.choices[family].context === null) part("part-cache", "not known");
    $("command").replaceChildren(...member.command.split(" ").flatMap((word, index) => {
      const span = Object.assign(document.createElement("span"), { textContent: word });
      return index ? [" ", span] : [span];
    }));
    part("copied", "");
  }
  function start() {
    const { members, contexts, context: usual } = data.choices[family];
    context.replaceChildren(...contexts.map((length) => new Option(length.toLocaleString("en"), length)));
    context.value = usual ?? 1;
    $("context-field").hidden = usual === null;
    const totals = limits();
    const middle = totals[Math.floor((members.length - 1) / 2)];
    const after = totals[Math.floor((members.length - 1) / 2) + 1] ?? middle * 1.05;
    budget.value = ((middle + after) / 2).toPrecision(3);
    slider.value = budget.value;
    choose();
  }
  slider.addEventListener("input", () => { budget.value = String(Number(Number(slider.value).toPrecision(6))); choose(); });
  budget.addEventListener("input", () => { slider.value = budget.value; choose(); });
  context.addEventListener("change", () => { limits(); slider.value = budget.value; choose(); });
  which?.addEventListener("change", () => { family = Number(which.value); start(); });
  $("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($("command").textContent);
      part("copied", "Copied.");
    } catch {
      getSelection().selectAllChildren($("command"));
      part("copied", "Selected: copy it with the keyboard.");
    }
  });
  start();
}

// Tables: by any column, upwards and downwards; empty cells last.
for (const button of all("thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of all("[aria-sort]", head.parentNode)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[head.cellIndex].dataset.v;
    const order = (a, b) => {
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      const numbers = Number(a) - Number(b);
      const ahead = Number.isNaN(numbers) ? a.localeCompare(b) : numbers;
      return down ? -ahead : ahead;
    };
    body.append(...[...body.rows].sort((a, b) => order(value(a), value(b))));
  });
}
