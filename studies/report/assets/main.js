// What the reader does, and what follows from it.
function select(id) {
  state.selected = id;
  drawPlots();
  drawDetail();
  markRow();
}

function brush(ids) {
  if (!ids && !state.brushed) return;
  state.brushed = ids;
  drawPlots();
  drawTable();
}

const TEXTS = { size: sizeText, latency: timeText, accuracy: shareText };
const BASES = { size: data.baseline.size, latency: data.baseline.latency };

function showLimit(name) {
  const limit = state.limits[name];
  const slider = byId(`budget-${name}`);
  const share = BASES[name] ? ` (${(limit / BASES[name]).toPrecision(2)}x)` : "";
  const text = Number.isFinite(limit) ? `${name === "accuracy" ? "≥" : "≤"} ${TEXTS[name](limit)}${share}` : "any";
  byId(`budget-${name}-text`).textContent = text;
  slider.setAttribute("aria-valuetext", text);
  slider.dataset.limit = limit;
}

let waiting = false;
function budgetChanged() {
  for (const name of ["size", "latency", "accuracy"]) {
    state.limits[name] = limitAt(name, Number(byId(`budget-${name}`).value));
    showLimit(name);
  }
  drawPick();
  drawTable();
  if (waiting) return; // a slider that is dragged asks more often than plots can be drawn
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawPlots(); });
}

function start() {
  const choices = [["kind", "architecture"], ["axes", "axes used"], ...data.parameters.filter((name) => name !== "architecture").map((name) => [name, name])];
  byId("colour").replaceChildren(...choices.map(([value, text]) => make("option", { value, text })));
  byId("colour").addEventListener("change", (event) => { state.colour = event.target.value; drawPlots(); });
  for (const name of ["size", "latency", "accuracy"]) byId(`budget-${name}`).addEventListener("input", budgetChanged);
  byId("reset").addEventListener("click", () => {
    byId("budget-size").value = byId("budget-latency").value = STEPS;
    byId("budget-accuracy").value = 0;
    budgetChanged();
  });
  byId("all").addEventListener("change", (event) => { state.all = event.target.checked; state.rows = 100; drawTable(); });
  byId("more").addEventListener("click", () => { state.rows += 400; drawTable(); });
  byId("export").addEventListener("click", exportCsv);
  for (const card of document.querySelectorAll("[data-select]")) card.addEventListener("click", () => { select(card.dataset.select); byId("detail").scrollIntoView({ block: "nearest" }); });
  for (const [over, text] of data.history.hours.length ? [["trials", "by trials"], ["time", "by time"]] : []) {
    byId("growth-tools").append(make("button", { type: "button", text, "data-over": over, onclick: () => drawGrowth(over) }));
  }
  byId("growth-tools").hidden = !data.history.hours.length;
  drawHead();
  if (points.length) {
    state.selected = (data.isFront ? recommended(points) : points[0]).id;
    budgetChanged();
    drawPlots();
    listenToPlots();
    drawDetail();
  }
  drawGrowth("trials");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (points.length) drawPlots(); drawGrowth(state.over); });
}
start();
