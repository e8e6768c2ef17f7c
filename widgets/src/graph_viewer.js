import {card} from './lib/card.js';
import {h, s} from './lib/dom.js';
import {LEFT, layout, paths, shape} from './lib/graph_layout.js';
import {drawScores, drawSub, drawTrials} from './lib/graph_sub.js';
import {count, number, signed} from './lib/numbers.js';
import {plain} from './lib/tokens.js';
import {define, NO_KERNEL, offline} from './lib/widget.js';

const KINDS = [['latent', 'latent'], ['error', 'error'], ['token', 'token'], ['logit', 'target'], ['bias', 'constant'], ['unexplored', 'not explored']];
const STRONGEST = 300, NEAR = 18, LISTED = 8, FOUND = 12;
const KEEP = ['fill', 'stroke', 'stroke-width', 'stroke-dasharray', 'opacity', 'fill-opacity', 'font-family', 'font-size', 'font-weight', 'direction', 'unicode-bidi'];
const bytes = (view, Type) => (view?.byteLength ? new Type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength)) : new Type(0));
const only = all => all.flat(Infinity).filter(c => c != null && c !== false);
const many = (n, what) => `${count(n)} ${what}${n === 1 ? '' : 's'}`;
const cut = (text, most) => { const all = [...text]; return all.length > most ? all.slice(0, most - 1).join('') + '…' : text; };

