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

// Size in parameters, weights or layers: every point knows its place for each.
function showUnit(index, unit) {
  for (const chart of all(".chart")) {
    for (const marks of all(".sizes", chart)) marks.toggleAttribute("hidden", marks.dataset.unit !== unit);
    for (const line of all(".line", chart)) {
      const corners = [];
      for (const point of all(".point", line)) {
        const x = point.dataset.x.split(" ")[index];
        point.toggleAttribute("hidden", x === "-");
        if (x === "-") continue;
        point.setAttribute("transform", `translate(${x},${point.dataset.y})`);
        corners.push(`${x},${point.dataset.y}`);
      }
      const stroke = line.querySelector(":scope > .stroke");
      if (stroke) stroke.setAttribute("d", `M${corners.join("L")}`);
    }
  }
}
all("input[name=unit]").forEach((input, index) => {
  input.addEventListener("change", () => showUnit(index, input.value));
  if (input.checked && index) showUnit(index, input.value);
});

// What a point is, by mouse, finger or arrow keys.
const tip = $("tip");
function circle(point, name, radius) {
  const mark = document.createElementNS(SVG, "circle");
  mark.setAttribute("class", name);
  mark.setAttribute("r", radius);
  point.prepend(mark);
}
function forget() {
  tip.hidden = true;
  all(".near").forEach((mark) => mark.remove());
}
function tell(chart, index) {
  forget();
  const point = all(".point", chart)[index];
  circle(point, "near", 12);
  const [heading, ...lines] = data.charts[chart.dataset.chart][index];
  tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: heading }));
  for (const line of lines) tip.append(Object.assign(document.createElement("div"), { textContent: line }));
  tip.hidden = false;
  const at = point.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.x + at.width / 2 - own.width / 2), innerWidth - own.width - 8);
  const above = at.y - own.height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : at.bottom + 8}px`;
}
function nearest(chart, event) {
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
  let best = -1, least = 26;
  all(".point", chart).forEach((point, index) => {
    if (point.hasAttribute("hidden")) return;
    const at = point.transform.baseVal.consolidate().matrix;
    const distance = Math.hypot(at.e - place.x, at.f - place.y);
    if (distance <= least) [best, least] = [index, distance];
  });
  return best;
}
for (const chart of all(".chart")) {
  let at = -1;
  chart.setAttribute("tabindex", "0");
  const show = (event) => {
    at = nearest(chart, event);
    if (at < 0) forget(); else tell(chart, at);
  };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", forget);
  chart.addEventListener("blur", forget);
  chart.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return forget();
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const points = all(".point", chart);
    do at = (at + step + points.length + (at < 0 && step < 0 ? 1 : 0)) % points.length;
    while (points[at].hasAttribute("hidden"));
    tell(chart, at);
  });
}
addEventListener("scroll", forget, { passive: true });

// Which member for a budget. The rule and the sum are those of `boomerang sizes`.
const part = (id, text) => { $(id).textContent = text; };
function showBytes(bytes) {
  for (const [power, unit] of [[3, "GiB"], [2, "MiB"], [1, "KiB"]]) {
    if (bytes >= 1024 ** power) return `${(bytes / 1024 ** power).toFixed(2)} ${unit}`;
  }
  return `${bytes} B`;
}
function needs(member, context) {
  const cache = member.cache
    .map(([window, bytes]) => bytes * (window === null ? context : Math.min(context, window)))
    .reduce((sum, bytes) => sum + bytes, 0);
  const workspace = Math.floor(data.overhead * member.weights);
  return { weights: member.weights, cache, workspace, total: member.weights + cache + workspace };
}
if (data.choices.length) {
  const slider = $("slider"), budget = $("budget"), context = $("context"), which = $("family");
  let family = 0;
  const tokens = () => Math.max(1, Math.floor(Number(context.value)) || 1);
  const widths = (sums, limit) => {
    for (const name of ["weights", "cache", "workspace"]) {
      $(`bar-${name}`).style.width = `${(100 * sums[name]) / Math.max(limit, sums.total)}%`;
      part(`part-${name}`, showBytes(sums[name]));
    }
  };
  function limits() {
    const { members, unit: [bytes, name] } = data.choices[family];
    const totals = members.map((member) => needs(member, tokens()).total / bytes);
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
    const sums = members.map((member) => needs(member, tokens()));
    let best = -1;
    members.forEach((member, index) => {
      const larger = best < 0 || member.layers >= members[best].layers;
      if (sums[index].total <= limit && larger) best = index;
    });
    show(members, sums, best, limit);
  }
  function show(members, sums, best, limit) {
    all(".halo").forEach((mark) => mark.remove());
    all("tr.chosen").forEach((row) => row.classList.remove("chosen"));
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
    for (const point of all(`.point[data-member="${family}:${best}"]`)) circle(point, "halo", 11);
    all(`tr[data-member="${family}:${best}"]`).forEach((row) => row.classList.add("chosen"));
  }
  function start() {
    const { members, context: usual } = data.choices[family];
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
  context.addEventListener("input", () => { limits(); slider.value = budget.value; choose(); });
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
