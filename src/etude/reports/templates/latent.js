// The maps themselves: which are side by side, and the clip that is marked in all of them.
const $ = (id) => document.getElementById(id);
const make = (tag, words = "", name = "") => Object.assign(document.createElement(tag), { textContent: words, className: name });
const escape = (words) => words.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // plotly reads tags
const title = (key) => data.methods.find((method) => method.key === key).title;
let shown = []; // { plot, map, clips, run, mark }
let chosen = null, pointed = null, turn = 0, pending = false;

function options() {
  const methods = [...new Set(data.maps.map((map) => map.method))];
  const group = (label, entries) => {
    const box = Object.assign(document.createElement("optgroup"), { label });
    box.append(...entries.map(([value, words]) => new Option(words, value)));
    $("view").append(box);
  };
  const byRun = ["All methods of one run", data.runs.map((run, i) => [`run:${i}`, run.name])];
  const byMethod = ["All runs by one method", methods.map((key) => [`method:${key}`, title(key)])];
  (data.runs.length > 1 ? [byMethod, byRun] : [byRun]).forEach((entry) => group(...entry));
  $("colour").append(...choices().map(([value, words]) => new Option(words, value)));
  $("ids").append(...data.clips.map((id) => Object.assign(document.createElement("option"), { value: id })));
}

const dims = () => Number(document.querySelector("input[name=dims]:checked").value);
function wanted() {
  const [by, which] = $("view").value.split(":");
  return data.maps.filter((map) => map.dims === dims() && (by === "run" ? map.run === data.runs[which].name : map.method === which));
}

const MOST_LINE = 38;
const wrap = (words) => words.match(new RegExp(`.{1,${MOST_LINE}}`, "gsu"))?.map(escape).join("<br>") ?? "";
function label(run, clip) {
  const lines = [data.clips[clip], `group: ${data.groups[clip] ?? "unknown"}`];
  data.targets.forEach((target, t) => {
    const said = guess(run, t, clip);
    lines.push(`${target.name}: truth ${spell(t, target.true[clip])}` + (said === null ? "" : `, prediction ${spell(t, said)}`));
  });
  return lines.map(wrap).join("<br>");
}

function layout(map) {
  const common = {
    margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    uirevision: "kept", hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--muted"), align: "left", font: { color: css("--ink"), size: 13 } },
    font: { color: css("--ink"), family: "inherit" }, modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--ink") },
  };
  if (map.dims === 2) {
    const axis = { showgrid: false, zeroline: false, showticklabels: false, ticks: "" };
    const drag = matchMedia("(pointer: coarse)").matches ? false : "zoom"; // a finger scrolls the page
    return { ...common, hovermode: "closest", dragmode: drag, xaxis: { ...axis, scaleanchor: "y", constrain: "domain" }, yaxis: { ...axis, constrain: "domain" } };
  }
  const axis = { title: { text: "" }, showticklabels: false, ticks: "", showspikes: false, zeroline: false, showbackground: false, gridcolor: css("--rule"), linecolor: css("--rule"), showline: true };
  return { ...common, scene: { xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "manual", aspectratio: { x: 1.5 * map.ratio[0], y: 1.5 * map.ratio[1], z: 1.5 * map.ratio[2] }, dragmode: "orbit", camera: { eye: { x: 1.3, y: 1.3, z: 0.8 } } } };
}

const settings = (map) => ({
  displaylogo: false, responsive: true,
  modeBarButtons: [map.dims === 2 ? ["zoom2d", "pan2d", "resetScale2d", "toImage"] : ["orbitRotation", "zoom3d", "pan3d", "resetCameraDefault3d", "toImage"]],
});

function traces(panel, current) {
  const { map, run, clips } = panel;
  const place = Object.fromEntries(map.at.map((axis, i) => ["xyz"[i], axis]));
  const type = map.dims === 3 ? "scatter3d" : "scatter";
  const nowhere = Object.fromEntries(map.at.map((_, i) => ["xyz"[i], []]));
  const ring = { symbol: "circle-open", size: map.dims === 3 ? 14 : 18, color: css("--ink"), line: { width: 3, color: css("--ink") } };
  return [
    { type, mode: "markers", ...place, text: clips.map((clip) => label(run, clip)), hoverinfo: "text", marker: markers(current, run, clips, map.dims) },
    { type, mode: "markers", ...nowhere, hoverinfo: "skip", marker: ring },
  ];
}

