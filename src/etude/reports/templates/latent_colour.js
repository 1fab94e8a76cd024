"use strict";
// What colours and shapes stand for: classes, groups and right or wrong by both, numbers by a scale.
const data = JSON.parse(document.getElementById("data").textContent);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// In space a mark is a letter of the reader's font: these six are in every one.
const SYMBOLS = ["circle", "square", "diamond", "circle-open", "square-open", "diamond-open"];
const SHAPES = { // of the legend, in a box from -8 to 8
  circle: "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z", square: "M-5.5-5.5h11v11h-11z", diamond: "M0-7.5L7.5 0L0 7.5L-7.5 0z",
};
const MOST = 24; // pairs of 8 colours and 6 shapes, counted up together
const SEQUENTIAL = ["#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39"]; // viridis without its ends
const runs = new Map(data.runs.map((run) => [run.name, { ...run, at: new Map(run.clips.map((clip, i) => [clip, i])) }]));

const guess = (run, t, clip) => run.predicted[data.targets[t].name]?.[run.at.get(clip)] ?? null;
const write = (x) => (Math.abs(x) >= 100 ? x.toFixed(0) : Math.abs(x) >= 10 ? x.toFixed(1) : x.toFixed(2)).replace("-", "−");
const spell = (t, value) => (value === null ? "unknown" : data.targets[t].kind === "label" ? data.targets[t].classes[value] : write(value));

function choices() {
  const found = data.targets.flatMap(({ name, kind }, t) => [
    [`true:${t}`, `${name}: truth`], [`pred:${t}`, `${name}: prediction`],
    [`fault:${t}`, kind === "label" ? `${name}: right or wrong` : `${name}: error of the prediction`],
  ]);
  return data.groups.some((group) => group !== null) ? [...found, ["group", "group"]] : found;
}

// A look: value(run, clip), and either the names of the values or the ends of a scale.
function look(choice) {
  const [what, t] = choice.split(":");
  const target = data.targets[t];
  if (what === "group") {
    const names = [...new Set(data.groups.filter((group) => group !== null))].sort();
    const index = new Map(names.map((name, i) => [name, i]));
    return classes(names, (run, clip) => index.get(data.groups[clip]) ?? null);
  }
  const value = what === "true" ? (run, clip) => target.true[clip] : (run, clip) => guess(run, t, clip);
  if (what === "fault") {
    const known = (run, clip) => target.true[clip] !== null && guess(run, t, clip) !== null;
    if (target.kind === "label") {
      const wrong = (run, clip) => (known(run, clip) ? Number(guess(run, t, clip) !== target.true[clip]) : null);
      return { ...classes(["right", "wrong"], wrong), colours: ["--constant", "--bad"], symbols: ["circle-open", "diamond"], grow: [1, 1.5] };
    }
    const error = (run, clip) => (known(run, clip) ? guess(run, t, clip) - target.true[clip] : null);
    const most = Math.max(...every(error).map(Math.abs), 1e-9);
    return { value: error, low: -most, high: most, stops: ["--linear", "--rule", "--network"], ends: ["too low by", "too high by"] };
  }
  if (target.kind === "label") return classes(target.classes, value);
  const seen = [...every((run, clip) => target.true[clip]), ...every((run, clip) => guess(run, t, clip))];
  return { value, low: Math.min(...seen), high: Math.max(...seen), stops: SEQUENTIAL };
}

const every = (value) => [...runs.values()].flatMap((run) => run.clips.map((clip) => value(run, clip))).filter((v) => v !== null);

// Of more names than can be told apart the most frequent keep a look of their own.
function classes(names, value) {
  const counts = names.map(() => 0);
  every(value).forEach((i) => counts[i]++);
  if (names.length <= MOST) return { value, names, counts };
  const order = names.map((_, i) => i).sort((a, b) => counts[b] - counts[a] || a - b);
  const kept = order.slice(0, MOST - 1);
  const place = new Map(kept.map((i, k) => [i, k]));
  const rest = order.slice(MOST - 1);
  return {
    names: [...kept.map((i) => names[i]), `${rest.length} others`],
    counts: [...kept.map((i) => counts[i]), rest.reduce((sum, i) => sum + counts[i], 0)],
    value: (run, clip) => { const i = value(run, clip); return i === null ? null : place.get(i) ?? MOST - 1; },
  };
}

function styleOf(look, i) {
  if (i === null) return { colour: css("--constant"), symbol: "circle-open" };
  const colour = look.colours ? look.colours[i] : `--group-${(i % 8) + 1}`;
  return { colour: css(colour), symbol: look.symbols ? look.symbols[i] : SYMBOLS[i % 6] };
}

function markers(look, run, clips, dims) {
  const size = (clips.length <= 100 ? 9 : clips.length <= 500 ? 7 : 5) * (dims === 3 ? 0.6 : 1);
  const values = clips.map((clip) => look.value(run, clip));
  if (look.names) {
    const styles = values.map((value) => styleOf(look, value));
    const open = (style) => style.symbol.endsWith("-open");
    return {
      size: look.grow ? values.map((value) => size * (look.grow[value] ?? 1)) : size, opacity: dims === 3 ? 1 : 0.85, color: styles.map((s) => s.colour), symbol: styles.map((s) => s.symbol),
      line: dims === 3 ? { width: 0 } : { width: styles.map((s) => (open(s) ? 1.5 : 0)), color: styles.map((s) => s.colour) },
    };
  }
  const stops = look.stops.map((stop) => (stop.startsWith("--") ? css(stop) : stop));
  return {
    size, opacity: dims === 3 ? 1 : 0.9, symbol: values.map((v) => (v === null ? "circle-open" : "circle")),
    color: values.map((v) => (v === null ? null : v)), cmin: look.low, cmax: look.high > look.low ? look.high : look.low + 1,
    colorscale: stops.map((stop, i) => [i / (stops.length - 1), stop]), line: { width: dims === 3 ? 1 : 0.6, color: css("--muted") },
  };
}

function legend(look) {
  const list = document.getElementById("legend");
  list.replaceChildren();
  const item = (...parts) => { const li = document.createElement("li"); li.append(...parts); list.append(li); };
  const entry = (style, words) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "-8 -8 16 16");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const open = style.symbol.endsWith("-open");
    path.setAttribute("d", SHAPES[style.symbol.replace("-open", "")]);
    path.setAttribute("style", open ? `fill: none; stroke: ${style.colour}; stroke-width: 2` : `fill: ${style.colour}`);
    svg.append(path);
    item(svg, words);
  };
  if (look.names) look.names.forEach((name, i) => { if (look.counts[i]) entry(styleOf(look, i), name); });
  else {
    const ramp = document.createElement("span");
    ramp.className = "ramp";
    ramp.style.background = `linear-gradient(to right, ${look.stops.map((s) => (s.startsWith("--") ? css(s) : s)).join(", ")})`;
    const [low, high] = look.ends ? [`${look.ends[0]} ${write(-look.low)}`, `${look.ends[1]} ${write(look.high)}`] : [write(look.low), write(look.high)];
    item(low, ramp, high);
  }
  const lacking = [...runs.values()].some((run) => run.clips.some((clip) => look.value(run, clip) === null));
  if (lacking) entry(styleOf(look, null), "unknown");
}
