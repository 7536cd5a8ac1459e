// Sensors on a map: what a forecaster believes everywhere, and its forecast at any place.

import { bytes, floats } from "./shapes.js";
import { draw } from "./panel.js";

// A scale of colours that rises in lightness and that colour-blind people can read (after viridis).
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const BAND = 1.6449;  // standard deviations from the mean to the ends of the middle 90 %

function colour(share) {
  const at = Math.max(0, Math.min(1, share)) * (SCALE.length - 1), low = Math.min(SCALE.length - 2, Math.floor(at));
  return SCALE[low].map((part, index) => Math.round(part + (at - low) * (SCALE[low + 1][index] - part)));
}

export class Sensors {
  constructor(scene, page) {
    Object.assign(this, { scene, page, ground: "map", rows: scene.rows, columns: scene.columns, silent: new Set(), moved: new Map(), top: null });
    this.words = {
      intro: "A forecaster sees only what the ringed stations report. The picture is its forecast, everywhere. Click any place to see the forecast there, click a station to silence it, drag one to another place.",
      marks: "Stations", one: "station", sees: "what the stations report", group: "Stations", score: "Error", simple: "last value of the station, or of the nearest station that reported",
      history: "Mean absolute error of the next values at the stations, silent ones too", truth: "next observations in the rings", add: "Let one report", drop: "Silence one",
      adds: "let the station report that was silenced last", moves: "choose a station and move it; Enter silences it", drops: "silence the chosen station, or the last",
    };
    const { find } = page;
    find("value").replaceChildren(...scene.values.map((name, number) => new Option(name, number)));
    Object.assign(find("lead"), { max: scene.horizon, value: 1 });
    this.episodes = scene.episodes.map(({ label, start, steps, positions, values }) => ({ label, start, steps: steps - 1, positions: floats(positions), values: floats(values) }));
    this.count = scene.sensors.length;
    this.cells = new Float64Array(bytes(scene.cells).buffer);
    this.covariates = floats(scene.covariates);
    this.places = new Float64Array(2);
    this.picked = [Math.floor(this.rows / 2), Math.floor(this.columns / 2)];
    this.chosen();
  }

  chosen() { this.page.find("lead-now").textContent = `${this.lead} × ${this.scene.step}`; }
  get at() { return this.episodes[this.page.episode]; }
  get value() { return Number(this.page.find("value").value); }
  get lead() { return Number(this.page.find("lead").value); }
  get number() { return this.count - this.silent.size; }
  get everyone() { return Array.from({ length: this.count }, (_, sensor) => sensor); }
  clock() { return `, ${new Date(1000 * (this.at.start + this.page.now * this.scene.seconds)).toISOString().slice(0, 16).replace("T", " ")} UTC`; }

  observed(step, sensor, value) { return this.at.values[(step * this.count + sensor) * this.scene.values.length + value]; }
  reports(step, sensor) { return this.scene.values.some((_, value) => !Number.isNaN(this.observed(step, sensor, value))); }

  /** Where a sensor is, in the user's units: where it was put, or was last. */
  where_is(step, sensor) {
    if (this.moved.has(sensor)) return this.moved.get(sensor);
    const from = 2 * (step * this.count + sensor);
    return [this.at.positions[from], this.at.positions[from + 1]];
  }

  /** Picture and user's units: the second coordinate grows upward. */
  toPicture([a, b]) {
    const { low, high } = this.scene;
    return [((a - low[0]) / (high[0] - low[0])) * this.columns, (1 - (b - low[1]) / (high[1] - low[1])) * this.rows];
  }
  fromPicture([x, y]) {
    const { low, high } = this.scene;
    return [low[0] + (x / this.columns) * (high[0] - low[0]), high[1] - (y / this.rows) * (high[1] - low[1])];
  }

  begin() { this.silent.clear(); this.moved.clear(); this.before = new Map(); }

  reporting() {
    const share = this.page.seen(this.count), blind = this.page.sees === "nothing";
    return this.everyone.map((sensor) => !blind && share[sensor] && !this.silent.has(sensor) && this.reports(this.page.now, sensor));
  }

  look() {
    this.remembered = new Map(this.before);
    this.reporting().forEach((seen, sensor) => {
      if (!seen) return;
      const old = this.remembered.get(sensor) ?? [];
      this.remembered.set(sensor, this.scene.values.map((_, value) => {
        const now = this.observed(this.page.now, sensor, value);
        return Number.isNaN(now) ? old[value] ?? NaN : now;
      }));
    });
  }

  /** The inputs of a step, asked at places [positions, sensors there] and lead times. */
  inputs(seen, places, sensors, leads, described) {
    const { now } = this.page, features = this.scene.covariates_size;
    const positions = Float64Array.from(this.everyone.flatMap((sensor) => this.where_is(now, sensor)));
    const size = this.scene.values.length, values = this.at.values.slice(now * this.count * size, (now + 1) * this.count * size);
    return {
      positions: ["float64", positions, [1, this.count, 2]], values: ["float32", values, [1, this.count, size]],
      mask: ["bool", Uint8Array.from(seen, Number), [1, this.count]], covariates: ["float32", this.covariates, [1, this.count, features]],
      queries: ["float64", places, [1, sensors.length, 2]], query_covariates: ["float32", described, [1, sensors.length, features]],
      query_sensors: ["int64", BigInt64Array.from(sensors, BigInt), [1, sensors.length]],
      leads: ["int64", BigInt64Array.from(leads, BigInt), [leads.length]],
      time: ["int64", BigInt64Array.from([BigInt(this.at.start + now * this.scene.seconds)]), []],
    };
  }

