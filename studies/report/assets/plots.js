// Three linked plots of the points, and the hypervolume.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#F0E442"]; // Okabe & Ito
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "pentagon", "cross", "hexagram"];
const SCALES = { "triangle-up": 1.35, hexagram: 1.3, pentagon: 1.1 }; // so that all look equally large
const OTHER = { colour: "#8a8f94", symbol: "x" };
const PLOTS = [
  { id: "plot-latency", x: "latency", y: "accuracy" },
  { id: "plot-size", x: "size", y: "accuracy" },
  { id: "plot-cost", x: "size", y: "latency" },
];
const PATHS = {
  circle: "M7 2a5 5 0 1 0 .01 0z", square: "M2.5 2.5h9v9h-9z", "triangle-up": "M7 1.5l6 10.5H1z", diamond: "M7 1l6 6-6 6-6-6z",
  pentagon: "M7 1.5l6 4.4-2.3 7H3.3l-2.3-7z", cross: "M5 1.5h4V5h3.5v4H9v3.5H5V9H1.5V5H5z",
  hexagram: "M7 0l2 3.5h4L11 7l2 3.5H9L7 14l-2-3.5H1L3 7 1 3.5h4z", x: "M3 1.5l4 4 4-4L12.5 3l-4 4 4 4-1.5 1.5-4-4-4 4L1.5 11l4-4-4-4z",
  star: "M7 0l1.7 5H14l-4.2 3.2L11.4 13.5 7 10.3l-4.4 3.2 1.6-5.3L0 5h5.3z", hourglass: "M1.5 1h11L8 7l4.5 6h-11L6 7z",
};
const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const unit = (name, value) => (name === "size" ? value / 1e3 : value);
const safe = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const AXES = { size: "file size, KB (log)", latency: "latency, ms (log)", accuracy: `${data.metric} (validation)` };

const valueOf = (item) => (state.colour === "kind" || state.colour === "axes" ? item[state.colour] : item.parameters[state.colour]);

// The look of each value that colours: the most frequent ones among the points first.
function looks() {
  const counts = new Map();
  for (const point of points) counts.set(valueOf(point), (counts.get(valueOf(point)) || 0) + 1e6);
  const column = cloud.parameters[state.colour];
  if (column) column.index.forEach((place) => { const value = column.values[place]; counts.set(value, (counts.get(value) || 0) + 1); });
  const frequent = [...counts.keys()].filter((value) => value !== undefined).sort((one, two) => counts.get(two) - counts.get(one));
  const shown = frequent.slice(0, COLOURS.length).sort((one, two) => (typeof one === "number" && typeof two === "number" ? one - two : String(one) < String(two) ? -1 : 1));
  const found = new Map(shown.map((value, place) => [value, { colour: COLOURS[place], symbol: SYMBOLS[place] }]));
  return { look: (value) => found.get(value) || OTHER, shown, rest: counts.size > shown.length };
}

function drawLegend({ look, shown, rest }) {
  const entry = (text, { colour, symbol }) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of [["width", 14], ["height", 14], ["viewBox", "0 0 14 14"], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", PATHS[symbol]);
    path.setAttribute("fill", colour);
    svg.append(path);
    return make("li", {}, svg, document.createTextNode(text));
  };
  const items = shown.map((value) => entry(String(value), look(value)));
  if (rest) items.push(entry("other or none", OTHER));
  items.push(entry("your model", { colour: theme("ink"), symbol: "star" }));
  if (data.int8) items.push(entry("uniform int8", { colour: theme("ink"), symbol: "hourglass" }));
  byId("legend").replaceChildren(...items);
}

function hoverText(item) {
  const held = item.onFront ? `<b>${safe(item.name)}</b> ` : "";
  const where = " on validation";
  const candidate = safe(item.candidate).slice(0, 300).replace(/(.{1,60})(?:, |$)/g, "$1<br>");
  return `${held}trial ${item.trial}<br>${candidate}${sizeText(item.size)} · ${timeText(item.latency)} · ${spreadText(item.accuracy, item.accuracySpread)}${where}${typeof item.test === "number" ? `<br>${spreadText(item.test, item.testSpread)} on test` : ""}`;
}

function cloudTrace(plot, { look }) {
  const shown = cloud.drawn.filter((at) => fits(cloud.size[at], cloud.latency[at], cloud.accuracy[at])).map(cloudItem);
  return {
    type: "scatter", mode: "markers", x: shown.map((item) => unit(plot.x, item[plot.x])), y: shown.map((item) => unit(plot.y, item[plot.y])),
    customdata: shown.map((item) => item.id), hovertext: shown.map(hoverText), hoverinfo: "text",
    marker: { size: 5, opacity: Number(theme("cloud")), color: shown.map((item) => look(valueOf(item)).colour), symbol: shown.map((item) => (item.feasible ? "circle" : "x-thin-open")) },
  };
}