function build(map) {
  const article = make("article", "", "panel");
  article.append(make("h3", data.runs.length > 1 ? `${map.run} · ${title(map.method)}` : title(map.method)));
  if (map.why) { article.append(make("p", map.why, "empty")); return { article, map }; }
  const plot = make("div", "", "plot");
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `${title(map.method)} of ${map.run} in ${map.dims} dimensions; its numbers are below`);
  const run = runs.get(map.run);
  const below = make("div");
  if (map.note) below.append(make("p", map.note, "description"));
  const table = make("table");
  table.setAttribute("aria-label", `${title(map.method)} of ${map.run}: what it keeps`);
  const row = (tag, cells) => { const tr = make("tr"); tr.append(...cells.map((words, i) => {
    const cell = make(i && tag === "td" ? "td" : "th", words); if (cell.tagName === "TH") cell.scope = tag === "td" ? "row" : "col"; return cell; })); return tr; };
  table.createTHead().append(row("th", ["what is kept", "in the map", "in the full space"]));
  table.createTBody().append(...map.numbers.map((cells) => row("td", cells)));
  below.append(table);
  article.append(plot, below);
  const clips = map.of ? map.of.map((i) => run.clips[i]) : run.clips;
  return { article, map, run, plot, clips, at: new Map(clips.map((clip, i) => [clip, i])), mark: null };
}

async function draw() {
  const mine = ++turn;
  shown.forEach(({ plot }) => Plotly.purge(plot));
  const panels = wanted().map(build);
  shown = [];
  $("panels").replaceChildren(...panels.map((panel) => panel.article));
  const current = look($("colour").value);
  legend(current);
  for (const panel of panels.filter((panel) => panel.plot)) {
    await Plotly.newPlot(panel.plot, traces(panel, current), layout(panel.map), settings(panel.map));
    if (mine !== turn) { Plotly.purge(panel.plot); return; }
    listen(panel);
    shown.push(panel);
  }
  mark();
}

function listen(panel) {
  const clip = (event) => panel.clips[event.points.find((point) => point.curveNumber === 0)?.pointNumber];
  // Plotly tells of a pointer late, and not of one that leaves while a click is drawn; the browser knows where it is.
  const leave = () => { pointed = null; mark(); };
  panel.plot.on("plotly_hover", (event) => {
    if (clip(event) !== undefined && panel.plot.matches(":hover")) { pointed = { clip: clip(event), panel }; mark(); }
  });
  panel.plot.on("plotly_unhover", leave);
  panel.plot.addEventListener("mouseleave", leave);
  panel.plot.on("plotly_click", (event) => { if (clip(event) !== undefined) choose(clip(event) === chosen ? null : clip(event)); });
}

async function recolour() {
  const current = look($("colour").value);
  legend(current);
  for (const { plot, run, clips, map } of shown) await Plotly.restyle(plot, { marker: [markers(current, run, clips, map.dims)] }, [0]);
}

function choose(clip) {
  chosen = clip;
  pointed = null; // what was asked for last is shown
  $("find").value = clip === null ? "" : data.clips[clip];
  mark();
}

// Once a frame; the map under the pointer has plotly's own label and is left alone.
function mark() {
  tell(pointed?.clip ?? chosen);
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    for (const panel of shown) {
      const clip = pointed && pointed.panel !== panel ? pointed.clip : chosen;
      if (panel.mark === clip) continue;
      panel.mark = clip;
      const i = panel.at.get(clip);
      const [points] = panel.plot._fullData;
      const place = panel.map.at.map((_, axis) => [i === undefined ? [] : [points["xyz"[axis]][i]]]);
      Plotly.restyle(panel.plot, Object.fromEntries(place.map((values, axis) => ["xyz"[axis], values])), [1]);
    }
  });
}

// Predictions of many runs: votes of a class, the range of a number.
function summary(t, values) {
  if (!values.length) return [];
  if (data.targets[t].kind !== "label") return [`predictions ${write(Math.min(...values))} to ${write(Math.max(...values))}`];
  const votes = data.targets[t].classes.map((name, i) => [values.filter((value) => value === i).length, name]).filter(([n]) => n);
  return votes.sort((a, b) => b[0] - a[0]).map(([n, name]) => `${name} by ${n} of ${values.length} runs`);
}

const MOST_NAMED = 3;
function tell(clip) {
  $("clip").replaceChildren();
  if (clip === null || clip === undefined) { $("clip").append("No clip is marked."); return; }
  $("clip").append(make("b", data.clips[clip]), ` · group ${data.groups[clip] ?? "unknown"}`);
  data.targets.forEach((target, t) => {
    const said = [...runs.values()].map((run) => [run.name, guess(run, t, clip)]).filter(([, value]) => value !== null);
    const guesses = data.runs.length > MOST_NAMED ? summary(t, said.map(([, value]) => value))
      : said.map(([name, value]) => (data.runs.length > 1 ? `${name}: ${spell(t, value)}` : `prediction ${spell(t, value)}`));
    $("clip").append(` · ${target.name}: truth ${spell(t, target.true[clip])}${guesses.length ? ` (${guesses.join(", ")})` : ""}`);
  });
}

const step = (by) => choose(chosen === null ? (by > 0 ? 0 : data.clips.length - 1) : (chosen + by + data.clips.length) % data.clips.length);
options();
$("view").addEventListener("change", draw);
document.querySelectorAll("input[name=dims]").forEach((radio) => radio.addEventListener("change", draw));
$("colour").addEventListener("change", recolour);
$("find").addEventListener("change", () => { const i = data.clips.indexOf($("find").value); choose(i < 0 ? null : i); });
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("clear").addEventListener("click", () => choose(null));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
