// A world of frames that is seen in square crops: balls, videos.

import { bytes, count, cover, cut, dice, error, f1, joined, outline, unpacked } from "./shapes.js";
import { draw } from "./panel.js";
import { ofViews } from "./engine.js";

const MOST = 30;

export class Crops {
  constructor(scene, page) {
    Object.assign(this, { scene, page, ground: "dark", size: scene.size, crop: scene.crop });
    [, this.rows, this.columns] = scene.size;
    this.words = {
      intro: "A model sees only the blue squares. The picture is its belief about the next step, everywhere; the orange outline is the truth. Drag a square. Click a region to switch off the module that answers for it.",
      marks: "Squares that the model sees", one: "square", sees: "the world in the squares", group: "Squares",
      score: scene.binary ? "F1" : "Error", simple: "last seen",
      history: scene.binary ? "F1 of the belief against the truth, step by step" : "Root mean squared error of the belief, step by step",
    };
    Object.assign(this.words, {
      truth: "outline of the truth", add: "Add", drop: "Drop", adds: "add a square", moves: "choose a square and move it, with Shift by five",
      drops: "drop the chosen square, or the last",
    });
    this.top = scene.binary ? 1 : null;
    this.episodes = scene.episodes.map(({ label, steps, packed }) => {
      const area = count(scene.size), whole = scene.binary ? null : bytes(packed);
      const frames = scene.binary ? unpacked(packed, area, steps)
        : Array.from({ length: steps }, (_, step) => Float32Array.from(whole.subarray(step * area, (step + 1) * area), (byte) => byte / 255));
      return { label, steps: steps - 1, frames };
    });
    this.grid = cover(scene.crop, scene.size);
    this.roll = dice(1);
    this.squares = Array.from({ length: scene.numViews }, () => this.anywhere());
    this.fed = [];
  }

  get frames() { return this.episodes[this.page.episode].frames; }
  get truth() { return this.frames[this.page.now + 1]; }
  get closed() { return this.page.sees === "own" && this.page.now > 0; }
  get number() { return this.squares.length; }
  get channels() { return [...Array(this.size[0]).keys()]; }
  anywhere() { return [this.roll(this.rows), this.roll(this.columns)]; }

  begin() {
    this.roll = dice(1);
    if (this.page.jump) this.squares = this.squares.map(() => this.anywhere());
    this.before = new Float32Array(count(this.size));
  }

  /** The squares that follow, at which models are asked for what a closed loop feeds back, and what needs no model. */
  look() {
    const { page } = this, seen = page.seen(this.squares.length);
    this.next = this.squares.map((at) => (page.jump ? this.anywhere() : [...at]));
    this.remembered = this.before.slice();
    if (page.sees === "world" || (page.sees === "own" && page.now === 0)) {
      const there = this.squares.filter((_, number) => seen[number]);
      joined(cut(this.frames[page.now], there, this.crop, this.size), there, this.crop, this.size, this.remembered);
    }
  }

  /** What one model sees at this step. */
  views(panel) {
    const seen = this.page.seen(this.squares.length);
    if (!this.closed) {
      const values = cut(this.frames[this.page.now], this.squares, this.crop, this.size);
      return { positions: this.squares, values, seen: this.page.sees === "nothing" ? seen.map(() => false) : seen };
    }
    const values = this.scene.binary ? panel.fedBack.map((probability) => Number(probability > 0.5)) : panel.fedBack;
    return { positions: this.fed, values, seen: this.fed.map((_, number) => Boolean(seen[number])) };
  }

  /** The middle of the square at a position; of an even side it is a corner of its pixel. */
  middle([row, column]) { return [column + (this.crop % 2) / 2, row + (this.crop % 2) / 2]; }

  async step(panel) {
    const views = this.views(panel), queries = [...this.grid, ...this.next], { crop, size } = this;
    const out = await panel.model.step(panel.before, ofViews(views, queries, panel.model.about.valueShape, panel.model.about.room));
    const area = size[0] * crop * crop, whole = (values) => joined(values.subarray(0, this.grid.length * area), this.grid, crop, size);
    panel.asked = out.mean.slice(this.grid.length * area);
    return {
      state: out.state, belief: whole(out.mean), spread: whole(out.stddev), views,
      activity: { ...out, seen: views.positions.map((at) => this.middle(at)) },
    };
  }

  advance() {
    this.fed = this.next;
    this.before = this.remembered;
    for (const panel of this.page.panels) panel.fedBack = [...panel.asked];
    if (this.page.jump) this.squares = this.squares.map((at, number) => this.fed[number] ?? at);
  }

  simple() { return this.score(this.remembered); }
  score(belief) { return this.scene.binary ? f1(belief, this.truth) : error(belief, this.truth); }

  paint(panel, settings) {
    const { belief, spread } = panel.result, { truth } = this, pixels = panel.image.data, area = this.rows * this.columns;
    for (let pixel = 0; pixel < area; pixel++) {
      const of = (values, channel) => values[(channel % this.size[0]) * area + pixel];
      let colour;
      if (settings.show === "errors") {
        // Of the channel that is off most. Believed and not there: blue; there and not believed: orange.
        const offs = this.channels.map((channel) => of(belief, channel) - of(truth, channel));
        const off = offs.reduce((most, one) => (Math.abs(one) > Math.abs(most) ? one : most));
        const right = Math.max(...this.channels.map((channel) => of(belief, channel) * of(truth, channel)));
        colour = off > 0 ? [86 * off, 180 * off, 233 * off] : [-230 * off, -159 * off, 0];
        colour = colour.map((part) => part + 110 * right);
      } else colour = [0, 1, 2].map((channel) => 255 * (settings.show === "spread" ? 2 * of(spread, channel) : of(belief, channel)));
      pixels.set([...colour, 255], 4 * pixel);
    }
    if (settings.truth) draw("path", { class: "truth", d: outline((pixel) => this.channels.some((channel) => truth[channel * area + pixel] > 0.5), this.rows, this.columns) }, panel.layers.truth);
    return this.score(belief);
  }

  marks(panel) {
    const { positions, seen } = panel.result.views, radius = this.crop / 2;
    return positions.map(([row, column], number) => ({
      at: this.middle([row, column]), radius, square: true, seen: seen[number],
      says: `Square ${number + 1}${seen[number] ? "" : ", not seen"}: row ${row}, column ${column}. Arrow keys move it, Delete drops it.`,
    }));
  }

  reads(panel, [row, column]) {
    const pixel = row * this.columns + column, { belief, spread } = panel.result;
    const said = this.channels.map((channel) => {
      const at = channel * this.rows * this.columns + pixel;
      return `belief ${belief[at].toFixed(4)} ± ${spread[at].toFixed(4)}, truth ${Number(this.truth[at].toFixed(4))}`;
    });
    return `Row ${row}, column ${column}: ${said.join("; ")}`;
  }

  /** Move a square by rows and columns from where it was; whether it is there. */
  move(number, from, [down, right]) {
    if (!this.squares[number]) return false;
    this.page.stay();  // else it would not stay where it is put
    const within = (at, side) => Math.max(0, Math.min(side - 1, Math.round(at)));
    const start = from ?? this.squares[number];
    this.squares[number] = [within(start[0] + down, this.rows), within(start[1] + right, this.columns)];
    return true;
  }

  where(panel, number) { return [...(panel.result.views.positions[number] ?? this.squares[number])]; }
  add() { if (this.squares.length < MOST) this.squares.push(this.anywhere()); }
  drop(number = this.squares.length - 1) { this.squares.splice(number, 1); }
}