function pointTrace(plot, shown, { look }) {
  const many = shown.length > 40;
  const bars = (name) => (name === "size" ? {} : { array: shown.map((point) => point[`${name}Spread`]), color: theme("faint") + (many ? "70" : ""), thickness: 1, width: 0 });
  return {
    type: "scatter", mode: "markers", x: shown.map((point) => unit(plot.x, point[plot.x])), y: shown.map((point) => unit(plot.y, point[plot.y])),
    error_x: { type: "data", ...bars(plot.x), visible: plot.x !== "size" }, error_y: { type: "data", ...bars(plot.y) },
    customdata: shown.map((point) => point.id), hovertext: shown.map(hoverText), hoverinfo: "text",
    marker: {
      size: shown.map((point) => (many ? 8 : 10) * (SCALES[look(valueOf(point)).symbol] || 1)), line: { width: 1, color: theme("card") }, color: shown.map((point) => look(valueOf(point)).colour), symbol: shown.map((point) => look(valueOf(point)).symbol),
      opacity: shown.map((point) => (!state.brushed || state.brushed.has(point.id) ? 1 : 0.18)),
    },
  };
}

// The best accuracy at no more than each cost.
function stepTrace(plot, shown) {
  let best = -Infinity;
  const ordered = [...shown].sort((one, two) => one[plot.x] - two[plot.x] || two.accuracy - one.accuracy);
  const corners = plot.y === "accuracy" && data.isFront ? ordered.filter((point) => point.accuracy > best && ((best = point.accuracy), true)) : [];
  return {
    type: "scatter", mode: "lines", hoverinfo: "skip", line: { shape: "hv", width: 1.3, color: theme("faint") },
    x: corners.map((point) => unit(plot.x, point[plot.x])), y: corners.map((point) => point.accuracy),
  };
}

function referenceTrace(plot) {
  const known = [{ ...data.baseline, text: "your model", symbol: "star" }];
  if (data.int8) known.push({ ...data.int8, text: "uniform int8", symbol: "hourglass" });
  return {
    type: "scatter", mode: "markers", x: known.map((each) => unit(plot.x, each[plot.x])), y: known.map((each) => unit(plot.y, each[plot.y])),
    marker: { size: [15, 11], opacity: 1, color: theme("ink"), symbol: known.map((each) => each.symbol), line: { width: 1, color: theme("card") } },
    hovertext: known.map((each) => `<b>${each.text}</b><br>${sizeText(each.size)} · ${timeText(each.latency)} · ${shareText(each.accuracy)}`), hoverinfo: "text",
  };
}

function ringTrace(plot, item) {
  const shown = item && fits(item.size, item.latency, item.accuracy) ? [item] : [];
  return {
    type: "scatter", mode: "markers", hoverinfo: "skip", x: shown.map((each) => unit(plot.x, each[plot.x])), y: shown.map((each) => unit(plot.y, each[plot.y])),
    marker: { size: 21, symbol: "circle-open", color: theme("ink"), line: { width: 2.5 } },
  };
}

// The front and the references fill the plot; a wild trial far below does not squeeze them.
function rangeOf(name) {
  const values = [...points, data.baseline, ...(data.int8 ? [data.int8] : [])].flatMap((each) => {
    const half = each[`${name}Spread`] || 0;
    return [each[name] - half, each[name] + half].map((value) => unit(name, value)).filter((value) => name === "accuracy" || value > 0);
  });
  const scaled = name === "accuracy" ? values : values.map(Math.log10);
  const [low, high] = [Math.min(...scaled), Math.max(...scaled)];
  const pad = (high - low) * 0.07 || (name === "accuracy" ? 0.05 * data.scale : 0.05);
  return [low - pad, high + pad];
}

// Ticks at 1, 2 and 5, in a narrow range at more; Plotly's own leave out the zeros.
function logTicks([low, high]) {
  const within = (steps) => {
    const found = [];
    for (let power = Math.floor(low) - 1; power <= high + 1; power += 1) found.push(...steps.map((step) => Number((step * 10 ** power).toPrecision(6))));
    return found;
  };
  const counts = (values) => values.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high).length;
  const tickvals = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9]].map(within).find((values) => counts(values) >= 4) || within([1, 2, 5]);
  return { tickmode: "array", tickvals, ticktext: tickvals.map((value) => value.toLocaleString("en", { maximumSignificantDigits: 4 })) };
}

