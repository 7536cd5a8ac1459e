// The page: the loop over time, and what a person can do. What is special to a kind of world stands in a file of its own.
//
// A world has `rows` and `columns` of its picture, `words`, `episodes` with their `steps`, and the functions that are
// called below: begin, look, step, advance, simple, paint, marks, reads, move, where, add, drop.

import { draw, Panel } from "./panel.js";
import { fetched, Model, startRuntime } from "./engine.js";
import { bytes } from "./shapes.js";

const KINDS = { crops: ["./crops.js", "Crops"], agents: ["./agents.js", "Agents"], sensors: ["./sensors.js", "Sensors"] };
const KEPT = 120;
const find = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
const say = (text) => { find("said").textContent = text; };

let scenes, scene, world, made = 0, playing = false, busy = false, again = false, simple = [];
/** What a world may know of the page. */
const page = {
  now: 0, panels: [],
  get sees() { return chosen("sees"); },
  get jump() { return find("jump").checked; },
  get episode() { return Number(find("episode").value); },
  get click() { return chosen("click"); },
  find, say,
  stay() { find("jump").checked = false; },
  seen: (number) => Array.from({ length: number }, (_, index) => index < Math.round((find("share").value / 100) * number)),
  run: () => run(),
};
const settings = () => ({ show: chosen("show"), truth: find("truth").checked, enclaves: find("enclaves").checked });
const episode = () => world.episodes[page.episode];

/** Run the current step from the states before it: again, where somebody changed what is seen or who takes part. */
async function run() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    do {
      again = false;
      world.look();
      for (const panel of page.panels) {
        const start = performance.now();
        panel.result = await world.step(panel);
        panel.milliseconds = [...panel.milliseconds, performance.now() - start].slice(-20);
      }
      made += 1;
      show();
    } while (again);
  } finally { busy = false; }
}

function show() {
  for (const panel of page.panels) panel.scores[page.now] = panel.show(settings());
  simple[page.now] = world.simple();
  find("clock").textContent = `Step ${page.now + 1} of ${episode().steps}${world.clock?.() ?? ""}`;
  find("clock").dataset.steps = made;  // over all episodes
  const seen = page.panels[0].result.views.seen.filter(Boolean).length;
  find("number").textContent = `${world.number} ${world.words.one}${world.number === 1 ? "" : "s"}, ${seen} seen`;
  curves();
}

function curves() {
  const start = Math.max(0, page.now + 1 - KEPT), all = [simple, ...page.panels.map((panel) => panel.scores)];
  const top = world.top ?? Math.max(1e-9, ...all.flatMap((scores) => scores.slice(start).filter((score) => score < Infinity))) * 1.05;
  const x = (step) => ((step - start) / (KEPT - 1)) * 600, y = (score) => 105 - (100 * Math.min(score, top)) / top;
  const line = (scores) => scores.slice(start).map((score, step) => [start + step, score]).filter(([, score]) => !Number.isNaN(score))
    .map(([step, score], index) => `${index ? "L" : "M"}${x(step).toFixed(1)} ${y(score).toFixed(1)}`).join("");
  find("curves").replaceChildren(
    ...[0, 0.5, 1].map((part) => draw("line", { class: "grid", x1: 0, x2: 600, y1: y(part * top), y2: y(part * top) })),
    draw("path", { class: "curve-seen", d: line(simple) }),
    ...page.panels.map((panel, number) => draw("path", { class: `curve-${number}`, d: line(panel.scores) })),
  );
  for (const part of [0, 0.5, 1]) find(`tick-${2 * part}`).textContent = Number((part * top).toPrecision(2));
  const mean = (scores) => {
    const last = scores.slice(-20).filter((score) => !Number.isNaN(score));
    return last.length ? (last.reduce((a, b) => a + b, 0) / last.length).toFixed(2) : "–";
  };
  find("legend").replaceChildren(...[...page.panels.map((panel, number) => [`curve-${number}`, panel.model.label, panel.scores]),
    ["curve-seen", world.words.simple, simple]].map(([style, name, scores]) => {
    const item = document.createElement("span");
    item.append(draw("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" }), `${name}, mean of 20 steps: ${mean(scores)}`);
    draw("path", { class: style, d: "M0 5H30" }, item.firstChild);
    return item;
  }));
}

async function advance() {
  if (busy) return;
  if (page.now + 1 >= episode().steps) {
    find("episode").value = (page.episode + 1) % world.episodes.length;
    return restart();
  }
  page.now += 1;
  for (const panel of page.panels) panel.before = panel.result.state;
  world.advance();
  await run();
}

