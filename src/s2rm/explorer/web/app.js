// The page of a world that is seen in crops: the loop over time, and what a person can do.

import { draw, Panel } from "./arena.js";
import { Model, startRuntime } from "./engine.js";
import { cover, cut, dice, f1, joined, unpacked } from "./shapes.js";

const find = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
const MOST_SQUARES = 30, KEPT = 120;

let scene, episodes, panels = [], grid, roll = dice(1);
let now = 0, made = 0, playing = false, busy = false, again = false;
let squares = [], fed = [];  // where the squares are, and where the models were asked for what a closed loop feeds back
let remembered, rememberedBefore, seenScores = [];

const settings = () => ({ show: chosen("show"), truth: find("truth").checked, enclaves: find("enclaves").checked });
const frames = () => episodes[find("episode").value].frames;
const anywhere = () => [roll(scene.side), roll(scene.side)];
const seen = () => squares.map((_, number) => number < Math.round((find("share").value / 100) * squares.length));
const closed = () => chosen("sees") === "own" && now > 0;

/** What one model sees at this step. */
function viewsOf(panel) {
  const sees = chosen("sees");
  if (closed()) {
    const values = panel.fedBack.map((probability) => Number(probability > 0.5));
    return { positions: fed, values, seen: fed.map((_, number) => number < squares.length && seen()[number]) };
  }
  const values = cut(frames()[now], squares, scene.crop, scene.side);
  return { positions: squares, values, seen: sees === "nothing" ? squares.map(() => false) : seen() };
}

/** What was last seen of each pixel, which needs no model. */
function remember() {
  remembered = rememberedBefore.slice();
  if (chosen("sees") !== "world" && now > 0) return;
  const size = scene.crop ** 2, values = cut(frames()[now], squares, scene.crop, scene.side), there = seen();
  const none = chosen("sees") === "nothing";
  squares.forEach((at, number) => {
    if (there[number] && !none) remembered.set(joinedOver(remembered, values.subarray(number * size, (number + 1) * size), at));
  });
}

function joinedOver(frame, patch, at) {
  const covered = joined(new Float32Array(patch.length).fill(1), [at], scene.crop, scene.side);
  const content = joined(patch, [at], scene.crop, scene.side);
  return frame.map((old, pixel) => (covered[pixel] ? content[pixel] : old));
}

/** Run the current step from the states before it: again, where somebody changed what is seen or who takes part. */
async function run() {
  if (busy) { again = true; return; }
  busy = true;
  do {
    again = false;
    const next = squares.map((at) => (find("jump").checked ? anywhere() : [...at])), queries = [...grid, ...next];
    const given = panels.map(viewsOf), { crop, side } = scene, size = crop * crop;
    for (const [number, panel] of panels.entries()) {
      const start = performance.now();
      const out = await panel.model.step(panel.before, given[number], queries);
      panel.milliseconds = [...panel.milliseconds, performance.now() - start].slice(-20);
      const whole = (values) => joined(values.subarray(0, grid.length * size), grid, crop, side);
      panel.result = {
        belief: whole(out.mean), spread: whole(out.stddev),
        activity: { ...out, positions: given[number].positions },
      };
      panel.after = out.state;
      panel.asked = out.mean.slice(grid.length * size);
    }
    run.next = next;
    made += 1;
    remember();
    show(given[0]);
  } while (again);
  busy = false;
}

function show(given = { positions: closed() ? fed : squares, seen: chosen("sees") === "nothing" ? squares.map(() => false) : seen() }) {
  const truth = frames()[now + 1];
  for (const panel of panels) {
    panel.scores[now] = panel.show(panel.result, truth, settings());
    panel.place(given.positions, given.seen);
  }
  seenScores[now] = f1(remembered, truth);
  find("clock").textContent = `Step ${now + 1} of ${frames().length - 1}`;
  find("clock").dataset.steps = made;  // over all episodes
  find("number").textContent = `${squares.length} square${squares.length === 1 ? "" : "s"}, ${seen().filter(Boolean).length} seen`;
  curves();
}

