// Panels with the maps, and the clip that is marked in all of them.
const $ = (id) => document.getElementById(id);
const createElement = (tag, text = "", className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
const escapeHtml = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // plotly renders tags
const methodTitle = (key) => data.methods.find((method) => method.key === key).title;
let drawnPanels = []; // { plot, map, clips, run, rowOf, markedClip }
let selectedClip = null, hovered = null, drawCount = 0, updatePending = false;

function fillControls() {
  const methods = [...new Set(data.maps.map((map) => map.method))];
  const addGroup = (label, entries) => {
    const group = Object.assign(document.createElement("optgroup"), { label });
    group.append(...entries.map(([value, text]) => new Option(text, value)));
    $("view").append(group);
  };
  const byRun = ["All methods of one run", data.runs.map((run, i) => [`run:${i}`, run.name])];
  const byMethod = ["All runs with one method", methods.map((key) => [`method:${key}`, methodTitle(key)])];
  (data.runs.length > 1 ? [byMethod, byRun] : [byRun]).forEach((group) => addGroup(...group));
  $("colour").append(...colourOptions().map(([value, text]) => new Option(text, value)));
  $("clip-ids").append(...data.clips.map((id) => Object.assign(document.createElement("option"), { value: id })));
}

const selectedDims = () => Number(document.querySelector("input[name=dims]:checked").value);
function selectedMaps() {
  const [kind, key] = $("view").value.split(":");
  return data.maps.filter((map) => map.dims === selectedDims() && (kind === "run" ? map.run === data.runs[key].name : map.method === key));
}

const LINE_LENGTH = 38;
const wrapText = (text) => text.match(new RegExp(`.{1,${LINE_LENGTH}}`, "gsu"))?.map(escapeHtml).join("<br>") ?? "";
function hoverText(run, clip) {
  const lines = [data.clips[clip], `group: ${data.groups[clip] ?? "unknown"}`];
  data.targets.forEach((target, t) => {
    const predicted = prediction(run, t, clip);
    lines.push(`${target.name}: true ${formatValue(t, target.true[clip])}` + (predicted === null ? "" : `, predicted ${formatValue(t, predicted)}`));
  });
  return lines.map(wrapText).join("<br>");
}

function plotLayout(map) {
  const common = {
    margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    uirevision: "constant", hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--muted"), align: "left", font: { color: css("--ink"), size: 13 } },
    font: { color: css("--ink"), family: "inherit" }, modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--ink") },
  };
  if (map.dims === 2) {
    const axis = { showgrid: false, zeroline: false, showticklabels: false, ticks: "" };
    const drag = matchMedia("(pointer: coarse)").matches ? false : "zoom"; // on a touch screen, dragging scrolls the page
    return { ...common, hovermode: "closest", dragmode: drag, xaxis: { ...axis, scaleanchor: "y", constrain: "domain" }, yaxis: { ...axis, constrain: "domain" } };
  }
  const axis = { title: { text: "" }, showticklabels: false, ticks: "", showspikes: false, zeroline: false, showbackground: false, gridcolor: css("--rule"), linecolor: css("--rule"), showline: true };
  const ratio = map.aspect_ratio;
  return { ...common, scene: { xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "manual", aspectratio: { x: 1.5 * ratio[0], y: 1.5 * ratio[1], z: 1.5 * ratio[2] }, dragmode: "orbit", camera: { eye: { x: 1.3, y: 1.3, z: 0.8 } } } };
}

const plotConfig = (map) => ({
  displaylogo: false, responsive: true,
  modeBarButtons: [map.dims === 2 ? ["zoom2d", "pan2d", "resetScale2d", "toImage"] : ["orbitRotation", "zoom3d", "pan3d", "resetCameraDefault3d", "toImage"]],
});

// Return two traces: all clips, and the ring around the marked clip.
function plotTraces(panel, current) {
  const { map, run, clips } = panel;
  const coordinates = Object.fromEntries(map.coordinates.map((axis, i) => ["xyz"[i], axis]));
  const type = map.dims === 3 ? "scatter3d" : "scatter";
  const empty = Object.fromEntries(map.coordinates.map((_, i) => ["xyz"[i], []]));
  const ring = { symbol: "circle-open", size: map.dims === 3 ? 14 : 18, color: css("--ink"), line: { width: 3, color: css("--ink") } };
  return [
    { type, mode: "markers", ...coordinates, text: clips.map((clip) => hoverText(run, clip)), hoverinfo: "text", marker: markers(current, run, clips, map.dims) },
    { type, mode: "markers", ...empty, hoverinfo: "skip", marker: ring },
  ];
}

function buildPanel(map) {
  const article = createElement("article", "", "panel");
  article.append(createElement("h3", data.runs.length > 1 ? `${map.run} · ${methodTitle(map.method)}` : methodTitle(map.method)));
  if (map.problem) { article.append(createElement("p", map.problem, "empty")); return { article, map }; }
  const plot = createElement("div", "", "plot");
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `${methodTitle(map.method)} of ${map.run} in ${map.dims} dimensions; its quality is in the table below`);
  const run = runs.get(map.run);
  const below = createElement("div");
  if (map.note) below.append(createElement("p", map.note, "description"));
  const table = createElement("table");
  table.setAttribute("aria-label", `${methodTitle(map.method)} of ${map.run}: quality`);
  const tableRow = (tag, texts) => { const row = createElement("tr"); row.append(...texts.map((text, i) => {
    const cell = createElement(i && tag === "td" ? "td" : "th", text); if (cell.tagName === "TH") cell.scope = tag === "td" ? "row" : "col"; return cell; })); return row; };
  table.createTHead().append(tableRow("th", ["measure", "map", "full space"]));
  table.createTBody().append(...map.quality.map((texts) => tableRow("td", texts)));
  below.append(table);
  article.append(plot, below);
  const clips = map.clips ? map.clips.map((i) => run.clips[i]) : run.clips;
  return { article, map, run, plot, clips, rowOf: new Map(clips.map((clip, i) => [clip, i])), markedClip: null };
}

