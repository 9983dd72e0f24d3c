// What is shown, and what the reader has chosen. Every text goes into the page as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const STEPS = 400;
const state = {
  limits: { size: Infinity, latency: Infinity, accuracy: -Infinity },
  colour: "kind", selected: null, brushed: null, sort: { key: "size", down: false }, all: false, rows: 100,
};

const points = data.points.map((point, index) => ({ ...point, id: point.name, index, onFront: true }));
const cloud = data.cloud;

// A trial behind the front, made when it is needed: there may be thousands.
function cloudItem(at) {
  const parameters = {};
  for (const [name, column] of Object.entries(cloud.parameters)) {
    if (column.index[at] >= 0) parameters[name] = column.values[column.index[at]];
  }
  const { kind, axes, ...chosen } = parameters;
  const words = Object.entries(chosen).map(([name, value]) => `${name} = ${value}`).join(", ");
  return {
    id: `t${cloud.trial[at]}`, name: "", trial: cloud.trial[at], kind, axes, candidate: words || kind, parameters: chosen,
    size: cloud.size[at], latency: cloud.latency[at], accuracy: cloud.accuracy[at], accuracySpread: 0, latencySpread: 0,
    smaller: data.baseline.size / cloud.size[at], faster: data.baseline.latency / cloud.latency[at],
    drop: null, feasible: cloud.feasible[at] === 1, onFront: false, at,
  };
}

function fits(size, latency, accuracy) {
  const limits = state.limits;
  return size <= limits.size && latency <= limits.latency && accuracy >= limits.accuracy;
}
const fittingPoints = () => points.filter((point) => fits(point.size, point.latency, point.accuracy));

// What `karui pick` recommends: the best compromise among what loses at most one point, else the nearest to that; with a
// limit on accuracy, among all that keep it.
const isNear = (point) => point.accuracy >= data.least - 1e-9 * data.scale;
function recommended(candidates) {
  if (Number.isFinite(state.limits.accuracy)) return knee(candidates);
  const near = candidates.filter(isNear);
  if (near.length || !candidates.length) return knee(near);
  return candidates.reduce((best, point) => {
    const order = [best.accuracy - point.accuracy, point.latency - best.latency, point.size - best.size].find((gap) => gap !== 0) || 0;
    return order < 0 ? point : best;
  });
}

// The best compromise: nearest the ideal after scaling each objective to [0, 1].
function knee(candidates) {
  if (!candidates.length) return null;
  const further = (point) => data.further.map(({ name }) => Math.log(point.further[name].value));
  const losses = candidates.map((point) => [Math.log(point.size), Math.log(point.latency), -point.accuracy, ...further(point)]);
  const least = losses[0].map((_, axis) => Math.min(...losses.map((loss) => loss[axis])));
  const width = losses[0].map((_, axis) => Math.max(...losses.map((loss) => loss[axis])) - least[axis] || 1);
  const distances = losses.map((loss) => Math.hypot(...loss.map((value, axis) => (value - least[axis]) / width[axis])));
  return candidates[distances.indexOf(Math.min(...distances))];
}

// Sliders: sizes and times by their logarithm; the last step is no limit.
const ranges = Object.fromEntries(["size", "latency", "accuracy"].map((name) => {
  const values = points.map((point) => point[name]);
  return [name, [Math.min(...values), Math.max(...values)]];
}));

function round(value, digits, way) {
  const scale = 10 ** (digits - 1 - Math.floor(Math.log10(Math.abs(value) || 1)));
  return Number((Math[way](value * scale - (way === "ceil" ? 1e-9 : -1e-9)) / scale).toPrecision(12));
}

function limitAt(name, step) {
  const [low, high] = ranges[name];
  if (name === "accuracy") return step <= 0 ? -Infinity : round(low + ((high - low) * step) / STEPS, 4, "floor");
  return step >= STEPS ? Infinity : round(low * (high / low) ** (step / STEPS), 4, "ceil");
}

// Values as texts, as the rest of the page writes them.
function sizeText(bytes) {
  if (bytes < 1e3) return `${bytes.toFixed(0)} bytes`;
  return bytes < 1e6 ? `${digits3(bytes / 1e3)} KB` : `${digits3(bytes / 1e6)} MB`;
}
const digits3 = (value) => (value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3))));
const timeText = (ms) => (ms < 1000 ? `${digits3(ms)} ms` : `${digits3(ms / 1000)} s`);
const isPlain = (value) => value === 0 || (Math.abs(value) >= 0.01 && Math.abs(value) < 10000);
const shareText = (value) => (isPlain(value) ? value.toFixed(4) : String(Number(value.toPrecision(Math.abs(value) < 1 ? 4 : 6))));
const spreadText = (value, half) => (half ? `${shareText(value)} ± ${isPlain(value) ? half.toFixed(4) : String(Number(half.toPrecision(2)))}` : shareText(value));
const factorText = (value) => `${value >= 99.95 ? value.toFixed(0) : value.toFixed(value >= 9.95 ? 1 : 2)}x`;

// A new element with text and children; attributes are set as attributes, handlers as listeners.
function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function quoted(argument) {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", `'"'"'`)}'`;
}

function commandLine(text) {
  const code = make("code", { text, tabindex: "0" });
  const copy = make("button", { type: "button", text: "Copy", onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // where the browser forbids it, the reader copies what is selected
      copy.textContent = "Selected";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 1600);
  } });
  return make("div", { class: "command" }, code, copy);
}
