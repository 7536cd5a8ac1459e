// A model's streaming step, run by onnxruntime-web in this page.

const here = (path) => new URL(path, import.meta.url).href;

/** The content of a file that is gzipped, unless the server has unpacked it already. */
async function fetched(path) {
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
    Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: binary, wasmPaths: { mjs: here("./runtime/ort-wasm-simd-threaded.mjs") } });
    return ort;
  })();
  return runtime;
}

export class Model {
  /** `about`: label, file, numModules, valueShape, and the tensors of the state before any view. */
  static async load(about) {
    const [ort, file] = await Promise.all([startRuntime(), fetched(`./${about.file}`)]);
    const session = await ort.InferenceSession.create(file, { graphOptimizationLevel: "all" });
    return new Model(ort, session, about);
  }

  constructor(ort, session, about) {
    Object.assign(this, { ort, session, about, label: about.label });
    this.present = Array(about.numModules).fill(true);
  }

  initialState() {
    const kinds = { float32: Float32Array, bool: Uint8Array, int64: BigInt64Array };
    return this.about.state.map(({ type, shape, values }) => {
      const content = new kinds[type](shape.reduce((a, b) => a * b, 1));
      values.forEach((value, index) => { content[index] = type === "int64" ? BigInt(value) : value; });
      return new this.ort.Tensor(type, content, shape);
    });
  }

  /** One step from a state: `views` are positions, values and whether each is seen. Returns what the outputs name. */
  async step(state, views, queries) {
    const { Tensor } = this.ort, shape = this.about.valueShape, size = shape.reduce((a, b) => a * b, 1);
    const slots = Math.max(1, views.positions.length);  // one that is not seen stands for none
    const values = new Float32Array(slots * size), positions = new Float32Array(slots * 2), mask = new Uint8Array(slots);
    values.set(views.values); positions.set(views.positions.flat()); mask.set(views.seen);
    const feeds = {
      positions: new Tensor("float32", positions, [1, slots, 2]), values: new Tensor("float32", values, [1, slots, ...shape]),
      mask: new Tensor("bool", mask, [1, slots]), queries: new Tensor("float32", Float32Array.from(queries.flat()), [1, queries.length, 2]),
    };
    if (this.present.length) feeds.modules = new Tensor("bool", Uint8Array.from(this.present, Number), [this.present.length]);
    state.forEach((part, number) => { feeds[`state_${number}`] = part; });
    const out = await this.session.run(feeds);
    return {
      mean: out.predicted_mean.data, stddev: out.predicted_stddev.data, reads: out.reads?.data, hears: out.hears?.data,
      active: out.active?.data, columns: out.reads?.dims[2], state: state.map((_, number) => out[`next_${number}`]),
    };
  }
}
