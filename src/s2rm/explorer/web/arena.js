// One model's panel: its belief as pixels, what lies over it as SVG, and its modules as a map and as switches.

import { f1, outline } from "./shapes.js";

const SVG = "http://www.w3.org/2000/svg";

export function draw(name, attributes = {}, parent = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

function html(name, attributes = {}, parent = null) {
  const made = Object.assign(document.createElement(name), attributes);
  parent?.append(made);
  return made;
}

/** Where a module answers: its kernel over the arena, the path around it, and its middle, null where it has no pixel. */
function enclave(kernel, side) {
  let total = 0, row = 0, column = 0;
  kernel.forEach((weight, pixel) => {
    total += weight; row += weight * (Math.floor(pixel / side) + 0.5); column += weight * ((pixel % side) + 0.5);
  });
  return { kernel, path: outline((pixel) => kernel[pixel] > 0, side), middle: total ? [row / total, column / total] : null };
}

export class Panel {
  /** `events`: toggle(panel, module), grab(view, event), key(view, event). */
  constructor(model, scene, events) {
    Object.assign(this, { model, scene, events, chosen: null, scores: [], milliseconds: [] });
    const { side } = scene;
    this.enclaves = model.about.enclaves.map((kernel) => enclave(kernel, side));
    this.graphNodes = [];
    this.element = html("section", { className: "panel" });
    const head = html("div", { className: "head" }, this.element);
    html("h2", { textContent: model.label }, head);
    this.numbers = html("span", { className: "numbers" }, head);
    const arena = html("div", { className: "arena" }, this.element);
    this.canvas = html("canvas", { width: side, height: side }, arena);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `What ${model.label} believes about the next step`);
    this.pen = this.canvas.getContext("2d");
    this.image = this.pen.createImageData(side, side);
    this.overlay = draw("svg", { viewBox: `0 0 ${side} ${side}`, "aria-label": "Squares that the model sees", role: "group" }, arena);
    this.truth = draw("path", { class: "truth" });
    this.layers = Object.fromEntries(["enclaves", "attention", "views"].map((name) => [name, draw("g", {}, this.overlay)]));
    this.overlay.insertBefore(this.truth, this.layers.attention);
    this.outlines = this.enclaves.map(({ path }) => draw("path", { class: "enclave", d: path }, this.layers.enclaves));
    this.labels = this.enclaves.map(({ middle }, module) => {
      const label = draw("text", { class: "number", x: middle?.[1] ?? 0, y: middle?.[0] ?? 0 }, this.layers.enclaves);
      label.textContent = middle ? module + 1 : "";
      return label;
    });
    this.views = [];
    this.readout = html("p", { className: "readout" }, this.element);
    this.overlay.addEventListener("pointermove", (event) => this.point(event));
    this.overlay.addEventListener("pointerleave", () => { this.at = null; this.choose(null); });
    this.overlay.addEventListener("click", (event) => {
      if (event.target.closest(".view") || this.dragged) return;
      const module = this.moduleAt(this.pixel(event));
      if (module !== null) events.toggle(this, module);
    });
    if (model.about.numModules) this.addModules();
  }

  addModules() {
    const { side } = this.scene, count = this.model.about.numModules;
    const box = html("div", { className: "modules" }, this.element);
    html("h2", { textContent: "Who hears whom" }, box);
    this.graph = draw("svg", { class: "graph", viewBox: `0 0 ${side} ${side}`, role: "img" }, box);
    this.edgeLayer = draw("g", {}, this.graph);
    // Modules stand where their enclaves are; those without one stand on a circle.
    this.places = Array.from({ length: count }, (_, module) => {
      const turn = (2 * Math.PI * module) / count;
      return this.enclaves[module]?.middle ?? [side * (0.5 - 0.4 * Math.cos(turn)), side * (0.5 + 0.4 * Math.sin(turn))];
    });
    this.places.forEach(([y, x], module) => {
      const node = draw("g", {}, this.graph);
      draw("circle", { cx: x, cy: y, r: 2.6 }, node);
      draw("text", { x, y }, node).textContent = module + 1;
      node.addEventListener("click", () => this.events.toggle(this, module));
      node.addEventListener("pointerenter", () => this.choose(module));
      node.addEventListener("pointerleave", () => this.choose(null));
      this.graphNodes.push(node);
    });
    const beside = html("div", {}, box);
    const switches = html("div", { className: "switches" }, beside);
    switches.setAttribute("role", "group");
    switches.setAttribute("aria-label", `Modules of ${this.model.label}`);
    this.heard = html("p", {}, beside);  // below the switches, which its lines would move
    this.switches = this.places.map((_, module) => {
      const button = html("button", { type: "button", textContent: module + 1 }, switches);
      button.setAttribute("aria-label", `Module ${module + 1}`);
      button.addEventListener("click", () => this.events.toggle(this, module));
      for (const [event, who] of [["focus", module], ["blur", null], ["pointerenter", module], ["pointerleave", null]])
        button.addEventListener(event, () => this.choose(who));
      return button;
    });
  }

  /** (row, column) of the pixel under a pointer. */
  pixel(event) {
    const box = this.overlay.getBoundingClientRect(), { side } = this.scene;
    const within = (offset, size) => Math.max(0, Math.min(side - 1, Math.floor((offset / size) * side)));
    return [within(event.clientY - box.top, box.height), within(event.clientX - box.left, box.width)];
  }

  moduleAt([row, column]) {
    let best = null, most = 0;
    this.enclaves.forEach(({ kernel }, module) => {
      const weight = kernel[row * this.scene.side + column];
      if (weight > most) [best, most] = [module, weight];
    });
    return best;
  }

  point(event) {
    this.at = this.pixel(event);
    this.choose(event.target.closest(".view") ? null : this.moduleAt(this.at));
  }

  choose(module) {
    this.chosen = module;
    this.mark();
  }

  /** Which modules are on, which one is chosen, and what it attends to. */
  mark() {
    const { present } = this.model, { activity, chosen } = this;
    for (const parts of [this.outlines, this.labels, this.graphNodes])
      parts.forEach((part, module) => {
        part.classList.toggle("off", !present[module]);
        part.classList.toggle("chosen", module === chosen);
      });
    this.switches?.forEach((button, module) => button.setAttribute("aria-pressed", String(present[module])));
    this.layers.attention.replaceChildren();
    this.read();
    if (!activity?.reads || chosen === null) { this.tell(); return; }
    const middle = this.enclaves[chosen]?.middle;
    if (middle && activity.columns === activity.positions.length)
      activity.positions.forEach(([row, column], view) => {
        const weight = activity.reads[chosen * activity.columns + view];
        if (weight > 0.005)
          draw("line", { class: "attention", x1: middle[1], y1: middle[0], x2: column + 0.5, y2: row + 0.5, "stroke-width": 1 + 14 * weight }, this.layers.attention);
      });
    this.tell();
  }

  /** In words: the belief at the pointer. */
  read() {
    if (!this.belief) return;
    if (!this.at) { this.readout.textContent = "Point at the picture to read its numbers."; return; }
    const [row, column] = this.at, pixel = row * this.scene.side + column;
    const numbers = `belief ${this.belief[pixel].toFixed(4)} ± ${this.spread[pixel].toFixed(4)}, truth ${this.frame[pixel]}`;
    this.readout.textContent = `Row ${row}, column ${column}: ${numbers}`;
  }

  /** In words: what the chosen module attends to. */
  tell() {
    if (!this.heard) return;
    const { activity, chosen } = this, count = this.model.about.numModules;
    if (chosen === null || !activity) { this.heard.textContent = "Choose a module to see what it attends to. Press it to switch it off."; return; }
    if (!this.model.present[chosen]) { this.heard.textContent = `Module ${chosen + 1} is switched off.`; return; }
    const share = (weight) => `${Math.round(100 * weight)} %`;
    const hears = [...activity.hears.slice(chosen * count, (chosen + 1) * count)].map((weight, module) => [weight, module])
      .filter(([weight, module]) => weight > 0.005 && module !== chosen).sort(([a], [b]) => b - a).slice(0, 3);
    const reads = activity.reads.slice(chosen * activity.columns, (chosen + 1) * activity.columns).reduce((a, b) => a + b, 0);
    const others = hears.map(([weight, module]) => `${module + 1} (${share(weight)})`).join(", ") || "no other module";
    this.heard.textContent = `Module ${chosen + 1} hears ${others}; weight on what is seen: ${share(reads)}.`;
  }

  /** Show a step. `result`: belief and spread of each pixel, and the modules' activity; `frame`: the truth. */
  show({ belief, spread, activity }, frame, settings) {
    Object.assign(this, { belief, spread, activity, frame });
    const pixels = this.image.data;
    for (let pixel = 0; pixel < belief.length; pixel++) {
      let colour;
      if (settings.show === "errors") {
        const off = belief[pixel] - frame[pixel];  // believed and not there: blue; there and not believed: orange
        colour = off > 0 ? [86 * off, 180 * off, 233 * off] : [-230 * off, -159 * off, 0];
        if (frame[pixel]) colour = colour.map((part) => part + 110 * belief[pixel]);
      } else {
        const shade = 255 * (settings.show === "spread" ? 2 * spread[pixel] : belief[pixel]);
        colour = [shade, shade, shade];
      }
      pixels.set([...colour, 255], 4 * pixel);
    }
    this.pen.putImageData(this.image, 0, 0);
    this.truth.setAttribute("d", settings.truth ? outline((pixel) => frame[pixel] > 0, this.scene.side) : "");
    this.layers.enclaves.style.display = settings.enclaves ? "" : "none";
    const score = f1(belief, frame), mean = this.milliseconds.reduce((a, b) => a + b, 0) / this.milliseconds.length;
    this.numbers.innerHTML = `F1 <b>${score.toFixed(3)}</b> · ${mean.toFixed(1)} ms a step`;
    this.showHearing();
    this.mark();
    return score;
  }

  showHearing() {
    if (!this.graph || !this.activity) return;
    const count = this.model.about.numModules, { hears } = this.activity;
    this.edgeLayer.replaceChildren();
    let edges = 0;
    for (let to = 0; to < count; to++)
      for (let from = 0; from < count; from++) {
        const weight = hears[to * count + from];
        if (to === from || weight < 0.005) continue;
        edges++;
        // Bent to the right of its direction, so that both directions show; thicker towards who hears.
        const [[y1, x1], [y2, x2]] = [this.places[from], this.places[to]], bend = 0.16;
        const [x, y] = [(x1 + x2) / 2 + bend * (y1 - y2), (y1 + y2) / 2 + bend * (x2 - x1)];
        const strength = { "stroke-width": (0.7 + 12 * weight).toFixed(2), opacity: Math.min(1, 0.25 + 2.5 * weight).toFixed(2) };
        draw("path", { class: "edge", d: `M${x1} ${y1}Q${x} ${y} ${x2} ${y2}`, ...strength }, this.edgeLayer);
      }
    this.graph.setAttribute("aria-label", `Map of the modules of ${this.model.label}; ${edges} hear another one`);
  }

  /** Draw the squares: positions, and whether each is seen. */
  place(positions, seen) {
    const { crop } = this.scene, half = crop >> 1;
    while (this.views.length < positions.length) {
      const view = draw("g", { class: "view", tabindex: 0, role: "button" }, this.layers.views), number = this.views.length;
      draw("rect", { width: crop, height: crop, rx: 0.4 }, view);
      view.addEventListener("pointerdown", (event) => { this.dragged = false; this.events.grab(this, number, event); });
      view.addEventListener("keydown", (event) => this.events.key(number, event));
      this.views.push(view);
    }
    while (this.views.length > positions.length) this.views.pop().remove();
    positions.forEach(([row, column], number) => {
      const view = this.views[number], rect = view.firstChild;
      rect.setAttribute("x", column - half); rect.setAttribute("y", row - half);
      view.classList.toggle("unseen", !seen[number]);
      view.setAttribute("aria-label", `Square ${number + 1}${seen[number] ? "" : ", not seen"}: row ${row}, column ${column}. Arrow keys move it, Delete drops it.`);
    });
  }
}