  async step(panel) {
    const seen = this.reporting(), { now } = this.page, features = this.scene.covariates_size;
    const unknown = (number) => new Float32Array(number * features).fill(NaN), cells = this.rows * this.columns;
    const whole = await panel.model.step(panel.before, this.inputs(seen, this.cells, Array(cells).fill(-1), [this.lead], unknown(cells)));
    const [row, column] = this.picked, own = this.pickedSensor ?? -1;
    const place = own >= 0 ? this.where_is(now, own) : this.fromPicture([column + 0.5, row + 0.5]);
    const described = new Float32Array((this.count + 1) * features).fill(NaN);
    described.set(this.covariates);
    if (own >= 0) described.set(this.covariates.subarray(own * features, (own + 1) * features), this.count * features);
    const stations = Float64Array.from([...this.everyone.flatMap((sensor) => this.where_is(now, sensor)), ...place]);
    const leads = Array.from({ length: this.scene.horizon }, (_, index) => index + 1);
    const some = await panel.model.step(panel.before, this.inputs(seen, stations, [...this.everyone, own], leads, described));
    return {
      state: whole.state, views: { seen }, mean: whole.mean, stddev: whole.stddev, at: some.mean, spread: some.stddev, place,
      activity: { ...whole, seen: this.everyone.map((sensor) => this.toPicture(this.where_is(now, sensor))) },
    };
  }

  advance() { this.before = this.remembered; }

  /** The difference of two values; of directions the shorter way round. */
  off(one, other, value) {
    const off = one - other;
    return this.scene.circular[value] ? ((((off + 180) % 360) + 360) % 360) - 180 : off;
  }

  /** Mean absolute error at the next step, of the shown value. */
  error(valueOf) {
    let total = 0, number = 0;
    for (const sensor of this.everyone) {
      const truth = this.observed(this.page.now + 1, sensor, this.value), guess = valueOf(sensor);
      if (Number.isNaN(truth) || guess === undefined || Number.isNaN(guess) || this.moved.has(sensor)) continue;
      total += Math.abs(this.off(guess, truth, this.value)); number += 1;
    }
    return number ? total / number : NaN;
  }

  /** The last value of each station; of one that was never heard, that of the nearest one that was. */
  simple() {
    const { now } = this.page, last = (sensor) => this.remembered.get(sensor)?.[this.value] ?? NaN;
    const heard = this.everyone.filter((sensor) => !Number.isNaN(last(sensor)));
    const places = this.everyone.map((sensor) => this.toPicture(this.where_is(now, sensor)));
    const away = (one, other) => Math.hypot(places[one][0] - places[other][0], places[one][1] - places[other][1]);
    return this.error((sensor) => {
      if (!heard.length || !Number.isNaN(last(sensor))) return last(sensor);
      return last(heard.reduce((best, other) => (away(sensor, other) < away(sensor, best) ? other : best)));
    });
  }

  paint(panel, settings) {
    const { mean, stddev, at } = panel.result, size = this.scene.values.length, { value } = this, pixels = panel.image.data;
    const [low, high] = settings.show === "spread" ? [0, this.scene.spreads[value]] : this.scene.ranges[value];
    for (let cell = 0; cell < this.rows * this.columns; cell++) {
      const number = (settings.show === "spread" ? stddev : mean)[cell * size + value];
      pixels.set([...colour((number - low) / (high - low)), 255], 4 * cell);
    }
    this.range = [low, high];
    if (panel === this.page.panels[0]) this.plot();
    const [x, y] = this.toPicture(panel.result.place);
    draw("path", { class: "picked", d: `M${x - 1.2} ${y}h2.4M${x} ${y - 1.2}v2.4` }, panel.layers.truth);
    return this.error((sensor) => at[sensor * size + value]);
  }

