// A model's streaming step, run by onnxruntime-web in this page.

import { bytes } from "./shapes.js";

const here = (path) => new URL(path, import.meta.url).href;

/** The content of a file that is gzipped, unless the server has unpacked it already. */
export async function fetched(path) {
  const response = await fetch(here(path));
  if (!response.ok) throw new Error(`The file ${path} did not load (${response.status}). Write the folder again.`);
  const content = new Uint8Array(await response.arrayBuffer());
  if (content[0] !== 0x1f || content[1] !== 0x8b) return content;
  const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

let runtime = null;

/** onnxruntime-web on one thread, which needs no headers of the server's. */
export function startRuntime() {
  runtime ??= (async () => {
    const [ort, binary] = await Promise.all([
      import("./runtime/ort.wasm.min.mjs"), fetched("./runtime/ort-wasm-simd-threaded.wasm.gz"),
    ]);
    ort.env.logLevel = "error";  // what it cannot fold into constants is no concern of a reader's
    Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: binary, wasmPaths: { mjs: here("./runtime/ort-wasm-simd-threaded.mjs") } });
    return ort;
  })();
  return runtime;
}

export class Model {
  /** `about`: label, file, numModules, valueShape, room, and the tensors of the state before any view. */
  static async load(about) {
    const [ort, file] = await Promise.all([startRuntime(), fetched(`./${about.file}`)]);
    const session = await ort.InferenceSession.create(file, { graphOptimizationLevel: "all", logSeverityLevel: 3 });
    return new Model(ort, session, about);
  }

  constructor(ort, session, about) {
    Object.assign(this, { ort, session, about, label: about.label });
    this.present = Array(about.numModules).fill(true);
  }

  initialState() {
    const kinds = { float32: Float32Array, bool: Uint8Array, int64: BigInt64Array, int32: Int32Array };
    return this.about.state.map(({ type, shape, values }) => new this.ort.Tensor(type, new kinds[type](bytes(values).buffer), shape));
  }

  /** One step from a state, and the inputs by name, each [type, content, shape]. Returns the outputs by name, and the next state. */
  async step(state, inputs) {
    const { Tensor } = this.ort, feeds = {};
    for (const [name, [type, content, shape]] of Object.entries(inputs))
      if (this.session.inputNames.includes(name)) feeds[name] = new Tensor(type, content, shape);
    if (this.present.length) feeds.modules = new Tensor("bool", Uint8Array.from(this.present, Number), [this.present.length]);
    state.forEach((part, number) => { feeds[`state_${number}`] = part; });
    const out = await this.session.run(feeds);
    return {
      mean: out.predicted_mean.data, stddev: out.predicted_stddev.data, reads: out.reads?.data, hears: out.hears?.data,
      active: out.active?.data, columns: out.reads?.dims[2], state: state.map((_, number) => out[`next_${number}`]),
    };
  }
}

/** The inputs of a step of a model of views: their positions, values and whether each is seen, and where it is asked. */
export function ofViews(views, queries, shape, least = 1) {
  const size = shape.reduce((a, b) => a * b, 1);
  const slots = Math.max(least, views.positions.length);  // those that are not seen stand for none
  const values = new Float32Array(slots * size), positions = new Float32Array(slots * 2), mask = new Uint8Array(slots);
  values.set(views.values); positions.set(views.positions.flat()); mask.set(views.seen);
  return {
    positions: ["float32", positions, [1, slots, 2]], values: ["float32", values, [1, slots, ...shape]],
    mask: ["bool", mask, [1, slots]], queries: ["float32", Float32Array.from(queries.flat()), [1, queries.length, 2]],
  };
}
