// A world of agents, each of which sees what is around it, from above: battles, railways.

import { bytes, f1, floats } from "./shapes.js";
import { draw } from "./panel.js";
import { ofViews } from "./engine.js";

export class Agents {
  constructor(scene, page) {
    Object.assign(this, { scene, page, ground: "dark", rows: scene.rows, columns: scene.columns, silent: new Set(), top: 1 });
    const layers = scene.layers.map(({ name, says }) => `${name} ${says}`).join(", ");
    this.words = {
      intro: `A model sees only what the ringed agents see around them. The picture is its belief about the next step, everywhere: ${layers}; outlines are the truth. Click an agent to silence it. Click a region to switch off the module that answers for it.`,
      marks: "Agents", one: "agent", sees: "what the agents report", group: "Agents", score: "F1", simple: "last seen",
      history: `F1 of the ${scene.scored.name} in the agents' next views, step by step`, truth: "outlines of the truth",
      add: "Let one report", drop: "Silence one", adds: "let the agent report that was silenced last", moves: "choose an agent; Enter silences it, or lets it report", drops: "silence the chosen agent, or the last",
    };
    this.shape = scene.models[0].valueShape;
    this.area = this.shape.reduce((a, b) => a * b, 1);
    this.pixels = scene.pixels;
    this.episodes = scene.episodes.map(({ label, steps, agents, positions, xy, there, views, units }) => ({
      label, steps: steps - 1, agents, units, positions: floats(positions), xy: floats(xy), there: bytes(there),
      views: scene.bytes ? Float32Array.from(bytes(views)) : floats(views),
    }));
    this.grid = scene.queries;
    this.offsets = new Int32Array(bytes(scene.offsets).buffer);
    this.members = new Int32Array(bytes(scene.members).buffer);
  }

  get at() { return this.episodes[this.page.episode]; }
  get closed() { return this.page.sees === "own" && this.page.now > 0; }
  get number() { return this.at.agents - this.silent.size; }
  pair(values, step, agent) { return [...values.subarray(2 * (step * this.at.agents + agent), 2 * (step * this.at.agents + agent) + 2)]; }
  there(step, agent) { return this.at.there[step * this.at.agents + agent] > 0; }
  view(step, agent) { const from = (step * this.at.agents + agent) * this.area; return this.at.views.subarray(from, from + this.area); }
  get everyone() { return Array.from({ length: this.at.agents }, (_, agent) => agent); }

  begin() { this.silent.clear(); this.before = new Map(); }

  /** Who reports at this step. */
  reporting() {
    const share = this.page.seen(this.at.agents);
    return this.everyone.map((agent) => this.there(this.page.now, agent) && share[agent] && !this.silent.has(agent));
  }

  look() {
    const { now, sees } = this.page, reporting = this.reporting();
    this.next = this.everyone.map((agent) => this.pair(this.at.positions, now + 1, agent));
    this.remembered = new Map(this.before);
    if (sees === "world" || (sees === "own" && now === 0))
      for (const agent of this.everyone) if (reporting[agent]) this.remembered.set(agent, this.view(now, agent));
  }

  views(panel) {
    const { now, sees } = this.page, reporting = this.reporting();
    if (this.closed) {
      const values = panel.fedBack.map((probability) => Number(probability > 0.5));
      return { positions: this.fed, values, seen: reporting.map((seen, agent) => seen && this.there(now, agent)) };
    }
    const values = this.at.views.subarray(now * this.at.agents * this.area, (now + 1) * this.at.agents * this.area);
    return { positions: this.everyone.map((agent) => this.pair(this.at.positions, now, agent)), values, seen: sees === "nothing" ? reporting.map(() => false) : reporting };
  }

  async step(panel) {
    const views = this.views(panel), out = await panel.model.step(panel.before, ofViews(views, [...this.grid, ...this.next], this.shape, panel.model.about.room));
    const each = out.mean.length / (this.grid.length + this.next.length), split = this.grid.length * each;
    panel.asked = out.mean.slice(split);
    return {
      state: out.state, views, belief: this.layered(out.mean, each), spread: this.layered(out.stddev, each),
      activity: { ...out, seen: this.everyone.map((agent) => this.pair(this.at.xy, this.page.now, agent)) },
    };
  }

