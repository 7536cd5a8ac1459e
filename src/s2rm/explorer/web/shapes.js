// Frames of pixels: crops of them, whole frames of crops, outlines and scores.

/** Frames packed as bits, most significant first, in base64, to one Uint8Array of 0 and 1 each. */
export function unpacked(packed, side, steps) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const size = bytes.length / steps;
  return Array.from({ length: steps }, (_, step) =>
    Uint8Array.from({ length: side * side }, (_, pixel) => (bytes[step * size + (pixel >> 3)] >> (7 - (pixel & 7))) & 1));
}

/** Calls `visit(pixel of the frame, pixel of the crop)` for what of a crop around (row, column) lies in the frame. */
export function each([row, column], crop, side, visit) {
  const half = crop >> 1;
  for (let i = 0; i < crop; i++) {
    const y = row - half + i;
    if (y < 0 || y >= side) continue;
    for (let j = 0; j < crop; j++) {
      const x = column - half + j;
      if (x >= 0 && x < side) visit(y * side + x, i * crop + j);
    }
  }
}

/** The crops of a frame around positions, one after the other; 0 outside the frame. */
export function cut(frame, positions, crop, side) {
  const values = new Float32Array(positions.length * crop * crop);
  positions.forEach((at, view) => each(at, crop, side, (pixel, own) => { values[view * crop * crop + own] = frame[pixel]; }));
  return values;
}

/** A whole frame of crops at positions; where two overlap, the later one counts. */
export function joined(patches, positions, crop, side) {
  const frame = new Float32Array(side * side);
  positions.forEach((at, view) => each(at, crop, side, (pixel, own) => { frame[pixel] = patches[view * crop * crop + own]; }));
  return frame;
}

/** Centres of the fewest crops that cover a frame; the last of a row or column may overlap the one before. */
export function cover(crop, side) {
  const half = crop >> 1, line = [];
  for (let at = half; at - half < side; at += crop) line.push(Math.max(half, Math.min(at, side - 1 - half)));
  return line.flatMap((row) => line.map((column) => [row, column]));
}

/** An SVG path around the pixels at which `inside(pixel)` holds, along their edges. */
export function outline(inside, side) {
  const there = (row, column) => row >= 0 && column >= 0 && row < side && column < side && inside(row * side + column);
  const parts = [];
  for (let line = 0; line <= side; line++) {
    for (let start = 0, at = 0; at <= side; at++) {
      const edge = at < side && there(line - 1, at) !== there(line, at);
      if (!edge) { if (at > start) parts.push(`M${start} ${line}H${at}`); start = at + 1; }
    }
    for (let start = 0, at = 0; at <= side; at++) {
      const edge = at < side && there(at, line - 1) !== there(at, line);
      if (!edge) { if (at > start) parts.push(`M${line} ${start}V${at}`); start = at + 1; }
    }
  }
  return parts.join("");
}

/** F1 of the pixels that are believed to be 1, at a threshold of 0.5. */
export function f1(belief, truth) {
  let hits = 0, claimed = 0, real = 0;
  for (let pixel = 0; pixel < truth.length; pixel++) {
    const one = belief[pixel] > 0.5;
    hits += one && truth[pixel] ? 1 : 0; claimed += one ? 1 : 0; real += truth[pixel] ? 1 : 0;
  }
  return claimed + real ? (2 * hits) / (claimed + real) : 0;
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
