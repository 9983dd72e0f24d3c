// The selected point: what it is made of, what was measured, layer by layer, and how to export it.
function selectedItem() {
  if (!state.selected) return null;
  const point = points.find((each) => each.id === state.selected);
  if (point) return point;
  const at = cloud.trial.findIndex((trial) => `t${trial}` === state.selected);
  return at < 0 ? null : cloudItem(at);
}

function describeList(pairs) {
  const list = make("dl");
  for (const [topic, text, below] of pairs) {
    const value = make("dd", { text });
    if (below) value.append(make("small", { text: below }));
    list.append(make("dt", { text: topic }), value);
  }
  return list;
}

function bar(share, text, label) {
  const fill = make("b");
  fill.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  return make("td", {}, make("div", { class: "bar" }, make("i", { role: "img", "aria-label": label }, fill), make("span", { text })));
}

function layersTable(point) {
  const most = Math.max(...point.layers.map((layer) => layer.bytes), 1);
  const head = make("tr", {}, ...["layer", "weight", "channels", "bits", "zeros", "about, bytes"].map((text, at) => make("th", { text, scope: "col", class: at < 3 ? "name" : "text" })));
  const rows = point.layers.map((layer) => make("tr", {},
    make("td", { class: "name", text: layer.name }), make("td", { class: "text", text: layer.shape }),
    layer.kept === null ? make("td", { class: "text", text: layer.channels }) : bar(layer.kept, layer.channels, `${layer.channels} channels kept`),
    bar(Math.min(layer.bits, 32) / 32, String(layer.bits), `${layer.bits} bits`),
    bar(layer.zeros, `${(100 * layer.zeros).toFixed(0)} %`, `${(100 * layer.zeros).toFixed(0)} percent zeros`),
    bar(layer.bytes / most, layer.bytes.toLocaleString("en"), `${layer.bytes} bytes`)));
  const weights = point.layers.reduce((sum, layer) => sum + layer.bytes, 0);
  const rest = Math.max(point.size - weights, 0);
  return make("div", { class: "full" }, make("h3", { text: `Layer by layer: weights take about ${sizeText(weights)}; graph, scales and the rest ${sizeText(rest)}` }),
    make("div", { class: "layers", tabindex: "0", role: "region", "aria-label": "Layers" }, make("table", { class: "bars" }, make("thead", {}, head), make("tbody", {}, ...rows))));
}

function verdicts(point) {
  const told = [];
  if (point.mark) told.push(["Measured again", point.mark]);
  else if (point.holds !== null && point.holds !== undefined) told.push(["Measured again", point.holds ? "holds: no other point is better in everything" : "fell off: another point is better in everything"]);
  if (point.probability !== null && point.probability !== undefined) told.push(["On the true front", `with probability ${point.probability.toFixed(2)}`]);
  if (point.coveredBy) told.push(["Covered by", `${point.coveredBy}: better in at least one, and no worse in the others beyond the noise`]);
  if (point.broken?.length) told.push(["Breaks", point.broken.join("; ")]);
  return told;
}

function drawDetail() {
  const item = selectedItem();
  const panel = byId("detail");
  if (!item) {
    panel.replaceChildren(make("p", { class: "hint", text: "Select a point, in a plot or in the table, to see what it is made of." }));
    return;
  }
  const title = item.onFront ? item.name : `Trial ${item.trial}`;
  const head = make("div", { class: "detail-head" }, make("h2", { text: title }), make("span", { text: item.onFront ? `trial ${item.trial}: ${item.candidate}` : "measured, not on the front" }));
  const made = item.words?.length ? item.words : Object.entries(item.parameters).map(([name, value]) => [name, String(value)]);
  const values = [["Against your model", `${factorText(item.smaller)} smaller, ${factorText(item.faster)} faster${item.dropText ? `, ${item.dropText}` : ""}`], ...verdicts(item)];
  const measured = item.measurements?.length ? item.measurements : [["File size", sizeText(item.size)], ["Latency", timeText(item.latency)], ["Accuracy", shareText(item.accuracy), "validation"]];
  const grid = make("div", { class: "detail-grid" },
    make("div", {}, make("h3", { text: "What it is made of" }), describeList(made)),
    make("div", {}, make("h3", { text: "What was measured" }), describeList([...values, ...measured])));
  if (item.layers?.length) grid.append(layersTable(item));
  if (item.onFront && data.isFront) {
    const words = item.command ? commandLine(item.command) : make("p", { class: "hint", text: "Its file can be exported once the search has finished and the front is measured again." });
    grid.append(make("div", { class: "full" }, make("h3", { text: "Export it" }), words));
  }
  panel.replaceChildren(head, grid);
}

function drawPick() {
  const shown = fittingPoints();
  const pick = data.isFront ? recommended(shown) : null;
  const panel = byId("pick");
  const count = `${shown.length} of ${points.length} points fit`;
  if (!data.isFront) {
    panel.replaceChildren(make("p", { text: "There is no best pick: no candidate keeps the bounds of the study." }), make("p", { class: "hint", text: count }));
    return;
  }
  if (!pick) {
    panel.replaceChildren(make("p", { text: "No point fits this budget. Loosen a limit." }));
    return;
  }
  const link = make("button", { type: "button", class: "link", text: pick.name, onclick: () => select(pick.id) });
  const chosen = make("p", { class: "chosen" }, document.createTextNode("Best pick: "), link, document.createTextNode(` — ${sizeText(pick.size)}, ${timeText(pick.latency)}, ${spreadText(pick.accuracy, pick.accuracySpread)} on validation${pick.test === null ? "" : `, ${spreadText(pick.test, pick.testSpread)} on test`}`));
  const { size, latency, accuracy } = state.limits;
  const options = [[size, "--max-size", ""], [latency, "--max-latency", "ms"], [accuracy, "--min-accuracy", ""]].flatMap(([limit, name, suffix]) => (Number.isFinite(limit) ? [name, `${limit}${suffix}`] : []));
  const bounded = Number.isFinite(accuracy);
  const why = bounded ? "the pick is the best compromise of these" : isNear(pick) ? `the pick is the best compromise of the ${shown.filter(isNear).length} that lose at most ${data.onePoint} on validation` : `none of them loses at most ${data.onePoint} on validation, and the pick is the nearest`;
  panel.replaceChildren(chosen, make("p", { class: "hint", text: `${count}; ${why}, as this command chooses:` }), commandLine([...data.pickCommand, ...options].map(quoted).join(" ")));
}
