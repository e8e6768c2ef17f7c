// Where nodes stand: a column for each position, a row for each layer, crowded cells in lines; and how edges run.
const GAP = 11, PAD = 9, NARROW = 24, FEW = 48;
export const LEFT = 46, TOP = 12, RIGHT = 16;

export const level = (kind, layer) => (kind === 'logit' ? Infinity : kind === 'token' || layer < 0 ? -1 : layer);

// nodes: columns of the pool; shown(i); columns: {pos, word}; room: pixels. Positions are [x, y] of what is shown.
export function layout(nodes, columns, shown, room) {
  const n = nodes.id.length, levels = nodes.kind.map((kind, i) => level(kind, nodes.layer[i]));
  const finite = levels.filter(l => l >= 0 && l < Infinity), last = finite.reduce((a, b) => Math.max(a, b), -1);
  const layers = last < FEW ? Array.from({length: last + 1}, (_, i) => i) : [...new Set(finite)].sort((a, b) => a - b);
  const order = [...(levels.includes(Infinity) ? [Infinity] : []), ...layers.reverse(), ...(levels.includes(-1) ? [-1] : [])];
  const cells = new Map(), most = new Map();
  for (let i = 0; i < n; i++) {
    if (!shown(i)) continue;
    const key = nodes.pos[i] + ' ' + levels[i];
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(i);
    most.set(nodes.pos[i], Math.max(most.get(nodes.pos[i]) ?? 0, cells.get(key).length));
  }
  const all = [...(nodes.pos.includes(-1) ? [-1] : []), ...columns.pos];
  const used = all.length > FEW ? all.filter(p => most.has(p)) : all;
  const width = (p, k) => Math.max(NARROW, Math.min(most.get(p) ?? 0, k) * GAP + PAD);
  const free = Math.max(room - LEFT - RIGHT, 120);
  let k = 16;
  while (k > 2 && used.reduce((sum, p) => sum + width(p, k), 0) > free) k--;
  const total = used.reduce((sum, p) => sum + width(p, k), 0), extra = Math.max(0, free - total) / Math.max(used.length, 1);
  const words = new Map(columns.pos.map((p, i) => [p, columns.word[i]]));
  let x = LEFT, before = null;
  const places = new Map(), made = used.map(p => {
    const w = width(p, k) + extra, skipped = before != null && before >= 0 && p > before + 1;
    const c = {pos: p, x, width: w, mid: x + w / 2, word: words.get(p), skipped};
    places.set(p, c);
    x += w;
    before = p;
    return c;
  });
  const longest = made.reduce((m, c) => Math.max(m, c.pos < 0 ? 9 : [...(c.word ?? '')].length), 0);
  const low = Math.max(9, Math.min(44, 540 / order.length));
  let y = TOP;
  const rows = order.map(l => {
    let lines = 1;
    for (const p of used) lines = Math.max(lines, Math.ceil((cells.get(p + ' ' + l)?.length ?? 0) / k));
    const row = {level: l, y, height: Math.max(l === Infinity || l === -1 ? 24 : 0, low, lines > 1 ? lines * GAP + 5 : 0)};
    row.mid = y + row.height / 2;
    y += row.height;
    return row;
  });
  const xs = new Float32Array(n).fill(NaN), ys = new Float32Array(n).fill(NaN);
  for (const row of rows) for (const c of made) {
    const here = cells.get(c.pos + ' ' + row.level) ?? [], lines = Math.ceil(here.length / k);
    here.forEach((i, at) => {
      const line = Math.floor(at / k), across = Math.min(k, here.length - line * k), step = Math.min(GAP, (c.width - 4) / across);
      xs[i] = c.mid + (at % k - (across - 1) / 2) * step;
      ys[i] = row.mid + (line - (lines - 1) / 2) * GAP;
    });
  }
  return {x: xs, y: ys, rows, columns: made, width: Math.max(x + RIGHT, room), end: y, height: y + 26 + 4.6 * Math.min(15, longest)};
}

// Edges in a few paths: by sign and by how large a share of the target's row they are.
const STEPS = [[0.4, 4.4, 0.75], [0.2, 3.2, 0.65], [0.1, 2.2, 0.55], [0.05, 1.5, 0.48], [0.02, 1, 0.4], [0, 0.7, 0.32]];
export function paths(edges, chosen, at) {
  const found = new Map();
  for (const e of chosen) {
    const a = edges.source[e], b = edges.target[e], x1 = at.x[a], y1 = at.y[a], x2 = at.x[b], y2 = at.y[b];
    if (Number.isNaN(x1 + y1 + x2 + y2)) continue;
    const step = STEPS.findIndex(s => edges.share[e] >= s[0]), key = (edges.weight[e] < 0 ? 'less' : 'more') + ' ' + (step < 0 ? STEPS.length - 1 : step);
    const bend = (y1 - y2) * 0.5;
    found.set(key, (found.get(key) ?? '') + `M${x1.toFixed(1)} ${y1.toFixed(1)}C${x1.toFixed(1)} ${(y1 - bend).toFixed(1)} ${x2.toFixed(1)} ${(y2 + bend).toFixed(1)} ${x2.toFixed(1)} ${y2.toFixed(1)}`);
  }
  return [...found].sort((p, q) => q[0].slice(5) - p[0].slice(5)).map(([key, d]) => {
    const [sign, step] = key.split(' '), [, width, opacity] = STEPS[step];
    return {sign, width, opacity, d};
  });
}

// The outline of a node of a kind about its middle.
export function shape(kind, x, y, r) {
  const f = v => v.toFixed(1), d = r * 1.25;
  if (kind === 'error') return `M${f(x)} ${f(y - d)}L${f(x + d)} ${f(y)}L${f(x)} ${f(y + d)}L${f(x - d)} ${f(y)}Z`;
  if (kind === 'token' || kind === 'logit') return `M${f(x - r)} ${f(y - r)}h${f(2 * r)}v${f(2 * r)}h${f(-2 * r)}Z`;
  if (kind === 'bias') {
    const t = r / 2.6;
    return `M${f(x - t)} ${f(y - d)}h${f(2 * t)}V${f(y - t)}H${f(x + d)}v${f(2 * t)}H${f(x + t)}V${f(y + d)}h${f(-2 * t)}V${f(y + t)}H${f(x - d)}v${f(-2 * t)}H${f(x - t)}Z`;
  }
  return `M${f(x - r)} ${f(y)}a${f(r)} ${f(r)} 0 1 1 ${f(2 * r)} 0a${f(r)} ${f(r)} 0 1 1 ${f(-2 * r)} 0Z`;
}