  /** Each layer over the cells: the mean of the pixels of predicted views in which a cell lies. */
  layered(values, each) {
    const channel = (query, number, pixel) => values[query * each + number * this.pixels + pixel];
    return this.scene.layers.map(({ sum, at_most: most, minus, scale }) => {
      const layer = new Float32Array(this.rows * this.columns);
      for (let cell = 0; cell < layer.length; cell++) {
        let total = 0;
        for (let index = this.offsets[cell]; index < this.offsets[cell + 1]; index++) {
          const query = Math.floor(this.members[index] / this.pixels), pixel = this.members[index] % this.pixels;
          let value = 0;
          for (const number of sum) value += channel(query, number, pixel);
          if (most !== null) value = Math.min(value, channel(query, most, pixel));
          if (minus !== null) value = Math.max(0, value - channel(query, minus, pixel));
          total += value * scale;
        }
        layer[cell] = total / Math.max(1, this.offsets[cell + 1] - this.offsets[cell]);
      }
      return layer;
    });
  }

  advance() {
    this.fed = this.next;
    this.before = this.remembered;
    for (const panel of this.page.panels) panel.fedBack = [...panel.asked];
  }

  /** F1 of the scored channels in the views of the agents of the next step. */
  score(viewOf) {
    const { channels } = this.scene.scored, believed = [], truth = [];
    for (const agent of this.everyone) {
      if (!this.there(this.page.now + 1, agent)) continue;
      const mine = viewOf(agent), real = this.view(this.page.now + 1, agent);
      for (const channel of channels)
        for (let pixel = 0; pixel < this.pixels; pixel++) { believed.push(mine ? mine[channel * this.pixels + pixel] : 0); truth.push(real[channel * this.pixels + pixel]); }
    }
    return truth.length ? f1(believed, truth) : NaN;
  }

  simple() { return this.score((agent) => this.remembered.get(agent)); }

  paint(panel, settings) {
    const layers = panel.result[settings.show === "spread" ? "spread" : "belief"], pixels = panel.image.data;
    for (let cell = 0; cell < this.rows * this.columns; cell++) {
      const colour = [0, 0, 0];
      layers.forEach((layer, number) => this.scene.layers[number].colour.forEach((part, index) => { colour[index] += part * Math.min(1, layer[cell]); }));
      pixels.set([...colour, 255], 4 * cell);
    }
    if (settings.truth)
      for (const [x, y, layer] of this.at.units[this.page.now + 1])
        draw("circle", { class: "unit", cx: x, cy: y, r: 0.5, style: `stroke: rgb(${this.scene.layers[layer].colour})` }, panel.layers.truth);
    const each = panel.asked.length / this.at.agents;
    return this.score((agent) => panel.asked.subarray(agent * each, (agent + 1) * each));
  }

  marks(panel) {
    const { seen } = panel.result.views, { now } = this.page;
    return this.everyone.map((agent) => {
      const [x, y] = this.pair(this.at.xy, now, agent);
      return {
        at: [x, y], radius: this.columns / 40, seen: seen[agent], there: this.there(now, agent),
        says: `Agent ${agent + 1}${seen[agent] ? "" : ", silent"}: column ${Math.floor(x)}, row ${Math.floor(y)}. Enter silences it or lets it report.`,
      };
    });
  }

  reads(panel, [row, column]) {
    const cell = row * this.columns + column, numbers = this.scene.layers.map(({ name }, number) =>
      `${name} ${panel.result.belief[number][cell].toFixed(3)} ± ${panel.result.spread[number][cell].toFixed(3)}`);
    return `Row ${row}, column ${column}: ${numbers.join(", ")}`;
  }

  move() { this.page.say("Agents move by themselves; Enter silences one."); return false; }
  where() { return [0, 0]; }
  tap(agent) {
    if (!this.silent.delete(agent)) this.silent.add(agent);
    this.page.say(`Agent ${agent + 1} ${this.silent.has(agent) ? "is silent" : "reports"}.`);
  }
  add() { const last = [...this.silent].pop(); if (last !== undefined) this.tap(last); }
  drop(agent = this.everyone.filter((each) => !this.silent.has(each)).pop()) { if (agent !== undefined && !this.silent.has(agent)) this.tap(agent); }
}