function axis(name) {
  const log = name !== "accuracy";
  const range = rangeOf(name);
  return {
    title: { text: safe(AXES[name]), font: { size: 12 } }, type: log ? "log" : "linear", range, nticks: 7, ...(log ? logTicks(range) : {}),
    gridcolor: theme("grid"), linecolor: theme("line"), zeroline: false, tickfont: { size: 11 }, automargin: true,
  };
}

function limitShapes(plot) {
  const line = (on, value) => ({ type: "line", layer: "below", line: { color: theme("warn"), width: 1.2, dash: "dot" }, ...(on === "x" ? { x0: value, x1: value, yref: "paper", y0: 0, y1: 1 } : { y0: value, y1: value, xref: "paper", x0: 0, x1: 1 }) });
  return ["x", "y"].filter((on) => Number.isFinite(state.limits[plot[on]])).map((on) => line(on, unit(plot[on], state.limits[plot[on]])));
}

function pickArrow(plot, pick) {
  if (!pick) return [];
  const place = (name) => (name === "accuracy" ? pick[name] : Math.log10(unit(name, pick[name])));
  return [{ x: place(plot.x), y: place(plot.y), text: `best pick ${safe(pick.name)}`, showarrow: true, arrowhead: 0, arrowcolor: theme("soft"), ax: 34, ay: 34, font: { size: 11.5, color: theme("ink") }, bgcolor: theme("card"), borderpad: 2 }];
}

const frame = () => ({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, margin: { l: 54, r: 14, t: 10, b: 46 },
  font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: theme("soft") },
  hoverlabel: { bgcolor: theme("card"), bordercolor: theme("line"), font: { color: theme("ink"), size: 12 }, align: "left" },
});
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"], toImageButtonOptions: { scale: 2 } };

function drawPlots() {
  const shown = fittingPoints();
  const found = looks();
  const pick = data.isFront ? recommended(shown) : null;
  const chosen = selectedItem();
  drawLegend(found);
  for (const plot of PLOTS) {
    const traces = [cloudTrace(plot, found), stepTrace(plot, shown), pointTrace(plot, shown, found), referenceTrace(plot), ringTrace(plot, chosen)];
    const layout = { ...frame(), xaxis: axis(plot.x), yaxis: axis(plot.y), shapes: limitShapes(plot), annotations: pickArrow(plot, pick), hovermode: "closest", dragmode: innerWidth < 700 ? false : "select", uirevision: "kept" };
    Plotly.react(plot.id, traces, layout, CONFIG);
  }
}

function listenToPlots() {
  for (const plot of PLOTS) {
    const element = byId(plot.id);
    element.on("plotly_click", (event) => { const id = event.points[0].customdata; if (id) select(id); });
    element.on("plotly_selected", (event) => {
      const ids = (event?.points || []).map((point) => point.customdata).filter(Boolean);
      brush(ids.length ? new Set(ids) : null);
    });
    element.on("plotly_deselect", () => brush(null));
    element.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity }[event.key];
      if (!step) return;
      event.preventDefault();
      const ordered = fittingPoints().sort((one, two) => one[plot.x] - two[plot.x]);
      const at = ordered.findIndex((point) => point.id === state.selected);
      const next = ordered[at < 0 && Math.abs(step) === 1 ? 0 : Math.min(Math.max(at + step, 0), ordered.length - 1)];
      if (next) select(next.id);
    });
  }
}

function drawGrowth(over) {
  const { counts, hours, volumes } = data.history;
  const long = hours.length && hours[hours.length - 1] >= 2;
  const x = over === "time" ? hours.map((value) => (long ? value : 60 * value)) : counts;
  const trace = { type: "scatter", mode: "lines", x, y: volumes, line: { shape: "hv", color: COLOURS[0], width: 2 }, fill: "tozeroy", fillcolor: "rgba(0,114,178,0.10)", hovertemplate: "%{x:.4~g}: %{y:.4f}<extra></extra>" };
  const plain = { gridcolor: theme("grid"), linecolor: theme("line"), zeroline: false, automargin: true, rangemode: "tozero" };
  const title = over === "time" ? `${long ? "hours" : "minutes"} since the search began` : "trials measured";
  const layout = { ...frame(), xaxis: { ...plain, title: { text: title }, range: [0, 1.02 * (x[x.length - 1] || 1)] }, yaxis: { ...plain, title: { text: "hypervolume" } }, dragmode: false, hovermode: "x", margin: { l: 58, r: 18, t: 14, b: 54 } };
  Plotly.react("plot-growth", [trace], layout, { ...CONFIG, displayModeBar: false });
  for (const button of byId("growth-tools").children) button.setAttribute("aria-pressed", String(button.dataset.over === over));
  state.over = over;
}