async function drawPanels() {
  const count = ++drawCount;
  drawnPanels.forEach(({ plot }) => Plotly.purge(plot));
  const panels = selectedMaps().map(buildPanel);
  drawnPanels = [];
  $("panels").replaceChildren(...panels.map((panel) => panel.article));
  const current = colouring($("colour").value);
  drawLegend(current);
  for (const panel of panels.filter((panel) => panel.plot)) {
    await Plotly.newPlot(panel.plot, plotTraces(panel, current), plotLayout(panel.map), plotConfig(panel.map));
    if (count !== drawCount) { Plotly.purge(panel.plot); return; } // a later call has replaced the panels
    addListeners(panel);
    drawnPanels.push(panel);
  }
  updateMarks();
}

function addListeners(panel) {
  const clipOf = (event) => panel.clips[event.points.find((point) => point.curveNumber === 0)?.pointNumber];
  // Plotly's hover events are late, and missing if the pointer leaves while a click is drawn, so :hover is used as well.
  const leave = () => { hovered = null; updateMarks(); };
  panel.plot.on("plotly_hover", (event) => {
    if (clipOf(event) !== undefined && panel.plot.matches(":hover")) { hovered = { clip: clipOf(event), panel }; updateMarks(); }
  });
  panel.plot.on("plotly_unhover", leave);
  panel.plot.addEventListener("mouseleave", leave);
  panel.plot.on("plotly_click", (event) => { if (clipOf(event) !== undefined) selectClip(clipOf(event) === selectedClip ? null : clipOf(event)); });
}

async function updateColours() {
  const current = colouring($("colour").value);
  drawLegend(current);
  for (const { plot, run, clips, map } of drawnPanels) await Plotly.restyle(plot, { marker: [markers(current, run, clips, map.dims)] }, [0]);
}

function selectClip(clip) {
  selectedClip = clip;
  hovered = null; // the last action has priority
  $("clip-id").value = clip === null ? "" : data.clips[clip];
  updateMarks();
}

// Update the marks at most once per animation frame. The map under the pointer shows plotly's own label instead.
function updateMarks() {
  describeClip(hovered?.clip ?? selectedClip);
  if (updatePending) return;
  updatePending = true;
  requestAnimationFrame(() => {
    updatePending = false;
    for (const panel of drawnPanels) {
      const clip = hovered && hovered.panel !== panel ? hovered.clip : selectedClip;
      if (panel.markedClip === clip) continue;
      panel.markedClip = clip;
      const i = panel.rowOf.get(clip);
      const [points] = panel.plot._fullData;
      const coordinates = panel.map.coordinates.map((_, axis) => [i === undefined ? [] : [points["xyz"[axis]][i]]]);
      Plotly.restyle(panel.plot, Object.fromEntries(coordinates.map((values, axis) => ["xyz"[axis], values])), [1]);
    }
  });
}

// Summarise the predictions of many runs: number of runs per class, or range of the numbers.
function summarisePredictions(t, values) {
  if (!values.length) return [];
  if (data.targets[t].kind !== "label") return [`predicted ${formatNumber(Math.min(...values))} to ${formatNumber(Math.max(...values))}`];
  const votes = data.targets[t].classes.map((name, i) => [values.filter((value) => value === i).length, name]).filter(([n]) => n);
  return votes.sort((a, b) => b[0] - a[0]).map(([n, name]) => `${name} by ${n} of ${values.length} runs`);
}

const MOST_NAMED_RUNS = 3;
function describeClip(clip) {
  $("marked-clip").replaceChildren();
  if (clip === null || clip === undefined) { $("marked-clip").append("No clip is marked."); return; }
  $("marked-clip").append(createElement("b", data.clips[clip]), ` · group ${data.groups[clip] ?? "unknown"}`);
  data.targets.forEach((target, t) => {
    const predictions = [...runs.values()].map((run) => [run.name, prediction(run, t, clip)]).filter(([, value]) => value !== null);
    const texts = data.runs.length > MOST_NAMED_RUNS ? summarisePredictions(t, predictions.map(([, value]) => value))
      : predictions.map(([name, value]) => (data.runs.length > 1 ? `${name}: ${formatValue(t, value)}` : `predicted ${formatValue(t, value)}`));
    $("marked-clip").append(` · ${target.name}: true ${formatValue(t, target.true[clip])}${texts.length ? ` (${texts.join(", ")})` : ""}`);
  });
}

const selectByOffset = (offset) => selectClip(selectedClip === null ? (offset > 0 ? 0 : data.clips.length - 1) : (selectedClip + offset + data.clips.length) % data.clips.length);
fillControls();
$("view").addEventListener("change", drawPanels);
document.querySelectorAll("input[name=dims]").forEach((radio) => radio.addEventListener("change", drawPanels));
$("colour").addEventListener("change", updateColours);
$("clip-id").addEventListener("change", () => { const i = data.clips.indexOf($("clip-id").value); selectClip(i < 0 ? null : i); });
$("previous").addEventListener("click", () => selectByOffset(-1));
$("next").addEventListener("click", () => selectByOffset(1));
$("clear").addEventListener("click", () => selectClip(null));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPanels);
drawPanels();
