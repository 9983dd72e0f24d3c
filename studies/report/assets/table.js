// The table of points: sorted, filtered with the plots, and exported as it stands.
const COLUMNS = [
  { key: "name", title: "point", text: (item) => item.name || `t${item.trial}`, sort: (item) => (item.onFront ? item.index : points.length + item.trial), kind: "text" },
  { key: "candidate", title: "candidate", text: (item) => item.candidate, kind: "text wide" },
  { key: "size", title: "size", text: (item) => sizeText(item.size) },
  { key: "smaller", title: "smaller", text: (item) => factorText(item.smaller) },
  { key: "latency", title: "latency", text: (item) => timeText(item.latency) },
  { key: "faster", title: "faster", text: (item) => factorText(item.faster) },
  { key: "accuracy", title: data.onTest ? "validation" : "accuracy", text: (item) => spreadText(item.accuracy, item.accuracySpread) },
  { key: "test", title: "test", text: (item) => (typeof item.test === "number" ? spreadText(item.test, item.testSpread) : ""), only: () => data.onTest },
  { key: "drop", title: `${data.hasPoints ? "points" : "%"} lost${data.onTest ? ", test" : ""}`, text: (item) => (item.drop === null ? "" : item.drop.toFixed(1)) },
  ...data.further.map(({ name, title }) => ({ key: `further ${name}`, title, text: (item) => item.further?.[name]?.text ?? "", sort: (item) => item.further?.[name]?.value })),
  { key: "mark", title: "again", text: (item) => item.mark || (item.holds === null || item.holds === undefined ? "" : item.holds ? "holds" : "fell off"), kind: "text", only: () => points.some((point) => point.mark || point.holds !== null) },
  { key: "probability", title: "on true front", text: (item) => (item.probability === null || item.probability === undefined ? "" : `${(100 * item.probability).toFixed(0)} %`), only: () => points.some((point) => point.probability !== null) },
  { key: "broken", title: "breaks", text: (item) => (item.broken || []).join("; "), kind: "text wide", only: () => !data.isFront },
  { key: "trial", title: "trial", text: (item) => String(item.trial) },
].filter((column) => !column.only || column.only());

function tableItems() {
  let items = fittingPoints();
  if (state.all) {
    for (let at = 0; at < cloud.trial.length; at += 1) {
      if (fits(cloud.size[at], cloud.latency[at], cloud.accuracy[at])) items.push(cloudItem(at));
    }
  }
  if (state.brushed) items = items.filter((item) => state.brushed.has(item.id));
  const column = COLUMNS.find((each) => each.key === state.sort.key);
  const value = column.sort || ((item) => { const found = item[column.key]; return typeof found === "number" ? found : column.text(item); });
  const way = state.sort.down ? -1 : 1;
  // what a point does not have comes last, whichever way
  const missing = (found) => found === "" || found === null || found === undefined;
  const keyed = items.map((item, place) => ({ item, place, key: value(item) }));
  keyed.sort((one, two) => missing(one.key) - missing(two.key) || way * ((one.key > two.key) - (one.key < two.key)) || one.place - two.place);
  return keyed.map((each) => each.item);
}

function drawHead() {
  const row = make("tr");
  for (const column of COLUMNS) {
    const button = make("button", { type: "button", text: column.title, onclick: () => {
      state.sort = { key: column.key, down: state.sort.key === column.key && !state.sort.down };
      drawTable();
    } });
    row.append(make("th", { scope: "col", class: column.kind || "", "data-key": column.key }, button));
  }
  byId("table").tHead.replaceChildren(row);
}

function drawTable() {
  const items = tableItems();
  for (const head of byId("table").tHead.rows[0].cells) {
    const mine = head.dataset.key === state.sort.key;
    head.setAttribute("aria-sort", mine ? (state.sort.down ? "descending" : "ascending") : "none");
  }
  const rows = items.slice(0, state.rows).map((item) => {
    const cells = COLUMNS.map((column) => {
      const text = column.text(item);
      const verdict = column.key === "mark" ? (text === "holds" ? " good" : text === "fell off" ? " bad" : "") : "";
      return make("td", { text, class: `${column.kind || ""}${verdict}` });
    });
    return make("tr", {
      tabindex: "0", "data-id": item.id, class: item.onFront ? "" : "dominated", "aria-selected": String(item.id === state.selected),
      onclick: () => select(item.id), onkeydown: rowKey,
    }, ...cells);
  });
  byId("table").tBodies[0].replaceChildren(...rows);
  const of = state.all ? points.length + cloud.trial.length : points.length;
  const brushed = state.brushed ? ", within the selected area (double-click a plot to leave it)" : "";
  byId("count").textContent = `${items.length.toLocaleString("en")} of ${of.toLocaleString("en")} ${state.all ? "trials" : "points"} within the budget${brushed}.`;
  byId("more").hidden = items.length <= state.rows;
}

function rowKey(event) {
  const row = event.currentTarget;
  const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
  if (event.key === "Enter" || event.key === " ") select(row.dataset.id);
  else if (next) next.focus();
  else return;
  event.preventDefault();
}

function markRow() {
  for (const row of byId("table").tBodies[0].rows) row.setAttribute("aria-selected", String(row.dataset.id === state.selected));
}

// A cell of a CSV file; a text that a spreadsheet would take for a formula begins with an apostrophe.
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csvText() {
  const fields = ["point", "trial", "candidate", "size_bytes", "latency_ms", "latency_ms_spread", "accuracy", "accuracy_spread", ...(data.onTest ? ["test_accuracy", "test_accuracy_spread"] : []), "times_smaller", "times_faster", "points_lost", ...data.parameters];
  const rows = tableItems().map((item) => [
    item.name, item.trial, item.candidate, item.size, item.latency, item.onFront ? item.latencySpread : null, item.accuracy, item.onFront ? item.accuracySpread : null, ...(data.onTest ? (item.onFront ? [item.test, item.testSpread] : [null, null]) : []),
    item.smaller, item.faster, item.drop, ...data.parameters.map((name) => item.parameters[name]),
  ]);
  return [fields, ...rows].map((row) => row.map(csvCell).join(",")).join("\n") + "\n";
}

function exportCsv() {
  const address = URL.createObjectURL(new Blob([csvText()], { type: "text/csv" }));
  make("a", { href: address, download: `${data.study}-points.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