function curves() {
  const start = Math.max(0, now + 1 - KEPT), x = (step) => ((step - start) / (KEPT - 1)) * 600, y = (score) => 105 - 100 * score;
  const line = (scores) => scores.slice(start).map((score, step) => `${step ? "L" : "M"}${x(start + step).toFixed(1)} ${y(score).toFixed(1)}`).join("");
  find("curves").replaceChildren(
    ...[0, 0.5, 1].map((score) => draw("line", { class: "grid", x1: 0, x2: 600, y1: y(score), y2: y(score) })),
    draw("path", { class: "curve-seen", d: line(seenScores) }),
    ...panels.map((panel, number) => draw("path", { class: `curve-${number}`, d: line(panel.scores) })),
  );
  const mean = (scores) => { const last = scores.slice(-20); return (last.reduce((a, b) => a + b, 0) / last.length).toFixed(2); };
  const item = (style, name, scores) =>
    `<span><svg viewBox="0 0 30 10" aria-hidden="true"><path class="${style}" d="M0 5H30"/></svg>${name}, mean of 20 steps: ${mean(scores)}</span>`;
  find("legend").innerHTML = [...panels.map((panel, number) => item(`curve-${number}`, panel.model.label, panel.scores)), item("curve-seen", "last seen", seenScores)].join("");
}

async function advance() {
  if (busy) return;
  if (now + 2 >= frames().length) {
    find("episode").value = (Number(find("episode").value) + 1) % episodes.length;
    return restart();
  }
  now += 1;
  fed = run.next;
  rememberedBefore = remembered;
  for (const panel of panels) { panel.before = panel.after; panel.fedBack = [...panel.asked]; }
  if (find("jump").checked) squares = squares.map((at, number) => fed[number] ?? at);
  await run();
}

async function restart() {
  now = 0; seenScores = []; roll = dice(1);
  if (find("jump").checked) squares = squares.map(anywhere);
  rememberedBefore = new Float32Array(scene.side ** 2);
  for (const panel of panels) Object.assign(panel, { before: panel.model.initialState(), scores: [], milliseconds: [] });
  await run();
}

async function play() {
  playing = !playing;
  find("play").textContent = playing ? "Pause" : "Play";
  while (playing) {
    const due = performance.now() + 1000 / Number(find("speed").value);
    await advance();
    await new Promise((resume) => setTimeout(resume, Math.max(0, due - performance.now())));
  }
}

function say(text) { find("said").textContent = text; }

function toggle(panel, module) {
  const { present, label } = panel.model;
  present[module] = !present[module];
  if (!present.some(Boolean)) present[module] = true;
  say(`Module ${module + 1} of ${label} is ${present[module] ? "on" : "off"}.`);
  run();
}

function move(number, [row, column]) {
  if (!squares[number]) return;
  const within = (at) => Math.max(0, Math.min(scene.side - 1, at));
  find("jump").checked = false;  // it would not stay where it was put
  squares[number] = [within(row), within(column)];
  run();
}

function grab(panel, number, event) {
  event.preventDefault();
  panel.views[number].focus();
  const start = panel.pixel(event), from = [...(panel.result.activity.positions[number] ?? squares[number])];
  const drag = (to) => {
    const at = panel.pixel(to);
    if (at[0] === start[0] && at[1] === start[1] && !panel.dragged) return;
    panel.dragged = true;
    move(number, [from[0] + at[0] - start[0], from[1] + at[1] - start[1]]);
  };
  const ends = ["pointerup", "pointercancel"];
  const release = () => {
    removeEventListener("pointermove", drag);
    for (const end of ends) removeEventListener(end, release);
    setTimeout(() => { panel.dragged = false; });  // after the click that ends a drag
  };
  addEventListener("pointermove", drag);
  for (const end of ends) addEventListener(end, release);
}

function add() {
  if (squares.length < MOST_SQUARES) { squares.push(anywhere()); run(); }
}

function drop(number = squares.length - 1) {
  if (squares.length) { squares.splice(number, 1); say(`${squares.length} squares are left.`); run(); }
}

