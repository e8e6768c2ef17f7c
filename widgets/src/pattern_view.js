import {h, s} from './lib/dom.js';
import {number} from './lib/numbers.js';
import {plain, strip, word} from './lib/tokens.js';
import {define, offline} from './lib/widget.js';

const THUMB = 76, TOP = 6, MOST = 60, LISTED = 8;

// All weights of a layer as numbers, packed as they came.
function decoded(view, kind) {
  const n = kind === 'float16' ? view.byteLength / 2 : view.byteLength, made = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    if (kind === 'uint8') made[i] = (view.getUint8(i) / 255) ** 2;
    else {
      const bits = view.getUint16(2 * i, true), power = (bits >> 10) & 31, rest = bits & 1023;
      made[i] = power ? 2 ** (power - 15) * (1 + rest / 1024) : rest * 2 ** -24;
    }
  }
  return made;
}

export default define('wb-pattern-view', w => {
  const tokens = w.get('tokens'), size = tokens.length, live = !offline(w);
  let weights, shape, cursor = null, first = true; // first: whether the first key is shown
  const at = (head, q, k) => (shape.causal ? (k > q ? 0 : weights[head * (size * (size + 1)) / 2 + q * (q + 1) / 2 + k]) : weights[(head * size + q) * size + k]);
  const end = q => (shape.causal ? q + 1 : size);
  const from = () => (first ? 0 : 1);
  const row = (head, q) => Array.from({length: size}, (_, k) => (k < end(q) && k >= from() ? at(head, q, k) : null));
  const peak = head => {
    let top = 0;
    for (let q = 0; q < size; q++) for (let k = from(); k < end(q); k++) top = Math.max(top, at(head, q, k));
    return top || 1;
  };
  const headName = i => (w.get('labels')[i] ? `${i} ${plain(w.get('labels')[i])}` : String(i));

  // ---- colours: the square root of a weight's share of the largest, from pale to deep
  let ramp = null;
  function readRamp() {
    const style = getComputedStyle(w.root), stops = ['--pv-low', '--pv-mid', '--pv-high'].map(v => {
      const hex = style.getPropertyValue(v).trim();
      return [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
    });
    ramp = Uint8ClampedArray.from({length: 256 * 3}, (_, i) => {
      const x = Math.floor(i / 3) / 255 * 2, c = i % 3, a = stops[Math.min(1, Math.floor(x))][c], b = stops[Math.min(1, Math.floor(x)) + 1][c];
      return a + (b - a) * (x - Math.min(1, Math.floor(x)));
    });
  }
  function picture(head) {
    const canvas = document.createElement('canvas'), top = peak(head);
    canvas.width = canvas.height = size;
    const brush = canvas.getContext('2d'), image = brush.createImageData(size, size);
    for (let q = 0; q < size; q++) for (let k = from(); k < end(q); k++) {
      const c = 3 * Math.round(255 * Math.sqrt(Math.min(1, at(head, q, k) / top))), p = 4 * (q * size + k);
      for (let j = 0; j < 3; j++) image.data[p + j] = ramp[c + j];
      image.data[p + 3] = 255;
    }
    brush.putImageData(image, 0, 0);
    return canvas;
  }
  function paint(canvas, side, head) {
    const dense = Math.max(1, window.devicePixelRatio || 1);
    canvas.width = canvas.height = Math.round(side * dense);
    canvas.style.width = canvas.style.height = `${side}px`;
    const brush = canvas.getContext('2d');
    brush.imageSmoothingEnabled = size > side * dense;
    brush.drawImage(picture(head), 0, 0, canvas.width, canvas.height);
  }

  // ---- all heads
  const head = h('div', {class: 'wb-row wb-pv-head'}), note = h('div', {class: 'wb-pv-note', role: 'note'});
  const thumbs = h('div', {class: 'wb-pv-thumbs', role: 'radiogroup', 'aria-label': 'heads'});
  function drawThumbs() {
    const had = thumbs.contains(document.activeElement);
    thumbs.replaceChildren(...Array.from({length: shape.heads}, (_, i) => {
      const canvas = h('canvas', {'aria-hidden': 'true'});
      paint(canvas, THUMB, i);
      return h('button', {class: 'wb-pv-thumb', role: 'radio', 'data-i': i, title: `head ${headName(i)}`, 'aria-label': `head ${headName(i)}`, onclick: () => w.set({head: i})},
        canvas, h('span', null, h('bdi', null, headName(i))));
    }));
    markThumb();
    if (had) thumbs.querySelector('[aria-checked="true"]')?.focus();
  }
  function markThumb() {
    const on = Math.min(w.get('head'), shape.heads - 1);
    for (const b of thumbs.children) {
      const is = Number(b.dataset.i) === on;
      b.setAttribute('aria-checked', String(is));
      b.tabIndex = is ? 0 : -1;
    }
  }
  thumbs.addEventListener('keydown', e => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[e.key];
    if (!step) return;
    e.preventDefault();
    const next = (w.get('head') + step + shape.heads) % shape.heads;
    w.set({head: next});
    thumbs.querySelector(`[data-i="${next}"]`).focus();
  });

  // ---- one head
  const big = h('section', {class: 'wb-pv-big', 'aria-label': 'one head'}), said = h('div', {class: 'wb-pv-said', 'aria-live': 'polite'});
  const canvas = h('canvas', {class: 'wb-pv-canvas', 'aria-hidden': 'true'}), over = s('svg', {class: 'wb-pv-over', tabindex: 0, role: 'application'});
  const name = h('h3'), plot = h('div', {class: 'wb-pv-plot'}, canvas, over);
  const marks = {query: s('rect', {class: 'wb-pv-query'}), cell: s('rect', {class: 'wb-pv-cell'})};
  let side = 0, cell = 0, LEFT = 0;
  const short = i => { const t = plain(tokens[i]).trim() || plain(tokens[i]); return [...t].length > 11 ? [...t].slice(0, 10).join('') + '…' : t; };
  function drawBig() {
    const on = Math.min(w.get('head'), shape.heads - 1);
    const longest = tokens.reduce((n, _, i) => Math.max(n, [...short(i)].length), 1) + (size > MOST ? 4 : 0);
    LEFT = Math.max(30, 14 + longest * 6.9);
    side = Math.max(180, Math.min(600, big.clientWidth - LEFT - 8, size * 34));
    cell = side / size;
    name.replaceChildren(...(shape.layer >= 0 && w.get('layer') >= 0 ? [`Layer ${shape.layer}, head `] : ['Head ']), h('bdi', null, headName(on)));
    paint(canvas, side, on);
    canvas.style.left = `${LEFT}px`;
    canvas.style.top = `${TOP}px`;
    const step = size <= MOST ? Math.max(1, Math.ceil(9 / cell)) : Math.ceil(13 / cell), type = Math.max(7.5, Math.min(11.5, cell * step * 0.86));
    const labels = [];
    for (let i = 0; i < size; i += step) {
      const y = TOP + (i + 0.5) * cell, x = LEFT + (i + 0.5) * cell;
      const text = step > 1 && size > MOST ? `${i} ${short(i)}` : short(i);
      labels.push(s('text', {x: LEFT - 5, y: y + type * 0.34, 'text-anchor': 'end', 'data-q': i, style: {'font-size': `${type}px`}}, text));
      labels.push(s('text', {x: 0, y: 0, 'text-anchor': 'end', transform: `translate(${x + type * 0.34},${TOP + side + 5}) rotate(-90)`, 'data-k': i, style: {'font-size': `${type}px`}}, text));
    }
    over.setAttribute('width', LEFT + side + 4);
    over.setAttribute('height', TOP + side + LEFT);
    over.setAttribute('aria-label', `attention of head ${headName(on)}: arrow keys move, Enter picks the query`);
    plot.style.height = `${TOP + side + LEFT}px`;
    over.replaceChildren(
      s('path', {class: 'wb-pv-frame', d: shape.causal && size > 1 ? stairs() : `M${LEFT},${TOP}h${side}v${side}h${-side}Z`}), ...labels, marks.query, marks.cell,
      s('text', {class: 'wb-pv-axis', x: LEFT + side, y: TOP + 11, 'text-anchor': 'end'}, shape.causal ? 'rows: queries, columns: keys' : ''));
    mark();
  }
  function stairs() {
    let d = `M${LEFT},${TOP}`;
    for (let i = 0; i < size; i++) d += `h${cell}v${cell}`;
    return d + `H${LEFT}Z`;
  }
  function mark() {
    const q = w.get('picked'), on = Math.min(w.get('head'), shape.heads - 1);
    const place = (node, shown, x, y, wide) => {
      node.style.display = shown ? '' : 'none';
      for (const [k, v] of Object.entries({x, y, width: wide, height: cell})) node.setAttribute(k, v);
    };
    place(marks.query, q >= 0 && q < size, LEFT, TOP + q * cell, q >= 0 ? cell * end(q) : 0);
    place(marks.cell, !!cursor, cursor ? LEFT + cursor[1] * cell : 0, cursor ? TOP + cursor[0] * cell : 0, cell);
    for (const t of over.querySelectorAll('text[data-q], text[data-k]')) {
      const is = t.dataset.q != null ? Number(t.dataset.q) === (cursor ? cursor[0] : q) : !!cursor && Number(t.dataset.k) === cursor[1];
      t.classList.toggle('wb-pv-here', is);
    }
    if (cursor) {
      const [a, b] = cursor;
      said.replaceChildren(h('b', null, b < end(a) ? number(at(on, a, b)) : 'masked'), h('span', null, 'query ', h('b', null, '“', word(tokens[a]), '”'), ` ${a}`), h('span', null, 'key ', h('b', null, '“', word(tokens[b]), '”'), ` ${b}`));
    } else said.replaceChildren(h('span', {class: 'wb-soft'}, 'Point at a cell for its weight, click it to pick the query.'));
  }
  const place = e => {
    const box = over.getBoundingClientRect(), k = Math.floor((e.clientX - box.left - LEFT) / cell), q = Math.floor((e.clientY - box.top - TOP) / cell);
    return q >= 0 && q < size && k < size ? (k >= 0 && k < end(q) ? [q, k] : k < 0 ? [q, null] : null) : null;
  };
  over.addEventListener('pointermove', e => { const p = place(e); cursor = p && p[1] != null ? p : null; mark(); });
  over.addEventListener('pointerleave', () => { cursor = null; mark(); });
  over.addEventListener('click', e => { const p = place(e); if (p) w.set({picked: p[0]}); });
  over.addEventListener('keydown', e => {
    const [q, k] = cursor ?? [Math.max(0, w.get('picked')), 0], move = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[e.key];
    if (move) {
      const a = Math.max(0, Math.min(size - 1, q + move[0]));
      cursor = [a, Math.max(0, Math.min(end(a) - 1, k + move[1]))];
    } else if (e.key === 'Enter' || e.key === ' ') w.set({picked: q});
    else if (e.key === 'Escape') cursor = null;
    else return;
    e.preventDefault();
    mark();
  });
  over.addEventListener('blur', () => { cursor = null; mark(); });

  // ---- one query over the text
  const query = h('section', {class: 'wb-pv-text', 'aria-label': 'one query'});
  function drawQuery() {
    const q = w.get('picked'), on = Math.min(w.get('head'), shape.heads - 1), had = query.contains(document.activeElement);
    if (q < 0 || q >= size) {
      query.replaceChildren(h('h3', null, 'No query is picked'), h('p', {class: 'wb-soft'}, 'Click a token to see what it attends to.'),
        strip(tokens, tokens.map(() => null), {label: 'text', onpick: i => w.set({picked: i})}));
    } else {
      const values = row(on, q), best = values.map((v, k) => [v, k]).filter(([v]) => v != null).sort((a, b) => b[0] - a[0]).slice(0, LISTED), top = best[0]?.[0] || 1;
      query.replaceChildren(
        h('h3', null, 'What ', h('span', {class: 'wb-pv-word'}, '“', word(tokens[q]), '”'), ' attends to'), h('small', null, `query ${q}, head ${headName(on)}`),
        strip(tokens, values, {label: `keys of query ${q}`, picked: q, peak: top, onpick: i => w.set({picked: i})}),
        h('div', {class: 'wb-pv-best', role: 'table', 'aria-label': `largest weights of query ${q}`}, best.map(([v, k]) => h('div', {role: 'row', class: 'wb-pv-row'},
          h('span', {role: 'cell', class: 'wb-soft'}, k), h('span', {role: 'cell', class: 'wb-pv-word'}, word(tokens[k])),
          h('span', {role: 'presentation', class: 'wb-pv-bar'}, h('i', {style: {width: `${100 * v / top}%`}})), h('b', {role: 'cell'}, number(v))))));
    }
    if (had) query.querySelector('.wb-picked')?.focus();
  }

  // ---- all of it
  const hide = h('input', {type: 'checkbox', onchange: e => { first = !e.target.checked; all(); }});
  function drawHead() {
    const layers = w.get('layers'), title = w.get('title');
    const had = head.contains(document.activeElement) && document.activeElement !== hide;
    const choose = layers ? h('select', {disabled: !live, title: live ? 'layer' : 'another layer needs a kernel', onchange: e => w.set({layer: Number(e.target.value)})},
      Array.from({length: layers}, (_, i) => h('option', {value: i, selected: i === w.get('layer')}, i))) : null;
    head.replaceChildren(h('h3', null, 'Attention'), ...(title ? [h('span', {class: 'wb-soft'}, h('bdi', null, plain(title)))] : []), h('span', {class: 'wb-soft'}, `${shape.heads} ${shape.heads === 1 ? 'head' : 'heads'}, ${size} tokens`),
      h('span', {class: 'wb-pv-gap'}), ...(choose ? [h('label', null, 'layer', choose)] : []), h('label', {title: 'the first key draws most of the weight in many heads'}, h('span', null, hide, 'without the first key')),
      h('span', {class: 'wb-pv-scale', title: 'colour goes with the square root of the weight over the head’s largest'}, '0', h('i'), 'largest'));
    if (had) choose?.focus();
    note.hidden = !shape.note;
    note.textContent = shape.note ? `${shape.note}.` : '';
  }
  function all() {
    weights = decoded(w.get('weights'), w.get('shape').kind);
    shape = w.get('shape');
    cursor = null;
    readRamp();
    drawHead();
    drawThumbs();
    drawBig();
    drawQuery();
  }
  big.append(h('div', {class: 'wb-pv-title'}, name, said), plot);
  w.root.classList.add('wb-pv');
  w.root.append(head, note, h('div', {class: 'wb-pv-main'}, thumbs, big, query));
  all();
  w.on('weights shape labels', all);
  w.on('layer', drawHead);
  w.on('head', () => { markThumb(); drawBig(); drawQuery(); });
  w.on('picked', () => { mark(); drawQuery(); });
  w.listen(w.root.closest('.wb') ?? w.root, 'wb-theme', all);
  let wide = big.clientWidth;
  const watch = new ResizeObserver(() => { if (big.clientWidth !== wide) { wide = big.clientWidth; drawBig(); } });
  watch.observe(big);
  w.later(() => watch.disconnect());
});
