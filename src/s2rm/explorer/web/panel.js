// One model's panel: its belief as a picture, what lies over it as SVG, and its modules as a map and as switches.

import { outline } from "./shapes.js";

const SVG = "http://www.w3.org/2000/svg";

export function draw(name, attributes = {}, parent = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

export function html(name, attributes = {}, parent = null) {
  const made = Object.assign(document.createElement(name), attributes);
  parent?.append(made);
  return made;
}

/** Where a module answers: its kernel over the picture, the path around it, and its middle, null where it has no pixel. */
function enclave(kernel, rows, columns) {
  let total = 0, row = 0, column = 0;
  kernel.forEach((weight, pixel) => {
    total += weight; row += weight * (Math.floor(pixel / columns) + 0.5); column += weight * ((pixel % columns) + 0.5);
  });
  return { kernel, path: outline((pixel) => kernel[pixel] > 0, rows, columns), middle: total ? [column / total, row / total] : null };
}

export class Panel {
  /** `world`: what is shown, see app.js. `events`: toggle(panel, module), press(panel, pixel), grab(panel, mark, event), key(mark, event). */
  constructor(model, world, events) {
    Object.assign(this, { model, world, events, chosen: null, scores: [], milliseconds: [] });
    const { rows, columns } = world;
    this.enclaves = model.about.enclaves.map((kernel) => enclave(kernel, rows, columns));
    this.graphNodes = [];
    this.element = html("section", { className: "panel" });
    const head = html("div", { className: "head" }, this.element);
    html("h2", { textContent: model.label }, head);
    this.numbers = html("span", { className: "numbers" }, head);
    const arena = html("div", { className: `arena ${world.ground}` }, this.element);
    arena.style.aspectRatio = `${columns} / ${rows}`;
    this.canvas = html("canvas", { width: columns, height: rows }, arena);
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `What ${model.label} believes about the next step`);
    this.pen = this.canvas.getContext("2d");
    this.image = this.pen.createImageData(columns, rows);
    this.overlay = draw("svg", { viewBox: `0 0 ${columns} ${rows}`, "aria-label": world.words.marks, role: "group" }, arena);
    this.layers = Object.fromEntries(["enclaves", "truth", "attention", "marks"].map((name) => [name, draw("g", {}, this.overlay)]));
    this.outlines = this.enclaves.map(({ path }) => draw("path", { class: "enclave", d: path }, this.layers.enclaves));
    this.labels = this.enclaves.map(({ middle }, module) => {
      const size = Math.max(rows, columns) / 25;
      const label = draw("text", { class: "number", x: middle?.[0] ?? 0, y: middle?.[1] ?? 0, "font-size": size }, this.layers.enclaves);
      label.textContent = middle ? module + 1 : "";
      return label;
    });
    this.marks = [];
    this.readout = html("p", { className: "readout" }, this.element);
    this.overlay.addEventListener("pointermove", (event) => this.point(event));
    this.overlay.addEventListener("pointerleave", () => { this.at = null; this.choose(null); });
    this.overlay.addEventListener("click", (event) => {
      if (!event.target.closest(".mark") && !this.dragged) events.press(this, this.pixel(event));
    });
    if (model.about.numModules) this.addModules();
  }

  addModules() {
    const count = this.model.about.numModules, { rows, columns } = this.world;
    const box = html("div", { className: "modules" }, this.element);
    html("h2", { textContent: "Who hears whom" }, box);
    this.graph = draw("svg", { class: "graph", viewBox: "0 0 48 48", role: "img" }, box);
    this.edgeLayer = draw("g", {}, this.graph);
    // Modules stand where their enclaves are; those without one stand on a circle.
    this.places = Array.from({ length: count }, (_, module) => {
      const turn = (2 * Math.PI * module) / count, middle = this.enclaves[module]?.middle;
      return middle ? [(48 * middle[0]) / columns, (48 * middle[1]) / rows] : [24 + 19 * Math.sin(turn), 24 - 19 * Math.cos(turn)];
    });
    this.places.forEach(([x, y], module) => {
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

  /** [x, y] in the picture under a pointer, in pixels and parts of them. */
  place(event) {
    const box = this.overlay.getBoundingClientRect(), { rows, columns } = this.world;
    const within = (offset, size, side) => Math.max(0, Math.min(side - 1e-6, (offset / size) * side));
    return [within(event.clientX - box.left, box.width, columns), within(event.clientY - box.top, box.height, rows)];
  }

  pixel(event) {
    const [x, y] = this.place(event);
    return [Math.floor(y), Math.floor(x)];
  }

  moduleAt([row, column]) {
    let best = null, most = 0;
    this.enclaves.forEach(({ kernel }, module) => {
      const weight = kernel[row * this.world.columns + column];
      if (weight > most) [best, most] = [module, weight];
    });
    return best;
  }

  point(event) {
    this.at = this.pixel(event);
    this.choose(event.target.closest(".mark") ? null : this.moduleAt(this.at));
  }

  choose(module) {
    this.chosen = module;
    this.attend();
  }

  /** Which modules are on, which one is chosen, and what it attends to. */
  attend() {
    const { present } = this.model, { activity, chosen } = this;
    for (const parts of [this.outlines, this.labels, this.graphNodes])
      parts.forEach((part, module) => {
        part.classList.toggle("off", !present[module]);
        part.classList.toggle("chosen", module === chosen);
      });
    this.switches?.forEach((button, module) => button.setAttribute("aria-pressed", String(present[module])));
    this.layers.attention.replaceChildren();
    if (activity) this.readout.textContent = this.at ? this.world.reads(this, this.at) : "Point at the picture to read its numbers.";
    const middle = chosen === null ? null : this.enclaves[chosen]?.middle;
    if (activity?.reads && middle && activity.columns >= activity.seen.length)
      activity.seen.forEach((at, mark) => {
        const weight = activity.reads[chosen * activity.columns + mark];
        if (weight > 0.005)
          draw("line", { class: "attention", x1: middle[0], y1: middle[1], x2: at[0], y2: at[1], "stroke-width": 1 + 14 * weight }, this.layers.attention);
      });
    this.tell();
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

  /** Show what the world makes of a step, which returns the score. */
  show(settings) {
    const { result } = this;
    this.activity = result.activity;
    this.layers.truth.replaceChildren();
    const score = this.world.paint(this, settings);
    this.pen.putImageData(this.image, 0, 0);
    this.layers.enclaves.style.display = settings.enclaves ? "" : "none";
    const mean = this.milliseconds.reduce((a, b) => a + b, 0) / this.milliseconds.length;
    this.numbers.innerHTML = `${this.world.words.score} <b>${Number.isNaN(score) ? "–" : score.toFixed(3)}</b> · ${mean.toFixed(1)} ms per step`;
    this.showHearing();
    this.showMarks();
    this.attend();
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
        // Bent to the right of its direction, so that both directions show; thicker where more is heard.
        const [[x1, y1], [x2, y2]] = [this.places[from], this.places[to]], bend = 0.16;
        const [x, y] = [(x1 + x2) / 2 + bend * (y1 - y2), (y1 + y2) / 2 + bend * (x2 - x1)];
        const strength = { "stroke-width": (0.7 + 12 * weight).toFixed(2), opacity: Math.min(1, 0.25 + 2.5 * weight).toFixed(2) };
        draw("path", { class: "edge", d: `M${x1} ${y1}Q${x} ${y} ${x2} ${y2}`, ...strength }, this.edgeLayer);
      }
    this.graph.setAttribute("aria-label", `Map of the modules of ${this.model.label}; ${edges} times one hears another`);
  }

  /** The marks of what is seen, each with its place, size, shape, whether it is seen, and what a screen reader says. */
  showMarks() {
    const marks = this.world.marks(this);
    while (this.marks.length < marks.length) {
      const mark = draw("g", { tabindex: 0, role: "button" }, this.layers.marks), number = this.marks.length;
      mark.addEventListener("pointerdown", (event) => { this.dragged = false; this.events.grab(this, number, event); });
      mark.addEventListener("keydown", (event) => this.events.key(number, event));
      this.marks.push(mark);
    }
    while (this.marks.length > marks.length) this.marks.pop().remove();
    marks.forEach(({ at: [x, y], radius, square, seen, there = true, says, fill }, number) => {
      const mark = this.marks[number];
      mark.style.display = there ? "" : "none";
      if (mark.firstChild?.nodeName !== (square ? "rect" : "circle")) mark.replaceChildren(draw(square ? "rect" : "circle"));
      const shape = square ? { x: x - radius, y: y - radius, width: 2 * radius, height: 2 * radius, rx: 0.4 } : { cx: x, cy: y, r: radius };
      for (const [name, value] of Object.entries(shape)) mark.firstChild.setAttribute(name, value);
      mark.firstChild.style.fill = fill ?? "";
      mark.setAttribute("class", `mark${seen ? "" : " unseen"}`);
      mark.setAttribute("aria-label", says);
    });
  }
}