function squareKey(number, event) {
  const by = event.shiftKey ? 5 : 1, moves = { ArrowUp: [-by, 0], ArrowDown: [by, 0], ArrowLeft: [0, -by], ArrowRight: [0, by] };
  if (event.key in moves) {
    const [rows, columns] = moves[event.key];
    move(number, [squares[number][0] + rows, squares[number][1] + columns]);
  } else if (event.key === "Delete" || event.key === "Backspace") drop(number);
  else return;
  event.preventDefault(); event.stopPropagation();
}

function pageKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input[type=range]")) return;
  const choose = (value) => () => { document.querySelector(`input[name=sees][value=${value}]`).click(); };
  const keys = { ".": advance, r: restart, a: add, Delete: () => drop(), w: choose("world"), o: choose("own"), b: choose("nothing") };
  if (event.key === " " && !event.target.closest("button, input, summary")) { event.preventDefault(); play(); }
  else if (event.key in keys) keys[event.key]();
  else if (/^[0-9]$/.test(event.key)) {
    const module = (Number(event.key) + 9) % 10;
    if (panels[0].model.present.length > module) toggle(panels[0], module);
  }
}

/** Show the first model, and the chosen one beside it, from the start of the episode. */
async function choosePanels() {
  const abouts = [scene.models[0], ...(find("other").value ? [scene.models[find("other").value]] : [])];
  find("loading").hidden = false;
  const models = await Promise.all(abouts.map((about) => (about.model ??= Model.load(about))));
  find("loading").hidden = true;
  panels = models.map((model) => new Panel(model, scene, { toggle, grab, key: squareKey }));
  find("panels").replaceChildren(...panels.map((panel) => panel.element));
  for (const panel of panels) panel.element.classList.toggle("alone", panels.length === 1);
  await restart();
}

async function start() {
  if (typeof WebAssembly !== "object" || typeof DecompressionStream !== "function")
    throw new Error("This browser cannot run the model: it lacks WebAssembly or DecompressionStream. Take a newer one.");
  startRuntime().catch(() => {});  // its error comes with that of the first model
  const response = await fetch("scene.json");
  if (!response.ok) throw new Error(`The file scene.json did not load (${response.status}). Write the folder again.`);
  scene = await response.json();
  const { side, crop } = scene;
  for (const about of scene.models)
    about.enclaves = about.enclaves.map((packed) => Float32Array.from(atob(packed), (letter) => letter.charCodeAt(0) / 255));
  episodes = scene.episodes.map(({ label, steps, packed }) => ({ label, frames: unpacked(packed, side, steps) }));
  grid = cover(crop, side);
  find("scene").textContent = scene.title;
  find("episode").replaceChildren(...episodes.map(({ label }, number) => new Option(label, number)));
  find("other").replaceChildren(new Option("no other model", ""), ...scene.models.slice(1).map(({ label }, number) => new Option(label, number + 1)));
  find("beside").hidden = scene.models.length < 2;
  squares = Array.from({ length: scene.num_views }, anywhere);
  await choosePanels();
  find("main").hidden = false;

  const on = (id, event, action) => find(id).addEventListener(event, action);
  on("play", "click", play); on("step", "click", advance); on("restart", "click", restart);
  on("episode", "change", restart); on("other", "change", () => choosePanels().catch(fail)); on("add", "click", add); on("drop", "click", () => drop());
  on("speed", "input", () => { find("speed-now").textContent = find("speed").value; });
  on("share", "input", () => { find("share-now").textContent = `${find("share").value} %`; run(); });
  for (const id of ["truth", "enclaves"]) on(id, "change", () => show());
  for (const input of document.querySelectorAll("input[name=show]")) input.addEventListener("change", () => show());
  for (const input of document.querySelectorAll("input[name=sees]")) input.addEventListener("change", run);
  on("controls", "submit", (event) => event.preventDefault());
  document.addEventListener("keydown", pageKey);
}

function fail(error) {
  find("loading").hidden = true;
  find("problem").hidden = false;
  find("problem").textContent = error.message;
}

start().catch(fail);