async function restart() {
  page.now = 0; simple = [];
  for (const panel of page.panels) Object.assign(panel, { before: panel.model.initialState(), scores: [], milliseconds: [] });
  world.begin();
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

function toggle(panel, module) {
  const { present, label } = panel.model;
  present[module] = !present[module];
  if (!present.some(Boolean)) present[module] = true;
  say(`Module ${module + 1} of ${label} is ${present[module] ? "on" : "off"}.`);
  run();
}

function press(panel, pixel) {
  if (page.click === "place" && world.press) { world.press(pixel); return; }
  const module = panel.moduleAt(pixel);
  if (module !== null) toggle(panel, module);
}

function grab(panel, number, event) {
  event.preventDefault();
  panel.marks[number].focus();
  const start = panel.place(event), from = world.where(panel, number);
  const drag = (to) => {
    const at = panel.place(to), by = [at[1] - start[1], at[0] - start[0]];
    if (Math.hypot(...by) * panel.overlay.getBoundingClientRect().width < 4 * world.columns && !panel.dragged) return;
    panel.dragged = true;
    if (world.move(number, from, by)) run();
  };
  const ends = ["pointerup", "pointercancel"];
  const release = (end) => {
    removeEventListener("pointermove", drag);
    for (const name of ends) removeEventListener(name, release);
    if (!panel.dragged && end.type === "pointerup" && world.tap) { world.tap(number); run(); }
    setTimeout(() => { panel.dragged = false; });  // after the click that ends a drag
  };
  addEventListener("pointermove", drag);
  for (const end of ends) addEventListener(end, release);
}

function add() { world.add(); run(); }

function drop(number) {
  if (!world.number) return;
  world.drop(number);
  say(`${world.number} ${world.words.one}s are left.`);
  run();
}

function markKey(number, event) {
  const by = event.shiftKey ? 5 : 1, moves = { ArrowUp: [-by, 0], ArrowDown: [by, 0], ArrowLeft: [0, -by], ArrowRight: [0, by] };
  if (event.key in moves) { if (world.move(number, null, moves[event.key])) run(); }
  else if (event.key === "Delete" || event.key === "Backspace") drop(number);
  else if ((event.key === "Enter" || event.key === " ") && world.tap) { world.tap(number); run(); }
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
    if (page.panels[0].model.present.length > module) toggle(page.panels[0], module);
  }
}

/** Show the first model, and the chosen one beside it, from the start of the episode. */
async function choosePanels() {
  const abouts = [scene.models[0], ...(find("other").value ? [scene.models[find("other").value]] : [])];
  find("loading").hidden = false;
  const models = await Promise.all(abouts.map((about) => (about.model ??= Model.load(about))));
  find("loading").hidden = true;
  page.panels = models.map((model) => new Panel(model, world, { toggle, press, grab, key: markKey }));
  find("panels").replaceChildren(...page.panels.map((panel) => panel.element));
  for (const panel of page.panels) panel.element.classList.toggle("alone", page.panels.length === 1);
  await restart();
}

const json = async (name) => JSON.parse(new TextDecoder().decode(await fetched(`./${name}`)));

/** Open a world: its words and controls, its episodes and its models. */
async function chooseScene() {
  if (playing) play();
  const { file, kind } = scenes[find("world").value], [path, name] = KINDS[kind];
  const kinds = await import(path);
  scene = await json(file);
  for (const about of scene.models) about.enclaves = about.enclaves.map((packed) => Float32Array.from(bytes(packed), (byte) => byte / 255));
  document.querySelector("input[name=sees][value=world]").checked = true;
  document.querySelector("input[name=show][value=belief]").checked = true;
  find("share").value = 100; find("share-now").textContent = "100 %";
  for (const part of document.querySelectorAll("[data-for]"))
    part.hidden = !part.dataset.for.split(" ").some((each) => each === kind || (scene.closedLoop && each === "closed"));
  world = new kinds[name](scene, page);
  find("scene").textContent = scene.title;
  for (const part of document.querySelectorAll("[data-word]")) part.textContent = world.words[part.dataset.word];
  find("episode").replaceChildren(...world.episodes.map(({ label }, number) => new Option(label, number)));
  find("other").replaceChildren(new Option("no other model", ""), ...scene.models.slice(1).map(({ label }, number) => new Option(label, number + 1)));
  find("beside").hidden = scene.models.length < 2;
  await choosePanels();
}

async function start() {
  if (typeof WebAssembly !== "object" || typeof DecompressionStream !== "function")
    throw new Error("This browser cannot run the model: it lacks WebAssembly or DecompressionStream. Take a newer one.");
  startRuntime().catch(() => {});  // its error comes with that of the first model
  scenes = await json("scenes.json");
  find("world").replaceChildren(...scenes.map(({ title }, number) => new Option(title, number)));
  find("worlds").hidden = scenes.length < 2;
  await chooseScene();
  find("main").hidden = false;

  const on = (id, event, action) => find(id).addEventListener(event, action);
  const tried = (action) => (event) => action(event)?.catch?.(fail);
  on("play", "click", tried(play)); on("step", "click", tried(advance)); on("restart", "click", tried(restart));
  on("world", "change", tried(chooseScene)); on("episode", "change", tried(restart)); on("other", "change", tried(choosePanels));
  on("add", "click", add); on("drop", "click", () => drop());
  on("speed", "input", () => { find("speed-now").textContent = find("speed").value; });
  on("share", "input", () => { find("share-now").textContent = `${find("share").value} %`; run(); });
  for (const id of ["truth", "enclaves"]) on(id, "change", show);
  for (const input of document.querySelectorAll("input[name=show]")) input.addEventListener("change", show);
  for (const input of document.querySelectorAll("input[name=sees]")) input.addEventListener("change", run);
  for (const id of ["value", "lead"]) on(id, "input", () => { world.chosen?.(); run(); });
  on("controls", "submit", (event) => event.preventDefault());
  document.addEventListener("keydown", pageKey);
}

function fail(error) {
  playing = false;
  find("loading").hidden = true;
  find("problem").hidden = false;
  find("problem").textContent = error.message;
}

start().catch(fail);