export default define('wb-graph-viewer', w => {
  let nodes, edges, columns, place, size, at, marks, focus = null, drawn = 0;
  let ticked = new Set(), more = {inputs: false, outputs: false}, asked = 0, groupsBefore = 0, first = true;
  const cardView = {};
  const inputs = new Map(), outputs = new Map(), dots = new Map();
  const live = !offline(w);
  const ask = (what, values = {}) => w.set({query: {do: what, n: ++asked + Date.now() % 1e9, ...values}});
  const kernel = {disabled: !live, title: live ? null : NO_KERNEL};

  // ---- the frame, made once
  const title = h('h3'), about = h('span', {class: 'wb-soft'}), said = h('div', {class: 'wb-soft', role: 'status'});
  const slider = (i, name, said) => {
    const out = h('output', {class: 'gv-out'}), input = h('input', {
      type: 'range', min: 0.01, max: 1, step: 0.01, 'aria-label': `${said}, share of the influence`,
      oninput: () => { w.model.set('shares', w.get('shares').map((v, j) => (j === i ? Number(input.value) : v))); clearTimeout(slider.wait); slider.wait = setTimeout(() => w.model.save_changes(), 120); },
    });
    return {input, out, label: h('label', {title: said}, name, input, out)};
  };
  const sliders = [slider(0, 'Nodes', 'nodes that together have this share of the influence'), slider(1, 'Edges', 'edges that together carry this share of it')];
  const search = h('input', {type: 'search', placeholder: 'Find a label, token or id', 'aria-label': 'find a node by label, token or id', class: 'gv-search', autocomplete: 'off'});
  const found = h('div', {class: 'gv-found', role: 'listbox', 'aria-label': 'nodes found', hidden: true});
  const save = h('button', {...kernel, title: live ? 'write the pruned graph with pins, supernodes and labels, as Neuronpedia reads it' : NO_KERNEL, onclick: () => ask('save')}, 'Save JSON');
  const image = h('button', {onclick: () => download(picture()), title: 'the graph as it is drawn'}, 'Export SVG');
  const legend = h('div', {class: 'gv-legend', 'aria-label': 'legend'}, KINDS.map(([kind, name]) => h('span', {'data-kind': kind},
    s('svg', {width: 14, height: 14, 'aria-hidden': 'true'}, s('path', {class: `gv-node gv-${kind}`, d: shape(kind, 7, 7, 4.2)})), name)),
  [['more', 'adds'], ['less', 'takes away']].map(([sign, name]) => h('span', null,
    s('svg', {width: 22, height: 14, 'aria-hidden': 'true'}, s('path', {class: `gv-edge gv-${sign}`, d: 'M1 7H21', 'stroke-width': 3, opacity: 0.8})), name)));
  const svg = s('svg', {class: 'gv-graph', role: 'group', 'aria-label': 'attribution graph: tokens from left to right, layers from the bottom up'});
  const axis = s('svg', {class: 'gv-axis-of-layers', 'aria-hidden': 'true'}), tip = h('div', {class: 'gv-tip', hidden: true}), plot = h('div', {class: 'gv-plot'}, svg), stage = h('div', {class: 'gv-stage'}, plot, axis, tip);
  const side = h('div', {class: 'gv-side'}), below = h('div', {class: 'gv-below'}), trials = h('div', {class: 'gv-trials'}), feature = h('div', {class: 'gv-card'});
  w.root.append(
    h('div', {class: 'wb-row gv-head'}, title, about, h('span', {class: 'gv-space'}), h('span', {class: 'gv-finder'}, search, found), save, image),
    h('div', {class: 'wb-row gv-control'}, sliders.map(x => x.label), h('span', {class: 'gv-space'}), legend), said,
    h('div', {class: 'gv-main'}, stage, side), below, trials, feature);
  const layers = Object.fromEntries(['grid', 'all', 'focus', 'nodes', 'names'].map(name => [name, s('g', {class: `gv-${name}`})]));
  svg.append(...Object.values(layers));

  // ---- what is there
  const label = i => w.get('labels')?.[nodes.id[i]] || nodes.label[i];
  const word = i => columns.word[columns.pos.indexOf(nodes.pos[i])] ?? '';
  const where = i => (nodes.kind[i] === 'token' || nodes.kind[i] === 'logit' ? '' : nodes.layer[i] < 0 ? '' : `layer ${nodes.layer[i]}`)
    + (nodes.pos[i] >= 0 ? `${nodes.kind[i] === 'token' || nodes.kind[i] === 'logit' ? '' : ' · '}position ${nodes.pos[i]}` : '');
  const name = i => plain(label(i));
  const group = id => (w.get('supernodes') ?? []).find(g => g.indexOf(id, 1) > 0);
  const extra = i => marks.has(nodes.id[i]) || nodes.id[i] === w.get('selected');
  let mask = null, edgeMask = null;
  const kept = i => (mask ? mask[i] > 0 : nodes.rank[i] == null || nodes.rank[i] < w.get('shares')[0]);
  const shown = i => kept(i) || extra(i);
  const edgeShown = e => shown(edges.source[e]) && shown(edges.target[e])
    && (edgeMask ? edgeMask[e] > 0 : edges.rank[e] < w.get('shares')[1]) || !(kept(edges.source[e]) && kept(edges.target[e])) && shown(edges.source[e]) && shown(edges.target[e]);

  function read() {
    const data = w.get('data');
    nodes = data.nodes;
    columns = data.columns;
    place = new Map(nodes.id.map((id, i) => [id, i]));
    edges = {source: bytes(data.edges.source, Int32Array), target: bytes(data.edges.target, Int32Array)};
    for (const key of ['weight', 'share', 'rank']) edges[key] = bytes(data.edges[key], Float32Array);
    inputs.clear();
    outputs.clear();
    for (let e = 0; e < edges.source.length; e++) for (const [map, key] of [[inputs, edges.target[e]], [outputs, edges.source[e]]]) {
      if (!map.has(key)) map.set(key, []);
      map.get(key).push(e);
    }
    const top = nodes.influence.reduce((a, v) => Math.max(a, v ?? 0), 0) || 1;
    size = nodes.influence.map((v, i) => (nodes.kind[i] === 'logit' ? 5 : nodes.kind[i] === 'token' ? 4 : 2.6 + 2.8 * Math.sqrt((v ?? 0) / top)));
    legend.querySelectorAll('[data-kind]').forEach(e => { e.hidden = !nodes.kind.includes(e.dataset.kind); });
    masks();
  }
  function masks() {
    const k = w.get('kept'), [a, b] = w.get('shares'), same = k?.shares?.[0] === a && k.shares[1] === b;
    mask = same ? bytes(k.nodes, Uint8Array) : null;
    edgeMask = same ? bytes(k.edges, Uint8Array) : null;
    if (mask && (mask.length !== nodes.id.length || edgeMask.length !== edges.source.length)) mask = edgeMask = null;
    marks = new Set([...(w.get('pinned') ?? []), ...(w.get('supernodes') ?? []).flatMap(g => g.slice(1))]);
  }

  // ---- the graph
  function draw() {
    const had = layers.nodes.contains(document.activeElement) ? document.activeElement.dataset.i : null;
    drawn = stage.clientWidth || 640;
    at = layout(nodes, columns, shown, drawn - 2);
    svg.setAttribute('width', at.width);
    svg.setAttribute('height', at.height);
    svg.setAttribute('viewBox', `0 0 ${at.width} ${at.height}`);
    const end = at.end, grid = [], every = Math.ceil(at.rows.length / 20);
    at.rows.forEach((row, r) => {
      const text = row.level === Infinity ? 'targets' : row.level === -1 ? 'tokens' : (at.rows.length - r) % every ? '' : String(row.level);
      grid.push(s('rect', {class: r % 2 ? 'gv-row' : 'gv-row gv-odd', x: LEFT - 4, y: row.y, width: at.width - LEFT - 8, height: row.height}),
        s('text', {class: 'gv-layer', x: LEFT - 9, y: row.mid + 3.5, 'text-anchor': 'end'}, text));
    });
    for (const c of at.columns) {
      grid.push(s('line', {class: c.skipped ? 'gv-line gv-skip' : 'gv-line', x1: c.x, x2: c.x, y1: at.rows[0]?.y ?? 0, y2: end}));
      const text = c.pos < 0 ? 'constants' : plain(c.word ?? '');
      grid.push(s('text', {class: 'gv-token-name', 'text-anchor': 'end', transform: `translate(${(c.mid + 3).toFixed(1)} ${end + 13}) rotate(-42)`},
        s('title', null, c.pos < 0 ? 'what is constant' : `${text} · position ${c.pos}`), cut(text, 15)));
    }
    layers.grid.replaceChildren(...grid);
    axis.setAttribute('width', LEFT - 5); // stays where it is while the graph scrolls
    axis.setAttribute('height', end);
    axis.replaceChildren(...grid.filter(e => e.classList.contains('gv-layer')).map(e => e.cloneNode(true)));
    dots.clear();
    const r = at.rows.length;
    const order = Array.from(nodes.id.keys()).filter(i => !Number.isNaN(at.x[i]));
    const start = place.get(w.get('selected')) ?? order[0];
    layers.nodes.replaceChildren(...order.map(i => {
      const dot = s('path', {
        class: `gv-node gv-${nodes.kind[i]}`, d: shape(nodes.kind[i], at.x[i], at.y[i], size[i]), 'data-i': i, tabindex: i === start ? 0 : -1,
        role: 'button', 'aria-label': `${name(i)}, ${nodes.kind[i]}${where(i) ? ', ' + where(i) : ''}`,
      });
      dots.set(i, dot);
      return dot;
    }));
    const all = [];
    for (let e = 0; e < edges.source.length && all.length < STRONGEST; e++) if (edgeShown(e)) all.push(e);
    layers.all.replaceChildren(...lines(all));
    marked();
    refocus(true);
    if (first) plot.scrollLeft = at.width; // the targets stand at the last position
    first = false;
    if (had != null) dots.get(Number(had))?.focus({preventScroll: true});
  }
  const lines = some => paths(edges, some, at).map(p => s('path', {class: `gv-edge gv-${p.sign}`, d: p.d, 'stroke-width': p.width, opacity: p.opacity}));

  // Pins, supernodes and the selected node, drawn on what is there.
  function marked() {
    const selected = w.get('selected'), names = [];
    for (const [i, dot] of dots) {
      const id = nodes.id[i], pinned = marks.has(id), here = id === selected;
      dot.classList.toggle('gv-pinned', pinned);
      dot.classList.toggle('gv-selected', here);
      dot.setAttribute('aria-pressed', String(pinned));
      if (nodes.kind[i] !== 'token' && (pinned || here) || nodes.kind[i] === 'logit' && nodes.target[i]) names.push(i);
    }
    // a name stands beside its node where none stands yet
    const taken = [];
    names.sort((a, b) => (nodes.id[b] === selected) - (nodes.id[a] === selected) || (nodes.influence[b] ?? 0) - (nodes.influence[a] ?? 0));
    layers.names.replaceChildren(...names.map(i => {
      const text = cut(group(nodes.id[i])?.[0] ? plain(group(nodes.id[i])[0]) : name(i), 26), wide = [...text].length * 6.2;
      const left = at.x[i] + 9 + wide > at.width, x1 = left ? at.x[i] - 9 - wide : at.x[i] + 9;
      if (taken.some(([x, y, v]) => Math.abs(y - at.y[i]) < 12 && x < x1 + wide && x1 < x + v)) return null;
      taken.push([x1, at.y[i], wide]);
      return s('text', {class: 'gv-name', x: left ? at.x[i] - 9 : at.x[i] + 9, y: at.y[i] + 4, 'text-anchor': left ? 'end' : 'start'}, text);
    }).filter(Boolean));
  }

  const adjacent = i => [...(inputs.get(i) ?? []), ...(outputs.get(i) ?? [])].filter(edgeShown);
  let lit = [], last = null;
  function refocus(anew) {
    const i = focus ?? place.get(w.get('selected')) ?? null;
    if (i === last && !anew) return;
    last = i;
    for (const dot of lit) dot.classList.remove('gv-near', 'gv-focused');
    lit = [];
    svg.classList.toggle('gv-lit', i != null && dots.has(i));
    if (i == null || !dots.has(i)) {
      layers.focus.replaceChildren();
      return;
    }
    const some = adjacent(i);
    layers.focus.replaceChildren(...lines(some));
    for (const e of some) for (const j of [edges.source[e], edges.target[e]]) lit.push(dots.get(j));
    lit = lit.filter(Boolean);
    for (const dot of lit) dot.classList.add('gv-near');
    dots.get(i).classList.add('gv-near', 'gv-focused');
    lit.push(dots.get(i));
  }
  function hover(i) {
    if (i === focus) return;
    focus = i;
    refocus();
    tip.hidden = i == null;
    if (i == null) return;
    const some = (inputs.get(i) ?? []).filter(edgeShown).slice(0, 3);
    tip.replaceChildren(...only([h('b', null, h('bdi', null, cut(name(i), 80))), h('small', null, [nodes.kind[i] === 'logit' ? 'target' : nodes.kind[i], where(i), nodes.value[i] == null ? 'no value' : `value ${number(nodes.value[i])}`].filter(Boolean).join(' · ')),
      some.map(e => h('div', null, h('span', {class: edges.weight[e] < 0 ? 'gv-minus' : 'gv-plus'}, signed(edges.weight[e])), ' from ', h('bdi', null, cut(name(edges.source[e]), 40))))]));
    const x = at.x[i] - plot.scrollLeft, right = x > stage.clientWidth / 2;
    tip.style.left = right ? 'auto' : `${x + 14}px`;
    tip.style.right = right ? `${stage.clientWidth - x + 14}px` : 'auto';
    tip.style.top = `${Math.max(0, at.y[i] - 12)}px`;
  }
  function nearest(e) {
    const box = svg.getBoundingClientRect(), x = e.clientX - box.left, y = e.clientY - box.top;
    let best = null, least = NEAR * NEAR;
    for (const i of dots.keys()) {
      const far = (at.x[i] - x) ** 2 + (at.y[i] - y) ** 2;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }
  plot.addEventListener('pointermove', e => hover(nearest(e)));
  plot.addEventListener('pointerleave', () => hover(null));
  plot.addEventListener('click', e => {
    const i = nearest(e);
    if (i == null) select('');
    else if (e.shiftKey || e.ctrlKey || e.metaKey) pin(nodes.id[i]);
    else select(nodes.id[i]);
  });
  layers.nodes.addEventListener('focusin', e => { const i = Number(e.target.dataset.i); if (e.target.matches(':focus-visible')) hover(i); });
  layers.nodes.addEventListener('focusout', () => hover(null));
  layers.nodes.addEventListener('keydown', e => {
    const i = Number(e.target.dataset.i), id = nodes.id[i], key = e.key.toLowerCase();
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (key === 'enter' || key === ' ') select(id);
    else if (key === 'p') pin(id);
    else if (key === 'g') gather();
    else if (key === 'escape') select('');
    else if (key.startsWith('arrow')) {
      const across = key === 'arrowright' ? 1 : key === 'arrowleft' ? -1 : 0, up = key === 'arrowdown' ? 1 : key === 'arrowup' ? -1 : 0;
      let best = null, least = Infinity;
      for (const j of dots.keys()) {
        const dx = at.x[j] - at.x[i], dy = at.y[j] - at.y[i], ahead = across * dx + up * dy;
        if (j === i || ahead < 1) continue;
        const cost = ahead + 3 * Math.abs(across ? dy : dx);
        if (cost < least) [best, least] = [j, cost];
      }
      if (best != null) {
        e.target.setAttribute('tabindex', -1);
        dots.get(best).setAttribute('tabindex', 0);
        dots.get(best).focus();
      }
    } else return;
    e.preventDefault();
  });

  // ---- what people do
  const select = id => { more = {inputs: false, outputs: false}; w.set({selected: id}); };
  function pin(id) {
    const pinned = w.get('pinned') ?? [];
    if (group(id)) return;
    if (pinned.includes(id)) ticked.delete(id);
    else ticked.add(id);
    w.set({pinned: pinned.includes(id) ? pinned.filter(p => p !== id) : [...pinned, id]});
  }
  function gather() {
    const ids = (w.get('pinned') ?? []).filter(id => ticked.has(id));
    if (!live) said.textContent = NO_KERNEL;
    else if (ids.length < 2) said.textContent = 'Pin and tick two nodes or more to group them.';
    else ask('group', {name: below.querySelector('.gv-naming')?.value ?? '', ids});
  }
  function rename(id, text) {
    if (live) ask('label', {id, text});
    else w.set({labels: {...w.get('labels'), [id]: text}});
  }

  // ---- the selected node
  function panel() {
    const i = place.get(w.get('selected'));
    if (i == null) {
      side.replaceChildren(h('div', {class: 'wb-empty gv-help'}, h('p', null, 'Click a node to see what it receives and gives.'),
        h('p', null, h('kbd', null, 'Shift'), ' or ', h('kbd', null, 'Ctrl'), ' click, or ', h('kbd', null, 'P'), ', pins it. ', h('kbd', null, 'G'), ' makes what is pinned a supernode. Arrow keys walk.')));
      return;
    }
    const id = nodes.id[i], pinned = (w.get('pinned') ?? []).includes(id), inside = group(id);
    const input = h('input', {class: 'gv-label', value: label(i), 'aria-label': 'label of the node', title: 'edit the label; empty: as it was', maxlength: 500, dir: 'auto', onchange: () => rename(id, input.value === nodes.label[i] ? '' : input.value)});
    input.addEventListener('keydown', e => { if (e.key === 'Enter') input.blur(); });
    const facts = [['', nodes.kind[i] === 'logit' ? 'target' : nodes.kind[i] === 'latent' ? `latent ${nodes.latent[i]}` : nodes.kind[i] === 'bias' ? 'constant' : nodes.kind[i]],
      ['', nodes.layer[i] >= 0 && !['token', 'logit'].includes(nodes.kind[i]) && `layer ${nodes.layer[i]}`],
      ['', nodes.pos[i] >= 0 && [`position ${nodes.pos[i]} `, h('bdi', {class: 'gv-word'}, cut(plain(word(i)), 20))]], ['value', number(nodes.value[i])], ['influence', number(nodes.influence[i])]];
    side.replaceChildren(...only([
      input,
      h('div', {class: 'gv-facts'}, facts.filter(f => f[1]).map(([key, value]) => h('span', null, key && h('small', null, key + ' '), value))),
      h('div', {class: 'wb-row'}, inside
        ? h('span', {class: 'wb-soft'}, 'in supernode ', h('bdi', null, plain(inside[0])))
        : h('button', {class: 'gv-pin', 'aria-pressed': String(pinned), onclick: () => pin(id)}, pinned ? 'Pinned' : 'Pin'),
      h('button', {onclick: () => select('')}, 'Close')),
      nodes.kind[i] === 'latent' && scaling([id], ''),
      list('inputs', i, 'Receives', inputs, edges.source), list('outputs', i, 'Gives to', outputs, edges.target)]));
  }
  function list(key, i, heading, map, ends) {
    const all = (map.get(i) ?? []).filter(edgeShown).sort((a, b) => Math.abs(edges.weight[b]) - Math.abs(edges.weight[a]));
    const few = all.length <= LISTED + 2, rows = more[key] || few ? all : all.slice(0, LISTED), top = Math.abs(edges.weight[all[0]] ?? 0) || 1;
    const held = key === 'inputs' && all.length ? all.reduce((sum, e) => sum + edges.share[e], 0) : null;
    return h('div', {class: `gv-list gv-${key}`},
      h('h4', null, `${heading} · `, h('small', null, all.length ? `${many(all.length, 'edge')}${held == null ? '' : `, ${(100 * held).toFixed(0)} % of its row`}` : key === 'inputs' && nodes.held[i] == null ? 'nothing: paths begin here' : 'nothing shown: widen the sliders')),
      h('ul', null, rows.map(e => h('li', null, h('button', {
        onclick: () => { select(nodes.id[ends[e]]); dots.get(ends[e])?.focus({preventScroll: true}); }, 'data-id': nodes.id[ends[e]], title: `${name(ends[e])}: ${(100 * edges.share[e]).toFixed(1)} % of the target’s row`,
      }, h('span', {class: `gv-bar ${edges.weight[e] < 0 ? 'gv-minus' : 'gv-plus'}`, style: {'--w': `${100 * Math.abs(edges.weight[e]) / top}%`}}),
      h('bdi', {class: `gv-of gv-${nodes.kind[ends[e]]}`}, cut(name(ends[e]), 60)), h('span', {class: 'gv-amount'}, signed(edges.weight[e])))))),
      !few && h('button', {class: 'gv-more', onclick: () => { more[key] = !more[key]; panel(); }}, more[key] ? 'fewer' : `all ${count(all.length)}`));
  }
  function scaling(ids, name) {
    const can = live, why = can ? 'multiply what it writes, run the model, and compare with what the graph says' : NO_KERNEL;
    if (!w.get('can')?.scale) return null;
    const factor = h('input', {type: 'number', step: 'any', value: '0.5', class: 'gv-factor', 'aria-label': 'factor', disabled: !can});
    const go = value => ask('scale', {ids, name, factor: value});
    return h('div', {class: 'wb-row gv-scale', title: why}, h('span', {class: 'wb-soft'}, 'Scale by'),
      [0, 2, -1].map(v => h('button', {disabled: !can, 'aria-label': `scale by ${v}`, onclick: () => go(v)}, String(v).replace('-', '−'))), factor,
      h('button', {disabled: !can, onclick: () => { if (factor.value !== '') go(Number(factor.value)); }}, 'Run'));
  }

  // ---- pinned nodes and supernodes
  function lower() {
    const pinned = w.get('pinned') ?? [], groups = w.get('supernodes') ?? [], proposed = w.get('proposed') ?? [], sub = w.get('sub') ?? {};
    const made = groups.length !== groupsBefore, typed = made ? '' : below.querySelector('.gv-naming')?.value ?? '', had = below.contains(document.activeElement) && document.activeElement.dataset.focus;
    groupsBefore = groups.length;
    ticked = new Set([...ticked].filter(id => pinned.includes(id)));
    const of = id => (place.has(id) ? name(place.get(id)) : id);
    const chips = [...groups.map(g => h('span', {class: 'gv-chip gv-super'}, h('b', null, h('bdi', null, plain(g[0]))), h('small', null, ` ${g.length - 1} nodes`),
      h('button', {...kernel, 'aria-label': `ungroup ${g[0]}`, onclick: () => ask('ungroup', {name: g[0]})}, 'ungroup'), scaling(g.slice(1), g[0]))),
    ...pinned.map(id => h('span', {class: 'gv-chip'}, h('label', {title: 'tick to group'}, h('input', {type: 'checkbox', checked: ticked.has(id), 'data-focus': 'tick ' + id, 'aria-label': `group ${of(id)}`,
      onchange: e => { if (e.target.checked) ticked.add(id); else ticked.delete(id); lower(); }}), h('bdi', null, cut(of(id), 40))),
    h('button', {class: 'gv-off', 'aria-label': `unpin ${of(id)}`, onclick: () => pin(id)}, '×')))];
    const ready = ticked.size > 1 && live;
    const show = (sub.nodes ?? []).some(n => !n.target), stale = !live && JSON.stringify(sub.of) !== JSON.stringify([pinned, groups]);
    const fit = Math.max(320, (w.root.clientWidth || 900) - 360);
    below.replaceChildren(...only([
      h('div', {class: 'wb-row gv-bar-of-pins'}, h('h4', null, 'Pinned and supernodes'), chips,
        pinned.length > 0 && h('input', {class: 'gv-naming', 'data-focus': 'naming', placeholder: 'Name of the supernode', 'aria-label': 'name of the supernode', value: typed, onkeydown: e => { if (e.key === 'Enter') gather(); }}),
        pinned.length > 0 && h('button', {'data-focus': 'group', disabled: !ready, title: live ? 'the ticked nodes become one (G)' : NO_KERNEL, onclick: gather}, `Group${ticked.size > 1 ? ' ' + ticked.size : ''}`),
        h('button', {'data-focus': 'propose', ...kernel, title: live ? 'latents that read, write or are named alike' : NO_KERNEL, onclick: () => ask('propose')}, 'Propose supernodes')),
      proposed.length > 0 && h('div', {class: 'gv-proposed'}, h('div', {class: 'wb-row'}, h('h4', null, many(proposed.length, 'proposal')), h('button', {...kernel, onclick: () => ask('take', {names: proposed.map(g => g[0])})}, 'Take all')),
        h('ul', null, proposed.slice(0, 30).map(g => h('li', null, h('button', {...kernel, 'aria-label': `take ${g[0]}`, onclick: () => ask('take', {names: [g[0]]})}, 'Take'), ' ', h('b', null, h('bdi', null, plain(g[0]))), h('span', {class: 'wb-soft'}, ' ', cut(g.slice(1).map(of).join(', '), 160)))))),
      h('div', {class: 'gv-two'},
        h('div', {class: 'gv-subgraph'}, show && stale && h('div', {class: 'wb-soft'}, 'As it was when the page was written: Python sums the edges.'), show ? h('div', {class: 'wb-scroll'}, drawSub(sub, n => n.name ?? (w.get('labels')?.[n.ids[0]] || n.label), select, fit))
          : h('div', {class: 'wb-empty'}, stale ? `Python sums the edges between pinned nodes. ${NO_KERNEL}` : 'Pin nodes to see them alone, with the edges between them summed by supernode.')),
        h('div', {class: 'gv-scored'}, drawScores(w.get('data').scores, show ? sub.scores : null)))]));
    if (had) below.querySelector(`[data-focus="${CSS.escape(had)}"]`)?.focus();
  }
  function shownTrials() {
    const all = w.get('trials') ?? [];
    trials.replaceChildren(...(all.length ? [h('h4', null, 'Interventions ', h('small', null, 'change of the targets: ○ predicted by the graph, ● observed with attention held, ▲ observed with attention free')), h('div', {class: 'gv-several'}, drawTrials(all))] : []));
  }
  function shownCard() {
    const given = w.get('card') ?? {}, i = place.get(given.of);
    feature.replaceChildren(...(given.card && i != null ? [card(given.card, {view: cardView, label: w.get('labels')?.[given.of] || given.card.label || '', onlabel: text => rename(given.of, text)})]
      : given.none ? [h('div', {class: 'wb-soft'}, `No card: ${given.none}.`)] : []));
  }

  // ---- search
  let hits = [];
  function look() {
    const text = search.value.trim().toLowerCase();
    hits = text ? Array.from(nodes.id.keys()).filter(i => [name(i), nodes.id[i], plain(word(i))].some(t => t.toLowerCase().includes(text)))
      .sort((a, b) => (nodes.influence[b] ?? 0) - (nodes.influence[a] ?? 0)) : [];
    found.hidden = !text;
    found.replaceChildren(...hits.slice(0, FOUND).map(i => h('button', {role: 'option', onclick: () => { search.value = ''; look(); select(nodes.id[i]); }},
      h('bdi', null, cut(name(i), 50)), h('small', null, ` ${nodes.kind[i]} ${where(i)}`))),
    h('small', null, hits.length > FOUND ? `${count(hits.length)} found, those of most influence are listed` : hits.length ? '' : `none of the ${count(nodes.id.length)} nodes in this view`));
  }
  search.addEventListener('input', look);
  search.addEventListener('keydown', e => {
    if (e.key === 'Enter' && hits.length) found.querySelector('button').click();
    else if (e.key === 'Escape') { search.value = ''; look(); }
    else if (e.key === 'ArrowDown') { found.querySelector('button')?.focus(); e.preventDefault(); }
  });
  found.addEventListener('keydown', e => {
    const next = {ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling'}[e.key];
    if (next) { (e.target[next]?.tagName === 'BUTTON' ? e.target[next] : search).focus(); e.preventDefault(); }
    else if (e.key === 'Escape') { search.value = ''; look(); search.focus(); }
  });

  // ---- a picture of its own
  function picture() {
    const copy = svg.cloneNode(true), from = [svg, ...svg.querySelectorAll('*')], to = [copy, ...copy.querySelectorAll('*')];
    from.forEach((element, i) => {
      const style = getComputedStyle(element);
      for (const key of KEEP) { const v = style.getPropertyValue(key); if (v) to[i].style.setProperty(key, v); }
      for (const key of ['tabindex', 'role', 'aria-label', 'aria-pressed', 'data-i', 'class']) to[i].removeAttribute(key);
    });
    copy.prepend(s('rect', {width: '100%', height: '100%', fill: getComputedStyle(w.root.closest('.wb')).backgroundColor}));
    return new XMLSerializer().serializeToString(copy);
  }
  function download(text) {
    if (live) w.model.send({svg: text});
    const url = URL.createObjectURL(new Blob([text], {type: 'image/svg+xml'})), link = h('a', {href: url, download: 'graph.svg'});
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
    said.textContent = 'graph.svg was handed to the browser';
  }

  // ---- changes
  function head() {
    const data = w.get('data'), [a, b] = w.get('shares'), k = w.get('kept'), n = nodes.id.filter((_, i) => shown(i)).length;
    let m = 0;
    for (let e = 0; e < edges.source.length; e++) if (edgeShown(e)) m++;
    title.textContent = plain(w.get('title') ?? '');
    about.textContent = `${count(n)} of ${count(data.about.nodes)} nodes · ${count(m)} of ${count(data.about.edges)} edges · ${count(data.about.tokens)} tokens`;
    about.title = `${count(nodes.id.length)} nodes and ${count(edges.source.length)} edges are at hand here`;
    [a, b].forEach((v, i) => {
      if (document.activeElement !== sliders[i].input) sliders[i].input.value = v;
      sliders[i].out.textContent = `${Math.round(100 * v)} %`;
    });
    const short = mask && k.counts && k.counts[1] > m ? ` ${count(k.counts[1] - m)} weaker edges are left out here.` : '';
    said.textContent = (w.get('said') || '') + (data.about.weighted ? '' : ' No target has a weight: nothing has influence.') + short;
  }
  const everything = () => { read(); head(); draw(); panel(); lower(); shownCard(); };
  w.on('data', everything);
  w.on('shares kept', () => { masks(); head(); draw(); panel(); });
  w.on('pinned supernodes', () => { const before = marks; masks(); if ([...marks, ...before].some(id => place.has(id) && !kept(place.get(id)))) draw(); else marked(); head(); panel(); lower(); });
  w.on('selected', () => {
    const i = place.get(w.get('selected'));
    if (i != null && !dots.has(i) || [...dots.keys()].some(j => !shown(j))) draw();
    else { marked(); refocus(true); }
    head();
    panel();
    if (i != null && dots.has(i)) {
      for (const dot of dots.values()) dot.setAttribute('tabindex', -1);
      dots.get(i).setAttribute('tabindex', 0);
      const x = at.x[i];
      if (x < plot.scrollLeft + 20 || x > plot.scrollLeft + plot.clientWidth - 20) plot.scrollLeft = x - plot.clientWidth / 2;
    }
  });
  w.on('labels', () => { marked(); panel(); lower(); shownCard(); });
  w.on('sub proposed', lower);
  w.on('said title', head);
  w.on('trials', shownTrials);
  w.on('card', shownCard);
  const grown = new ResizeObserver(() => { if (Math.abs((stage.clientWidth || drawn) - drawn) > 4) { draw(); lower(); } });
  grown.observe(stage);
  w.later(() => { grown.disconnect(); clearTimeout(slider.wait); });
  everything();
  shownTrials();
});
