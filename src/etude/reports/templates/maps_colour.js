"use strict";
// Colours and shapes of the clips: both together for classes, groups and correctness, a colour scale for numbers.
const data = JSON.parse(document.getElementById("data").textContent);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Plotly draws the marks of a 3-D map as characters of a font; every font contains these six.
const SYMBOLS = ["circle", "square", "diamond", "circle-open", "square-open", "diamond-open"];
const SHAPES = { // of the legend, in a box from -8 to 8
  circle: "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z", square: "M-5.5-5.5h11v11h-11z", diamond: "M0-7.5L7.5 0L0 7.5L-7.5 0z",
};
const MOST_STYLES = 24; // combinations of 8 colours and 6 shapes; both change with the index
const SEQUENTIAL = ["#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39"]; // viridis without its ends
const runs = new Map(data.runs.map((run) => [run.name, { ...run, rowOf: new Map(run.clips.map((clip, i) => [clip, i])) }]));

const prediction = (run, t, clip) => run.predicted[data.targets[t].name]?.[run.rowOf.get(clip)] ?? null;
const formatNumber = (x) => (Math.abs(x) >= 100 ? x.toFixed(0) : Math.abs(x) >= 10 ? x.toFixed(1) : x.toFixed(2)).replace("-", "−");
const formatValue = (t, value) => (value === null ? "unknown" : data.targets[t].kind === "label" ? data.targets[t].classes[value] : formatNumber(value));

function colourOptions() {
  const options = data.targets.flatMap(({ name, kind }, t) => [
    [`true:${t}`, `${name}: true value`], [`predicted:${t}`, `${name}: prediction`],
    [`error:${t}`, kind === "label" ? `${name}: correct or incorrect` : `${name}: error of the prediction`],
  ]);
  return data.groups.some((group) => group !== null) ? [...options, ["group", "group"]] : options;
}

// Return a colouring: a function value(run, clip), and either the names of the values or the ends of a scale.
function colouring(option) {
  const [kind, t] = option.split(":");
  const target = data.targets[t];
  if (kind === "group") {
    const names = [...new Set(data.groups.filter((group) => group !== null))].sort();
    const index = new Map(names.map((name, i) => [name, i]));
    return classColouring(names, (run, clip) => index.get(data.groups[clip]) ?? null);
  }
  const value = kind === "true" ? (run, clip) => target.true[clip] : (run, clip) => prediction(run, t, clip);
  if (kind === "error") {
    const known = (run, clip) => target.true[clip] !== null && prediction(run, t, clip) !== null;
    if (target.kind === "label") {
      const wrong = (run, clip) => (known(run, clip) ? Number(prediction(run, t, clip) !== target.true[clip]) : null);
      return { ...classColouring(["correct", "incorrect"], wrong), colours: ["--constant", "--bad"], symbols: ["circle-open", "diamond"], scale: [1, 1.5] };
    }
    const error = (run, clip) => (known(run, clip) ? prediction(run, t, clip) - target.true[clip] : null);
    const largest = Math.max(...allValues(error).map(Math.abs), 1e-9);
    return { value: error, low: -largest, high: largest, stops: ["--linear", "--rule", "--network"], ends: ["too low by", "too high by"] };
  }
  if (target.kind === "label") return classColouring(target.classes, value);
  const values = [...allValues((run, clip) => target.true[clip]), ...allValues((run, clip) => prediction(run, t, clip))];
  return { value, low: Math.min(...values), high: Math.max(...values), stops: SEQUENTIAL };
}

const allValues = (value) => [...runs.values()].flatMap((run) => run.clips.map((clip) => value(run, clip))).filter((v) => v !== null);

// Return the colouring of classes. If there are too many, only the most frequent classes have their own style.
function classColouring(names, value) {
  const counts = names.map(() => 0);
  allValues(value).forEach((i) => counts[i]++);
  if (names.length <= MOST_STYLES) return { value, names, counts };
  const order = names.map((_, i) => i).sort((a, b) => counts[b] - counts[a] || a - b);
  const frequent = order.slice(0, MOST_STYLES - 1);
  const index = new Map(frequent.map((i, k) => [i, k]));
  const rest = order.slice(MOST_STYLES - 1);
  return {
    names: [...frequent.map((i) => names[i]), `${rest.length} others`],
    counts: [...frequent.map((i) => counts[i]), rest.reduce((sum, i) => sum + counts[i], 0)],
    value: (run, clip) => { const i = value(run, clip); return i === null ? null : index.get(i) ?? MOST_STYLES - 1; },
  };
}

function markerStyle(current, i) {
  if (i === null) return { colour: css("--constant"), symbol: "circle-open" };
  const colour = current.colours ? current.colours[i] : `--group-${(i % 8) + 1}`;
  return { colour: css(colour), symbol: current.symbols ? current.symbols[i] : SYMBOLS[i % 6] };
}

function markers(current, run, clips, dims) {
  const size = (clips.length <= 100 ? 9 : clips.length <= 500 ? 7 : 5) * (dims === 3 ? 0.6 : 1);
  const values = clips.map((clip) => current.value(run, clip));
  if (current.names) {
    const styles = values.map((value) => markerStyle(current, value));
    const isOpen = (style) => style.symbol.endsWith("-open");
    return {
      size: current.scale ? values.map((value) => size * (current.scale[value] ?? 1)) : size, opacity: dims === 3 ? 1 : 0.85, color: styles.map((s) => s.colour), symbol: styles.map((s) => s.symbol),
      line: dims === 3 ? { width: 0 } : { width: styles.map((s) => (isOpen(s) ? 1.5 : 0)), color: styles.map((s) => s.colour) },
    };
  }
  const stops = current.stops.map((stop) => (stop.startsWith("--") ? css(stop) : stop));
  return {
    size, opacity: dims === 3 ? 1 : 0.9, symbol: values.map((v) => (v === null ? "circle-open" : "circle")),
    color: values.map((v) => (v === null ? null : v)), cmin: current.low, cmax: current.high > current.low ? current.high : current.low + 1,
    colorscale: stops.map((stop, i) => [i / (stops.length - 1), stop]), line: { width: dims === 3 ? 1 : 0.6, color: css("--muted") },
  };
}

function drawLegend(current) {
  const list = document.getElementById("legend");
  list.replaceChildren();
  const addItem = (...children) => { const item = document.createElement("li"); item.append(...children); list.append(item); };
  const addClass = (style, text) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "-8 -8 16 16");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const isOpen = style.symbol.endsWith("-open");
    path.setAttribute("d", SHAPES[style.symbol.replace("-open", "")]);
    path.setAttribute("style", isOpen ? `fill: none; stroke: ${style.colour}; stroke-width: 2` : `fill: ${style.colour}`);
    svg.append(path);
    addItem(svg, text);
  };
  if (current.names) current.names.forEach((name, i) => { if (current.counts[i]) addClass(markerStyle(current, i), name); });
  else {
    const scale = document.createElement("span");
    scale.className = "colour-scale";
    scale.style.background = `linear-gradient(to right, ${current.stops.map((s) => (s.startsWith("--") ? css(s) : s)).join(", ")})`;
    const [low, high] = current.ends ? [`${current.ends[0]} ${formatNumber(-current.low)}`, `${current.ends[1]} ${formatNumber(current.high)}`] : [formatNumber(current.low), formatNumber(current.high)];
    addItem(low, scale, high);
  }
  const hasUnknown = [...runs.values()].some((run) => run.clips.some((clip) => current.value(run, clip) === null));
  if (hasUnknown) addClass(markerStyle(current, null), "unknown");
}