  /** Forecast and band at the picked place, and what was observed there, where it is a station's. */
  plot() {
    const { find, panels, now } = this.page, { value } = this, size = this.scene.values.length, { horizon } = this.scene;
    const own = this.pickedSensor ?? -1, past = Math.min(now, 24), per = this.count + 1;
    const of = (panel, part, lead) => panel.result[part][(lead * per + this.count) * size + value];
    const shown = panels.filter((panel) => panel.result?.at);
    const lines = shown.map((panel) => Array.from({ length: horizon }, (_, lead) => [lead + 1, of(panel, "at", lead), BAND * of(panel, "spread", lead)]));
    const seen = own < 0 ? [] : Array.from({ length: past + 1 + horizon }, (_, index) => index - past)
      .filter((step) => now + step < this.at.steps + 1).map((step) => [step, this.observed(now + step, own, value)]).filter(([, number]) => !Number.isNaN(number));
    const [low, high] = this.scene.ranges[value];
    const x = (step) => 40 + ((step + past) / (past + horizon)) * 550, y = (number) => 165 - (150 * (Math.max(low, Math.min(high, number)) - low)) / (high - low);
    const svg = find("forecast");
    svg.replaceChildren();
    for (const part of [0, 0.5, 1]) {
      const number = low + part * (high - low);
      draw("line", { class: "grid", x1: 40, x2: 590, y1: y(number), y2: y(number) }, svg);
      draw("text", { class: "tick", x: 36, y: y(number), "text-anchor": "end" }, svg).textContent = Number(number.toPrecision(3));
    }
    draw("line", { class: "grid now", x1: x(0), x2: x(0), y1: 10, y2: 170 }, svg);
    draw("text", { class: "tick", x: x(0), y: 182, "text-anchor": "middle" }, svg).textContent = "now";
    draw("text", { class: "tick", x: 590, y: 182, "text-anchor": "end" }, svg).textContent = `+ ${horizon} × ${this.scene.step}`;
    lines.forEach((line, number) => {
      const up = line.map(([step, mean, band]) => `${x(step)} ${y(mean + band)}`), down = line.map(([step, mean, band]) => `${x(step)} ${y(mean - band)}`).reverse();
      draw("path", { class: `band-${number}`, d: `M${up.join("L")}L${down.join("L")}Z` }, svg);
      draw("path", { class: `curve-${number}`, d: `M${line.map(([step, mean]) => `${x(step)} ${y(mean)}`).join("L")}` }, svg);
    });
    for (const [step, number] of seen) draw("circle", { class: step > 0 ? "later" : "seen", cx: x(step), cy: y(number), r: 2.6 }, svg);
    const name = own < 0 ? `(${shown[0].result.place.map((part) => part.toFixed(2)).join(", ")})` : this.scene.sensors[own];
    find("series-title").textContent = `Forecast of ${this.scene.values[value]} at ${name}`;
    const [, mean, band] = lines[0][this.lead - 1];
    const words = `${panels[0].model.label}, ${this.lead} × ${this.scene.step} ahead: ${mean.toFixed(3)}, with 90 % from ${(mean - band).toFixed(3)} to ${(mean + band).toFixed(3)}.`;
    find("forecast-words").textContent = own < 0 ? words : `${words} Dots: observed; rings: observed later.`;
    svg.setAttribute("aria-label", `${find("series-title").textContent}. ${words}`);
  }

  marks(panel) {
    const { seen } = panel.result.views, { now } = this.page, [low, high] = this.scene.ranges[this.value];
    return this.everyone.map((sensor) => {
      const [x, y] = this.toPicture(this.where_is(now, sensor)), next = this.observed(now + 1, sensor, this.value);
      const fill = Number.isNaN(next) || !this.page.find("truth").checked || this.moved.has(sensor) ? "transparent" : `rgb(${colour((next - low) / (high - low))})`;
      return {
        at: [x, y], radius: this.columns / 45, seen: seen[sensor], fill,
        says: `${this.scene.sensors[sensor]}${seen[sensor] ? "" : ", silent"}. Enter silences it or lets it report, arrow keys move it.`,
      };
    });
  }

  reads(panel, [row, column]) {
    const cell = row * this.columns + column, size = this.scene.values.length, place = this.fromPicture([column + 0.5, row + 0.5]);
    const { mean, stddev } = panel.result, index = cell * size + this.value;
    return `${this.scene.position[0]} ${place[0].toFixed(2)}, ${this.scene.position[1]} ${place[1].toFixed(2)}: ${this.scene.values[this.value]} ${mean[index].toFixed(3)} ± ${stddev[index].toFixed(3)}; colours from ${this.range[0].toPrecision(3)} to ${this.range[1].toPrecision(3)}`;
  }

  press(pixel) { this.picked = pixel; this.pickedSensor = null; this.page.run(); }
  where(panel, sensor) { return this.toPicture(this.where_is(this.page.now, sensor)).reverse(); }

  move(sensor, from, [down, right]) {
    const [y, x] = from ?? this.where(null, sensor), within = (at, side) => Math.max(0, Math.min(side, at));
    this.moved.set(sensor, this.fromPicture([within(x + right, this.columns), within(y + down, this.rows)]));
    this.page.say(`${this.scene.sensors[sensor]} was moved.`);
    return true;
  }

  tap(sensor) {
    this.pickedSensor = sensor;
    if (!this.silent.delete(sensor)) this.silent.add(sensor);
    this.page.say(`${this.scene.sensors[sensor]} ${this.silent.has(sensor) ? "is silent" : "reports"}.`);
  }
  add() { const last = [...this.silent].pop(); if (last !== undefined) this.tap(last); }
  drop(sensor = this.everyone.filter((each) => !this.silent.has(each)).pop()) { if (sensor !== undefined && !this.silent.has(sensor)) this.tap(sensor); }
}
