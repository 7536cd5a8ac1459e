// Frames of pixels: crops of them, whole frames of crops, outlines and scores. A size is [channels, rows, columns].

export const count = ([channels, rows, columns]) => channels * rows * columns;

/** The bytes of a text in base64. */
export const bytes = (packed) => Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));

/** The numbers of a text in base64, little-endian. */
export const floats = (packed) => new Float32Array(bytes(packed).buffer);

/** Bits packed most significant first, each row of `size` of them from a new byte on, as a Uint8Array of 0 and 1 each. */
export function unpacked(packed, size, rows) {
  const content = bytes(packed), width = content.length / rows;
  return Array.from({ length: rows }, (_, row) =>
    Uint8Array.from({ length: size }, (_, at) => (content[row * width + (at >> 3)] >> (7 - (at & 7))) & 1));
}

/** Calls `visit(place in the frame, place in the crop)` for what of a crop around (row, column) lies in the frame. */
export function each([row, column], crop, [channels, rows, columns], visit) {
  const half = crop >> 1;
  for (let i = 0; i < crop; i++) {
    const y = row - half + i;
    if (y < 0 || y >= rows) continue;
    for (let j = 0; j < crop; j++) {
      const x = column - half + j;
      if (x >= 0 && x < columns)
        for (let c = 0; c < channels; c++) visit((c * rows + y) * columns + x, (c * crop + i) * crop + j);
    }
  }
}

/** The crops of a frame around positions, one after the other; 0 outside the frame. */
export function cut(frame, positions, crop, size) {
  const area = size[0] * crop * crop, values = new Float32Array(positions.length * area);
  positions.forEach((at, view) => each(at, crop, size, (place, own) => { values[view * area + own] = frame[place]; }));
  return values;
}

/** A whole frame of crops at positions, over another one; where two overlap, the later one counts. */
export function joined(patches, positions, crop, size, frame = new Float32Array(count(size))) {
  const area = size[0] * crop * crop;
  positions.forEach((at, view) => each(at, crop, size, (place, own) => { frame[place] = patches[view * area + own]; }));
  return frame;
}

/** Centres of the fewest crops that cover a frame; the last of a row or column may overlap the one before. */
export function cover(crop, [, rows, columns]) {
  const half = crop >> 1, line = (side) => {
    const centres = [];
    for (let at = half; at - half < side; at += crop) centres.push(Math.max(half, Math.min(at, side - crop + half)));
    return centres;
  };
  return line(rows).flatMap((row) => line(columns).map((column) => [row, column]));
}

/** An SVG path around the pixels at which `inside(pixel)` holds, along their edges. */
export function outline(inside, rows, columns) {
  const there = (row, column) => row >= 0 && column >= 0 && row < rows && column < columns && inside(row * columns + column);
  const parts = [];
  const along = (lines, length, differ, path) => {
    for (let line = 0; line <= lines; line++)
      for (let start = 0, at = 0; at <= length; at++) {
        if (at < length && differ(line, at)) continue;
        if (at > start) parts.push(path(line, start, at));
        start = at + 1;
      }
  };
  along(rows, columns, (line, at) => there(line - 1, at) !== there(line, at), (line, from, to) => `M${from} ${line}H${to}`);
  along(columns, rows, (line, at) => there(at, line - 1) !== there(at, line), (line, from, to) => `M${line} ${from}V${to}`);
  return parts.join("");
}

/** F1 of what is believed to be 1, at a threshold of 0.5; 1 where there is nothing, and nothing is believed. */
export function f1(belief, truth) {
  let hits = 0, claimed = 0, real = 0;
  for (let place = 0; place < truth.length; place++) {
    const one = belief[place] > 0.5, is = truth[place] > 0.5;
    hits += one && is ? 1 : 0; claimed += one ? 1 : 0; real += is ? 1 : 0;
  }
  return claimed + real ? (2 * hits) / (claimed + real) : 1;
}

/** Root of the mean squared difference. */
export function error(belief, truth) {
  let total = 0;
  for (let place = 0; place < truth.length; place++) total += (belief[place] - truth[place]) ** 2;
  return Math.sqrt(total / Math.max(1, truth.length));
}

/** Whole numbers below a bound from a seed (mulberry32), so that a page begins alike each time. */
export function dice(seed) {
  return (bound) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296) * bound);
  };
}
