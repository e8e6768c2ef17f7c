// Below the graph: what is pinned, alone, with summed edges; scores; what interventions did.
import {h, s} from './dom.js';
import {number, signed} from './numbers.js';
import {plain} from './tokens.js';

const cut = (text, most) => { const all = [...text]; return all.length > most ? all.slice(0, most - 1).join('') + '…' : text; };
const HIGH = 34, DEEP = 62, SIDE = 14;

// sub: {nodes, edges}; name(node): what to call it; onpick(id)
export function drawSub(sub, name, onpick, room) {
  const {nodes = [], edges = []} = sub;
  const level = n => (n.kind === 'logit' ? Infinity : n.kind === 'token' ? -1 : n.layer);
  const levels = [...new Set(nodes.map(level))].sort((a, b) => b - a);
  const where = n => (n.kind === 'logit' ? 'target' : n.kind === 'token' ? `token ${n.pos}` : n.ids.length > 1 ? `${n.ids.length} nodes, layer ${n.layer}` : `${n.kind === 'bias' ? 'constant' : n.kind}, layer ${n.layer}`);
  const wide = n => Math.max(where(n).length * 5.4 + 14, Math.min(190, [...cut(plain(name(n)), 26)].length * 6.9 + 20));
  const rows = levels.map(l => nodes.map((n, i) => [n, i]).filter(([n]) => level(n) === l).sort((a, b) => a[0].pos - b[0].pos));
  // a column for each position, so that edges between layers of one position bend around what stands between
  const spots = [...new Set(nodes.map(n => n.pos))].sort((p, q) => p - q), need = rows.map(row => row.reduce((sum, [n]) => sum + wide(n) + SIDE, 0));
  const width = Math.max(room, ...need), box = [];
  rows.forEach((row, r) => {
    const lean = (r % 2 ? 0.22 : -0.22) * Math.min(width / spots.length, 220) * (row.length > 1 || row[0][0].kind === 'logit' || row[0][0].kind === 'token' ? 0 : 1);
    const xs = row.map(([n]) => (spots.indexOf(n.pos) + 0.5) / spots.length * width + lean - wide(n) / 2);
    for (let k = 0; k < row.length; k++) xs[k] = Math.max(xs[k], k ? xs[k - 1] + wide(row[k - 1][0]) + SIDE : SIDE / 2);
    for (let k = row.length - 1, right = width - SIDE / 2; k >= 0; k--) right = (xs[k] = Math.min(xs[k], right - wide(row[k][0]))) - SIDE;
    row.forEach(([n, i], k) => { box[i] = {x: xs[k], y: 8 + r * DEEP, w: wide(n)}; });
  });
  const height = rows.length * DEEP - (DEEP - HIGH) + 16, top = edges.reduce((a, e) => Math.max(a, e[3] ?? 0), 0) || 1;
  const lines = edges.map(([t, f, weight, share]) => {
    const a = box[f], b = box[t], x1 = a.x + a.w / 2, x2 = b.x + b.w / 2, y1 = a.y, y2 = b.y + HIGH, bend = (y1 - y2) / 2;
    return s('path', {
      class: `gv-edge gv-${weight < 0 ? 'less' : 'more'}`, d: `M${x1} ${y1}C${x1} ${y1 - bend} ${x2} ${y2 + bend} ${x2} ${y2}`,
      'stroke-width': (0.7 + 5 * Math.sqrt((share ?? 0) / top)).toFixed(2), opacity: (0.45 + 0.45 * Math.sqrt((share ?? 0) / top)).toFixed(2),
    }, s('title', null, `${plain(name(nodes[f]))} gives ${plain(name(nodes[t]))} ${signed(weight)} (${number(100 * share)} % of what it receives)`));
  });
  const told = edges.length > 12 ? [] : edges.map(([t, f, weight]) => {
    const a = box[f], b = box[t];
    return s('text', {class: 'gv-weight', x: (a.x + a.w / 2 + b.x + b.w / 2) / 2, y: (a.y + b.y + HIGH) / 2 + 3, 'text-anchor': 'middle'}, signed(weight));
  });
  const boxes = nodes.map((n, i) => {
    const text = plain(name(n));
    const press = e => { if (e.type === 'click' || e.key === 'Enter' || e.key === ' ') { e.preventDefault(); onpick(n.ids[0]); } };
    return s('g', {class: `gv-box gv-${n.kind}${n.ids.length > 1 ? ' gv-super' : ''}`, tabindex: 0, role: 'button', 'aria-label': `${text}, ${where(n)}`, onclick: press, onkeydown: press, 'data-id': n.ids[0]},
      s('title', null, `${text}\nvalue ${number(n.value)}`),
      s('rect', {x: box[i].x, y: box[i].y, width: box[i].w, height: HIGH, rx: n.kind === 'latent' ? 9 : 3}),
      s('text', {x: box[i].x + box[i].w / 2, y: box[i].y + 14.5, 'text-anchor': 'middle'}, cut(text, 26)),
      s('text', {class: 'gv-where', x: box[i].x + box[i].w / 2, y: box[i].y + 27, 'text-anchor': 'middle'}, where(n)));
  });
  return s('svg', {class: 'gv-sub', width, height, viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': 'pinned nodes and supernodes, with summed edges'}, lines, told, boxes);
}

const SCORES = [
  ['replacement', 'The tokens’ part of what tokens and errors bring to the targets'],
  ['completeness', 'How little of every row, by its influence, is error'],
  ['explored', 'The share of the influence that ends in what was visited'],
];
const BOTH = [['', 'all', 'all nodes; what is constant or not explored counts as not explained'], ['_as_circuit_tracer', 'as c.-t.', 'as circuit-tracer: constants and what is not explored are left out']];
export function drawScores(whole = {}, part) {
  const cell = (scores, key) => h('td', {class: 'wb-num'}, !scores || !(key in scores) ? '' : scores[key] == null ? '–' : scores[key].toFixed(2));
  const sides = part ? [['whole graph', whole], ['subgraph', part]] : [['whole graph', whole]];
  return h('table', {class: 'gv-scores', 'aria-label': 'scores of the graph'},
    h('caption', null, `Scores: 0 to 1, higher is better. As c.-t.: as circuit-tracer counts, without constants and what is not explored.${part ? ' In the subgraph, latents outside it count as errors.' : ''}`),
    h('thead', null, h('tr', null, h('th'), sides.map(([name]) => h('th', {scope: 'colgroup', colspan: 2, class: 'wb-num'}, name))),
      h('tr', null, h('th'), sides.map(() => BOTH.map(([, name, title]) => h('th', {scope: 'col', class: 'wb-num', title}, name))))),
    h('tbody', null, SCORES.map(([key, title]) => h('tr', null, h('th', {scope: 'row', title}, key), sides.map(([, scores]) => BOTH.map(([tail]) => cell(scores, key + tail)))))));
}

// What scaling did: a line for each target, predicted (hollow) beside observed (full), all on one axis.
export function drawTrials(trials) {
  return trials.map(trial => {
    const values = trial.rows.flatMap(r => [r.predicted, r.held, r.free]).filter(v => v != null);
    const top = values.reduce((a, v) => Math.max(a, Math.abs(v)), 0) || 1, x = v => 80 + 72 * (v ?? 0) / top, n = trial.rows.length;
    const dots = r => s('svg', {class: 'gv-dots', width: 160, height: 20, viewBox: '0 0 160 20', 'aria-hidden': 'true'},
      s('line', {class: 'gv-zero', x1: 80, x2: 80, y1: 1, y2: 19}), s('line', {class: 'gv-axis', x1: 4, x2: 156, y1: 10, y2: 10}),
      r.predicted != null && s('circle', {class: 'gv-said', cx: x(r.predicted), cy: 10, r: 5}),
      r.held != null && s('circle', {class: 'gv-held', cx: x(r.held), cy: 10, r: 3.2}),
      r.free != null && s('path', {class: 'gv-free', d: `M${x(r.free)} 6l4 7h-8Z`}));
    const cell = (r, key) => h('td', {class: 'wb-num'}, signed(r[key]), h('span', {class: r.agree[key] ? 'gv-yes' : 'gv-no', title: r.agree[key] ? 'the predicted sign' : 'the other sign'}, r.agree[key] ? ' ✓' : ' ✗'));
    return h('div', {class: 'gv-trial'},
      h('h4', null, h('bdi', null, plain(trial.name)), ` × ${trial.factor}`.replace('-', '−'),
        h('span', {class: 'wb-soft'}, ` · predicted sign: ${trial.agree.held} of ${n} with attention held, ${trial.agree.free} of ${n} free`)),
      h('div', {class: 'wb-scroll'}, h('table', {'aria-label': `what scaling ${trial.name} changed`},
        h('thead', null, h('tr', null, ...[['target'], ['before', 1], ['', 0, 'change'], ['predicted change', 1], ['attention held', 1], ['attention free', 1]].map(([text, num, label]) =>
          h('th', {scope: 'col', class: num ? 'wb-num' : null, 'aria-label': label}, text)))),
        h('tbody', null, trial.rows.map(r => h('tr', null, h('td', null, h('bdi', null, plain(r.target))), h('td', {class: 'wb-num'}, number(r.before)), h('td', null, dots(r)),
          h('td', {class: 'wb-num'}, signed(r.predicted)), cell(r, 'held'), cell(r, 'free')))))));
  });
}
