// Maps of latents: WebGL points (regl-scatterplot), and over them in SVG what belongs to single latents.
import createScatterplot, {createRenderer} from 'regl-scatterplot';
import {h, s} from './lib/dom.js';
import {count, number, share} from './lib/numbers.js';
import {table} from './lib/table.js';
import {plain, quoted} from './lib/tokens.js';
import {define, NO_KERNEL, offline} from './lib/widget.js';

const STEPS = 64, PAGE = 10, RINGS = 60, PICKED = 'cosine with the picked';
const GROUPS = ['#4269d0', '#e59500', '#e5484d', '#2aa198', '#3ca951', '#d6589f', '#8e5bd9', '#6f9bd8', '#9c6b4e', '#a2a000'];
const TRAITS = [['latent', 'selection'], ['other_latent', 'other_selection']];

// ---- data -----------------------------------------------------------------------------------------------------------

const array = (v, Type) => new Type(v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength));

function read(m) {
  const xy = array(m.xy, Float32Array), latents = m.latents.byteLength ? array(m.latents, Int32Array) : Int32Array.from({length: xy.length / 2}, (_, i) => i), near = m.neighbours;
  const map = {...m, xy, latents, n: latents.length, at: new Map(Array.from(latents, (latent, i) => [latent, i])), words: m.words ?? {}, heard: new Map()};
  map.columns = m.columns.map(column);
  map.sizes = m.sizes && array(m.sizes, Uint8Array);
  if (near) {
    const points = array(near.near, near.wide ? Uint32Array : Uint16Array), cosines = array(near.cosines, Int16Array), close = array(near.close, Uint8Array);
    const wide = Math.ceil(near.k / 8);
    map.near = i => Array.from({length: near.k}, (_, j) => ({
      i: points[i * near.k + j], cosine: cosines[i * near.k + j] / 1e4, close: !!(close[i * wide + (j >> 3)] >> (j & 7) & 1),
    }));
  }
  return map;
}

function column(c) {
  if (!c?.data) return c;
  return {...c, data: c.kind === 'group' ? array(c.data, Uint8Array) : array(c.data, Float32Array)};
}

function readPairs(p, maps) {
  if (!p.a) return null;
  const sides = [array(p.a, Int32Array), array(p.b, Int32Array)], cosines = array(p.cosines, Float32Array);
  const of = sides.map((mine, side) => {
    const found = new Map();
    mine.forEach((i, row) => { if (!found.has(i)) found.set(i, []); found.get(i).push({i: sides[1 - side][row], cosine: cosines[row]}); });
    return found;
  });
  return {of: (side, i) => of[side].get(i) ?? [], matched: p.matched, lost: p.lost, sizes: maps.map(m => m.n)};
}

const spelt = (c, v) => (c.whole ? count(v) : number(v));
const valueOf = (c, i) => {
  if (c.kind === 'group') return c.data[i] === 255 ? null : c.names[c.data[i]];
  return Number.isFinite(c.data[i]) ? c.data[i] : null;
};

// ---- colours --------------------------------------------------------------------------------------------------------

// OKLCH to #rrggbb: steps that look equal are equal
function oklch(l, c, hue) {
  const a = c * Math.cos(hue * Math.PI / 180), b = c * Math.sin(hue * Math.PI / 180);
  const [x, y, z] = [l + 0.3963 * a + 0.2158 * b, l - 0.1056 * a - 0.0639 * b, l - 0.0895 * a - 1.2915 * b].map(v => v ** 3);
  const linear = [4.0767 * x - 3.3077 * y + 0.231 * z, -1.2684 * x + 2.6098 * y - 0.3413 * z, -0.0042 * x - 0.7034 * y + 1.7076 * z];
  return '#' + linear.map(v => {
    const part = v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055;
    return Math.round(255 * Math.min(1, Math.max(0, part))).toString(16).padStart(2, '0');
  }).join('');
}
// the high end stands out most from the paper
const ramp = (t, dark) => (dark
  ? oklch(0.42 + 0.5 * t, 0.15 - 0.01 * t, 290 - 185 * t)
  : oklch(0.87 - 0.55 * t, 0.14 + 0.02 * t, 120 + 178 * t));
const grey = dark => (dark ? '#4a515d' : '#c6cbd4'), blue = dark => (dark ? '#7d9fd4' : '#5b7db1');

// How the points of all maps are coloured: palette, an index into it for each point, and what the legend says.
function colouring(columns, {log, dark}) {
  const known = columns.filter(c => c?.data);
  if (!known.length) return null;
  if (known[0].kind === 'number') {
    const given = known.filter(c => c.kind === 'number'), ends = f => given.map(f).filter(v => v != null);
    const low = log ? Math.min(...ends(c => c.least)) : Math.min(...ends(c => c.low)), high = Math.max(...ends(c => c.high));
    const flat = v => (log ? Math.log(v) : v), from = flat(low), span = flat(high) - from || 1;
    return {
      kind: 'number', low, high, log, under: given.some(c => c.under), over: given.some(c => c.over), middle: log ? Math.exp(from + span / 2) : from + span / 2,
      palette: [...Array.from({length: STEPS}, (_, i) => ramp(i / (STEPS - 1), dark)), grey(dark), blue(dark)],
      of: columns.map(c => i => {
        if (c?.kind !== 'number' || !c.data) return STEPS + 1;
        const v = c.data[i];
        return !Number.isFinite(v) || log && v <= 0 ? STEPS : Math.min(STEPS - 1, Math.max(0, Math.floor((flat(v) - from) / span * STEPS)));
      }),
      none: given.reduce((n, c) => n + c.none, 0),
    };
  }
  const groups = [], place = new Map();
  for (const c of known) c.names?.forEach((name, j) => {
    const rest = c.rest && j === c.names.length - 1;
    if (!place.has(name)) { place.set(name, groups.length); groups.push({name, rest, count: 0}); }
    groups[place.get(name)].count += c.counts[j];
  });
  const none = known.reduce((n, c) => n + (c.none ?? 0), 0), ordered = known[0].ordered, named = groups.filter(g => !g.rest).length;
  let used = 0;
  for (const g of groups) g.color = g.rest || /^(in no cluster|not )/.test(g.name) ? grey(dark) : ordered ? ramp(used++ / Math.max(1, named - 1), dark) : GROUPS[used++ % GROUPS.length];
  if (none) groups.push({name: 'no value', rest: true, count: none, color: grey(dark)});
  return {
    kind: 'group', groups, palette: [...groups.map(g => g.color), blue(dark), blue(dark)],
    of: columns.map(c => i => {
      if (c?.kind !== 'group' || !c.data) return groups.length;
      return c.data[i] === 255 ? groups.length - 1 : place.get(c.names[c.data[i]]);
    }),
  };
}

// ---- one map --------------------------------------------------------------------------------------------------------

function chart(map, side, app) {
  const canvas = h('canvas', {'aria-hidden': 'true'}), over = s('svg', {class: 'fm-over', 'aria-hidden': 'true'});
  const tip = h('div', {class: 'fm-tip', hidden: true}), said = h('div', {class: 'fm-said', 'aria-live': 'polite'}), hidden = h('div', {hidden: true});
  const tool = (label, text, onclick, attrs) => h('button', {title: label, 'aria-label': label, onclick, ...attrs}, text);
  const lasso = tool('Lasso: draw around latents (or drag with Shift held)', '⬡ Lasso', () => setLasso(!lassoing), {'aria-pressed': 'false', class: 'fm-lasso'});
  const tools = h('div', {class: 'fm-tools'}, lasso,
    tool('Zoom in (+)', '+', () => zoom(1.5)), tool('Zoom out (−)', '−', () => zoom(1 / 1.5)), tool('Show the whole map (0)', '⤢', () => { moved = false; fit(); }));
  const box = h('div', {
    class: 'fm-box', tabindex: 0, role: 'application', style: {height: map.height + 'px'},
    'aria-label': `Map ${map.title ? plain(map.title) + ' ' : ''}of ${count(map.n)} latents: arrow keys move from point to point, Enter picks, plus and minus zoom, Escape clears`,
  }, canvas, over, tip, said, hidden);
  const root = h('figure', {class: 'fm-map'}, map.title ? h('figcaption', null, h('b', null, plain(map.title)), h('small', null, ` ${count(map.n)} latents`)) : null, h('div', {class: 'fm-hold'}, box, tools));
  const points = Array.from(map.latents, (_, i) => [map.xy[2 * i], map.xy[2 * i + 1], 0, map.sizes ? map.sizes[i] / 255 : 0]);
  const span = [0, 1].map(axis => map.xy.reduce((m, v, i) => (i % 2 === axis ? Math.max(m, Math.abs(v)) : m), 0.01));
  const marks = {cursor: -1, hover: -1, hits: [], matched: []};
  let W = 0, H = 0, scatter, lassoing = false, lassoed = false, moved = false, down = null, shown = null, busy = Promise.resolve(), colours = null, gone = false, chosen = [];

  // where the view puts a point, and back
  const cam = () => scatter.get('cameraView');
  const place = i => { const v = cam(); return [((v[0] * map.xy[2 * i] + v[12]) * H / W + 1) / 2 * W, (1 - v[5] * map.xy[2 * i + 1] - v[13]) / 2 * H]; };
  const unplace = (x, y) => { const v = cam(); return [((2 * x / W - 1) * W / H - v[12]) / v[0], (1 - 2 * y / H - v[13]) / v[5]]; };
  const look = v => { scatter.view(v); };
  const pose = (f, x, y) => look(new Float32Array([f, 0, 0, 0, 0, f, 0, 0, 0, 0, 1, 0, -f * x, -f * y, 0, 1]));
  const fit = () => scatter && pose(0.94 * Math.min(W / H / span[0], 1 / span[1]), 0, 0);
  function zoom(f) { if (scatter) { const [x, y] = unplace(W / 2, H / 2); moved = true; pose(cam()[0] * f, x, y); } }
  function reveal(i, closer) {
    if (!scatter) return;
    const [x, y] = place(i), margin = 30;
    if (closer || x < margin || y < margin || x > W - margin || y > H - margin) { moved = true; pose(cam()[0], map.xy[2 * i], map.xy[2 * i + 1]); }
  }
  // a view that these points fill
  function close(list) {
    if (!scatter) return;
    const [x, y] = [0, 1].map(axis => list.map(i => map.xy[2 * i + axis])), mid = v => (Math.min(...v) + Math.max(...v)) / 2;
    const half = v => Math.max(1e-3, (Math.max(...v) - Math.min(...v)) / 2);
    moved = true;
    pose(0.85 * Math.min(W / H / half(x), 1 / half(y)), mid(x), mid(y));
  }
  const seen = i => !shown || shown[i];
  function nearest(x, y, most) {
    const [a, b] = unplace(x, y);
    let best = -1, least = (most * 2 / H / cam()[0]) ** 2;
    for (let i = 0; i < map.n; i++) {
      const d = (map.xy[2 * i] - a) ** 2 + (map.xy[2 * i + 1] - b) ** 2;
      if (d < least && seen(i)) { least = d; best = i; }
    }
    return best;
  }
  // the nearest point within 45 degrees of a direction
  function towards(from, dx, dy) {
    const x = map.xy[2 * from], y = map.xy[2 * from + 1];
    let best = -1, least = Infinity;
    for (let i = 0; i < map.n; i++) {
      const u = map.xy[2 * i] - x, v = map.xy[2 * i + 1] - y, along = u * dx + v * dy, aside = Math.abs(u * dy) + Math.abs(v * dx);
      if (along > 0 && aside <= along && i !== from && seen(i) && along + aside < least) { least = along + aside; best = i; }
    }
    return best;
  }

  function overlay() {
    if (!scatter || !W) return;
    const made = [], ring = (i, r, kind) => { const [x, y] = place(i); made.push(s('circle', {cx: x, cy: y, r, class: 'fm-ring ' + kind})); };
    const [on, i] = app.picked();
    if (on === side && i >= 0) {
      const from = place(i);
      for (const one of app.near(side, i) ?? []) {
        const to = place(one.i);
        made.push(s('line', {x1: from[0], y1: from[1], x2: to[0], y2: to[1], class: 'fm-line' + (one.close ? '' : ' fm-far'), style: {opacity: (0.5 + 0.5 * Math.max(0, one.cosine)).toFixed(2)}}));
      }
      for (const one of app.near(side, i) ?? []) ring(one.i, 5, one.close ? 'fm-near' : 'fm-near fm-far');
      ring(i, 8, 'fm-pick');
    }
    marks.hits.slice(0, RINGS).forEach(j => ring(j, 7, 'fm-hit'));
    marks.matched.slice(0, RINGS).forEach(j => ring(j, 9, 'fm-match'));
    if (marks.cursor >= 0) ring(marks.cursor, 7, 'fm-cursor');
    if (marks.hover >= 0 && marks.hover !== marks.cursor) ring(marks.hover, 7, 'fm-cursor');
    over.replaceChildren(...made);
  }

  function tell(i) {
    tip.hidden = i < 0;
    if (i < 0) return;
    tip.replaceChildren(...app.lines(side, i));
    const [x, y] = place(i), wide = tip.offsetWidth, tall = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(W - wide - 4, x + 14)) + 'px';
    tip.style.top = Math.max(4, y + 14 + tall > H ? y - 14 - tall : y + 14) + 'px';
  }
  function hover(i) {
    if (i === marks.hover) return;
    marks.hover = i;
    tell(i);
    overlay();
    app.hovered(side, i);
  }
  function cursor(i) {
    marks.cursor = i;
    if (i >= 0) { reveal(i); said.textContent = app.spoken(side, i); }
    tell(i);
    overlay();
    app.hovered(side, i);
  }
  function setLasso(on) {
    lassoing = on;
    lasso.setAttribute('aria-pressed', String(on));
    box.classList.toggle('fm-lassoing', on);
    scatter?.set({mouseMode: on ? 'lasso' : 'panZoom'});
  }

  function paint() {
    if (!scatter || !colours) return;
    for (let i = 0; i < map.n; i++) points[i][2] = colours.of[side](i);
    scatter.set({pointColor: colours.palette});
    const options = {zDataType: 'categorical', wDataType: 'continuous', spatialIndex: scatter.get('spatialIndex')};
    busy = busy.then(() => gone || scatter.draw(points, options)).then(() => {
      if (gone) return;
      isolate();
      root.dataset.drawn = Number(root.dataset.drawn ?? 0) + 1;
    });
  }
  // the engine dims what is not selected: that serves for the lasso and for a group alone
  function isolate() {
    const wanted = app.isolated();
    shown = wanted.size ? Uint8Array.from(points, p => wanted.has(p[2])) : null;
    const lit = chosen.filter(seen);
    scatter.select(lit.length || !shown ? lit : Array.from(shown.keys()).filter(seen), {preventEvent: true});
  }

  function start(renderer) {
    [gone, busy, shown] = [false, Promise.resolve(), null];
    const style = getComputedStyle(box);
    scatter = createScatterplot({
      canvas, renderer, width: W, height: H, syncEvents: true, deselectOnDblClick: false, deselectOnEscape: false,
      actionKeyMap: {lasso: 'shift', merge: 'cmd'}, lassoInitiatorParentElement: hidden, lassoLongPressIndicatorParentElement: hidden,
      colorBy: 'valueA', renderPointsAsSquares: map.n > 20000, // three times faster without a graphics card, and as small as they are
       ...(map.sizes ? {sizeBy: 'valueB'} : {}),
      pointSize: map.sizes ? Array.from({length: 12}, (_, i) => app.radius(map.n) * (0.55 + 1.5 * i / 11)) : app.radius(map.n),
      opacity: map.n > 20000 ? 0.75 : 0.88, opacityInactiveScale: 0.22, pointOutlineWidth: 0, pointSizeSelected: 1.5,
      lassoColor: style.getPropertyValue('--accent').trim(), backgroundColor: style.getPropertyValue('--paper').trim(), pointSizeMouseDetection: 6,
    });
    scatter.subscribe('pointover', i => hover(seen(i) ? i : -1));
    scatter.subscribe('pointout', () => hover(-1));
    scatter.subscribe('drawing', () => { overlay(); app.frames++; });
    scatter.subscribe('lassoEnd', ({coordinates}) => {
      if (coordinates.length < 3) return;
      lassoed = true;
      setLasso(false);
      app.lassoed(side, scatter.get('selectedPoints').filter(seen));
    });
    fit();
    paint();
  }

  box.addEventListener('mousedown', e => {
    down = [e.clientX, e.clientY];
    lassoed = false;
    // the engine looks at the pointer once a frame: without this look a press soon after a move drags the map by the move
    if (scatter?.get('camera').tick()) scatter.redraw();
  }, true);
  box.addEventListener('mousemove', e => { if (e.buttons) moved = true; });
  box.addEventListener('click', e => { // a click picks; the engine would select
    e.stopPropagation();
    const near = down && Math.hypot(e.clientX - down[0], e.clientY - down[1]) < 4;
    if (!scatter || lassoed || !near || e.shiftKey) return;
    const at = box.getBoundingClientRect();
    marks.cursor = -1;
    app.pick(side, nearest(e.clientX - at.left, e.clientY - at.top, 10));
  }, true);
  box.addEventListener('wheel', e => { // a page scrolls past a map that was not clicked
    if (document.activeElement !== box && !e.ctrlKey) e.stopPropagation();
    else moved = true;
  }, true);
  box.addEventListener('keydown', e => {
    const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[e.key], [on, i] = app.picked();
    if (!scatter || e.ctrlKey || e.metaKey || e.altKey) return;
    if (way) {
      const from = marks.cursor >= 0 ? marks.cursor : on === side ? i : -1;
      const next = from >= 0 ? towards(from, ...way) : nearest(W / 2, H / 2, W + H);
      if (next >= 0) cursor(next);
    } else if (e.key === 'Enter' && marks.cursor >= 0) app.pick(side, marks.cursor);
    else if (e.key === '+' || e.key === '=') zoom(1.5);
    else if (e.key === '-') zoom(1 / 1.5);
    else if (e.key === '0') { moved = false; fit(); } else if (e.key === 'Escape') {
      if (lassoing) setLasso(false);
      else if (marks.cursor >= 0) cursor(-1);
      else app.pick(side, -1);
    } else return;
    e.preventDefault();
  });
  box.addEventListener('blur', () => { if (marks.cursor >= 0) cursor(-1); });

  return {
    root, box, map, marks, reveal, close, overlay, cursor, start, say: text => { said.textContent = text; },
    get scatter() { return scatter; },
    size() {
      const [w, t] = [box.clientWidth, box.clientHeight], changed = w !== W || t !== H;
      [W, H] = [w, t];
      over.setAttribute('viewBox', `0 0 ${W} ${H}`);
      if (changed && scatter && W && H) {
        scatter.set({width: W, height: H});
        if (!moved) fit();
      }
      return [W, H];
    },
    colour(made, dark) {
      colours = made;
      if (scatter) {
        const style = getComputedStyle(box);
        scatter.set({backgroundColor: style.getPropertyValue('--paper').trim(), lassoColor: style.getPropertyValue('--accent').trim()});
      }
      paint();
    },
    isolate: () => scatter && !gone && busy.then(() => gone || isolate()),
    select(list) {
      chosen = list;
      if (scatter) busy.then(() => gone || isolate());
    },
    retell: () => { if (marks.cursor >= 0 || marks.hover >= 0) tell(marks.cursor >= 0 ? marks.cursor : marks.hover); },
    stop() {
      gone = true;
      scatter?.destroy();
      scatter = undefined;
    },
  };
}

// ---- the widget -----------------------------------------------------------------------------------------------------

export default define('wb-feature-map', w => {
  const maps = w.get('maps').map(read), pairs = readPairs(w.get('pairs'), maps), frame = w.root.closest('.wb');
  const st = {last: w.get('other_latent') >= 0 && w.get('latent') < 0 ? 1 : 0, log: {}, isolated: new Set(), query: w.get('query'), hits: [], hit: -1};
  const dark = () => frame.classList.contains('wb-dark');
  const name = side => (maps.length > 1 ? plain(maps[side].title) + ': ' : '');
  const spot = side => maps[side]?.at.get(w.get(TRAITS[side][0])) ?? -1;
  let made = null;

  const columnOf = side => {
    const color = w.get('color'), told = w.get('told'), held = maps[side].columns.find(c => c.name === color);
    if (held?.data) return held;
    if (told.name !== color || color === PICKED && told.latent !== w.get('latent')) return null;
    if (st.told !== told) { st.told = told; st.columns = told.columns.map(column); }
    return st.columns[side];
  };
  const word = (side, i, kind) => {
    const map = maps[side];
    return map.words[kind]?.[i] ?? map.heard.get(i)?.[kind] ?? '';
  };
  const ask = (side, i) => { // words that only Python has
    if (!maps[side].silent || maps[side].heard.has(i) || offline(w)) return;
    clearTimeout(st.asking);
    st.asking = setTimeout(() => w.set({seek: {side, latent: maps[side].latents[i]}}), 120);
  };

  const app = {
    frames: 0,
    radius: n => Math.min(7, 2 + 200 / Math.sqrt(n)),
    picked: () => [st.last, spot(st.last)],
    near(side, i) {
      if (maps[side].near) return maps[side].near(i);
      const near = w.get('near');
      if (near.side !== side || near.latent !== maps[side].latents[i]) return null;
      return near.points.map((j, at) => ({i: j, cosine: near.cosines[at], close: near.close[at]}));
    },
    isolated: () => st.isolated,
    lines(side, i) {
      const map = maps[side], c = columnOf(side), label = word(side, i, 'label'), token = word(side, i, 'top_token'), found = [];
      found.push(h('b', null, `latent ${map.latents[i]}`));
      if (label) found.push(h('div', {class: 'fm-label'}, h('bdi', null, plain(label))));
      if (token) found.push(h('div', null, h('span', {class: 'wb-soft'}, 'top token '), h('bdi', null, quoted(token))));
      if (c?.data) { const v = valueOf(c, i); found.push(h('div', null, h('span', {class: 'wb-soft'}, pretty(c.name) + ' '), v == null ? 'no value' : typeof v === 'number' ? spelt(c, v) : plain(v))); }
      const [on, p] = app.picked(), near = on === side && p >= 0 && p !== i ? app.near(side, p)?.find(one => one.i === i) : null;
      if (near) found.push(h('div', null, h('span', {class: 'wb-soft'}, `cosine with ${map.latents[p]} `), number(near.cosine)));
      if (pairs) found.push(h('div', {class: 'wb-soft'}, matchText(side, i)));
      return found;
    },
    spoken: (side, i) => [`latent ${maps[side].latents[i]}`, word(side, i, 'label'), word(side, i, 'top_token') && 'top token ' + quoted(word(side, i, 'top_token'))].filter(Boolean).join(', '),
    hovered(side, i) {
      if (i >= 0) ask(side, i);
      if (!pairs) return;
      charts[1 - side].marks.matched = i >= 0 ? pairs.of(side, i).map(m => m.i) : [];
      charts[1 - side].overlay();
    },
    pick(side, i) {
      st.last = side;
      const latent = i >= 0 ? maps[side].latents[i] : -1, key = TRAITS[side][0];
      if (w.get(key) !== latent) w.set({[key]: latent});
      else picked();
    },
    lassoed(side, points) {
      const latents = points.map(i => maps[side].latents[i]).sort((a, b) => a - b), values = {[TRAITS[side][1]]: latents};
      if (maps[1 - side]) values[TRAITS[1 - side][1]] = [];
      st.query = {...st.query, side, page: 0};
      w.set(values);
    },
  };
  const words = (side, i) => { const label = word(side, i, 'label'), token = word(side, i, 'top_token'); return label ? plain(label) : token ? quoted(token) : ''; };
  const pretty = text => plain(text).replaceAll('_', ' ');
  const matchText = (side, i) => {
    const found = pairs.of(side, i), there = maps[1 - side];
    return found.length ? `${plain(there.title)}: ` + found.slice(0, 3).map(m => `latent ${there.latents[m.i]}${Number.isFinite(m.cosine) ? ` (cosine ${number(m.cosine)})` : ''}`).join(', ') + (found.length > 3 ? `, ${found.length - 3} more` : '')
      : `no match in ${plain(there.title)}`;
  };
  const charts = maps.map((map, side) => chart(map, side, app));

  // controls
  const names = [...new Set(maps[0].columns.map(c => c.name))];
  const colour = h('select', {'aria-label': 'Colour points by', onchange: () => w.set({color: colour.value})}, names.map(n => {
    const here = maps[0].columns.find(c => c.name === n)?.data;
    return h('option', {value: n, disabled: offline(w) && !here && n !== w.get('color')}, pretty(n));
  }));
  const log = h('input', {type: 'checkbox', onchange: () => { st.log[w.get('color')] = log.checked; recolour(); }}), logLabel = h('label', null, log, 'log scale');
  const box = h('input', {type: 'search', placeholder: 'Find a label, token or number', 'aria-label': 'Find latents by label, token or number', oninput: () => { clearTimeout(st.typing); st.typing = setTimeout(find, 150); }, onkeydown: e => {
    if (e.key === 'Enter') { e.preventDefault(); step(e.shiftKey ? -1 : 1); }
    if (e.key === 'Escape') { box.value = ''; find(); }
  }});
  const told = h('span', {class: 'wb-soft', role: 'status'}), next = h('button', {onclick: () => step(1), hidden: true, 'aria-label': 'Pick the next one found'}, 'Next');
  const bar = h('div', {class: 'wb-row fm-bar'}, h('label', null, 'Colour', colour), logLabel, h('span', {class: 'fm-gap'}), box, next, told);
  const legend = h('section', {class: 'fm-legend'}), pick = h('section', {class: 'fm-picked'}), list = h('section', {class: 'fm-list'}), note = h('div', {class: 'fm-note wb-soft'});
  const aside = h('div', {class: 'fm-side', style: {'--tall': maps[0].height + 'px'}}, legend, ...maps.map((m, side) => trust(m, side)), pick);
  const stage = h('div', {class: 'fm-maps'}, charts.map(c => c.root));
  w.root.classList.toggle('fm-two', maps.length > 1);
  w.root.replaceChildren(bar, h('div', {class: 'fm-body'}, stage, aside), note, list);

  function trust(m, side) {
    const t = m.trust, wide = v => Math.max(0, Math.min(100, 100 * v)).toFixed(1) + '%';
    return h('section', {class: 'fm-trust', title: t.caption},
      h('h4', null, `${name(side)}How far to believe this map`),
      h('div', {class: 'fm-bar-of', role: 'img', 'aria-label': `${share(t.recall)} of the nearest neighbours kept, ${share(t.chance)} by chance`},
        h('i', {style: {width: wide(t.recall)}}), h('u', {style: {left: wide(t.chance)}})),
      h('div', null, h('b', null, `${Math.round(100 * t.recall)} %`), ` of the ${t.k} nearest latents are near on the map too`, h('span', {class: 'wb-soft'}, ` (chance ${share(t.chance)})`)),
      h('div', null, h('b', null, number(t.trustworthiness)), ' trustworthiness', h('span', {class: 'wb-soft'}, ' (1: no false neighbour)')),
      t.method === 'pca' ? null : h('div', null, h('b', null, `${Math.round(100 * t.agreement)} %`), ' of neighbours shared by maps of three seeds', h('span', {class: 'wb-soft'}, ` (chance ${share(t.chance)})`)),
      h('div', {class: 'wb-soft'}, `${m.trust.method.toUpperCase()}, ${t.k} neighbours by ${t.absolute ? '|cosine|' : 'cosine'}${t.method === 'pca' ? '' : `, seed ${t.seed}`}. ${count(m.n)} latents${t.left_out ? `, ${count(t.left_out)} left out` : ''}. ${t.method === 'pca' ? 'Its two axes' : 'Two principal components'} hold ${share(t.explained)} of the variance.`));
  }

  function recolour() {
    const color = w.get('color'), columns = maps.map((_, side) => columnOf(side)), given = columns.find(c => c?.data);
    colour.value = color;
    logLabel.hidden = !(given?.kind === 'number' && given.least != null);
    const useLog = !logLabel.hidden && (st.log[color] ?? given.log);
    log.checked = useLog;
    made = colouring(columns, {log: useLog, dark: dark()});
    drawLegend();
    if (made || !charts[0].root.dataset.drawn) charts.forEach(c => c.colour(made ?? {palette: [blue(dark()), blue(dark())], of: maps.map(() => () => 0)}, dark()));
    charts.forEach(c => c.retell());
  }
  function drawLegend() {
    const grows = maps[0].size ? [h('div', {class: 'wb-soft'}, `size: rank in ${pretty(maps[0].size)}`)] : [];
    const lacks = maps.filter((_, side) => made && !columnOf(side)?.data).map(m => h('div', {class: 'wb-soft'}, h('i', {class: 'fm-dot', style: {background: blue(dark())}}), `not known in ${plain(m.title)}`));
    const color = w.get('color'), had = legend.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const title = h('h4', null, pretty(color));
    if (!made) {
      legend.replaceChildren(title, h('div', {class: 'wb-soft'}, color === PICKED && w.get('latent') < 0 ? 'Pick a latent: all others are coloured by their cosine with it.' : offline(w) ? NO_KERNEL : 'Asking Python …'));
    } else if (made.kind === 'number') {
      const c = made;
      legend.replaceChildren(title,
        h('div', {class: 'fm-ramp', style: {background: `linear-gradient(to right, ${c.palette.slice(0, STEPS).filter((_, i) => i % 7 === 0).join(',')})`}, role: 'img', 'aria-label': `from ${number(c.low)} to ${number(c.high)}${c.log ? ', logarithmic' : ''}`}),
        h('div', {class: 'fm-ends'}, h('span', null, (c.under ? '≤ ' : '') + number(c.low)), h('span', null, number(c.middle)), h('span', null, (c.over ? '≥ ' : '') + number(c.high))),
        ...(c.none ? [h('div', {class: 'wb-soft'}, h('i', {class: 'fm-dot', style: {background: c.palette[STEPS]}}), `no value: ${count(c.none)}`)] : []), ...grows, ...lacks);
    } else {
      legend.replaceChildren(title, h('div', {class: 'fm-groups'}, made.groups.map((g, j) => h('button', {
        class: 'fm-group', 'data-key': String(j), 'aria-pressed': String(st.isolated.has(j)), title: 'Show only these; click again for all', onclick: () => {
          if (!st.isolated.delete(j)) st.isolated.add(j);
          drawLegend();
          charts.forEach(c => c.isolate());
        },
      }, h('i', {class: 'fm-dot', style: {background: g.color}}), h('bdi', null, plain(g.name)), h('span', {class: 'wb-soft'}, ' ' + count(g.count))))),
      ...(st.isolated.size ? [h('button', {'data-key': 'all', onclick: () => { st.isolated.clear(); drawLegend(); charts.forEach(c => c.isolate()); }}, 'Show all')] : []), ...grows, ...lacks);
      if (had != null) (legend.querySelector(`[data-key="${had}"]`) ?? legend.querySelector('button'))?.focus();
    }
  }

  function picked() {
    const [side, i] = app.picked(), map = maps[side];
    charts.forEach(c => c.overlay());
    if (i < 0) {
      pick.replaceChildren(h('h4', null, 'Nearest in the original space'), h('div', {class: 'wb-soft'}, 'Click a point to see its nearest latents by cosine, and how many of them the map keeps near.'));
      return;
    }
    ask(side, i);
    const near = app.near(side, i), label = word(side, i, 'label'), token = word(side, i, 'top_token');
    const head = h('div', null, h('h4', null, `${name(side)}latent ${map.latents[i]}`),
      label ? h('div', {class: 'fm-label'}, h('bdi', null, plain(label))) : null, token ? h('div', null, h('span', {class: 'wb-soft'}, 'top token '), h('bdi', null, quoted(token))) : null,
      pairs ? h('div', {class: 'fm-matches'}, h('span', {class: 'wb-soft'}, pairs.of(side, i).length ? `in ${plain(maps[1 - side].title)} ` : matchText(side, i)),
        pairs.of(side, i).slice(0, 5).map(m => h('button', {onclick: () => { charts[1 - side].reveal(m.i); app.pick(1 - side, m.i); }}, `latent ${maps[1 - side].latents[m.i]}${Number.isFinite(m.cosine) ? ` · ${number(m.cosine)}` : ''}`))) : null);
    if (!near) {
      pick.replaceChildren(head, h('div', {class: 'wb-soft'}, offline(w) ? `Its neighbours are not in this page. ${NO_KERNEL}` : 'Asking Python for its neighbours …'));
      return;
    }
    const kept = near.filter(one => one.close).length;
    charts[side].say(`${app.spoken(side, i)} picked, ${kept} of its ${near.length} nearest latents are near on the map`);
    const top = pick.querySelector('.wb-scroll')?.scrollTop;
    pick.replaceChildren(head,
      h('div', {class: 'fm-kept'}, h('b', null, `${kept} of its ${near.length}`), ` nearest latents are among the ${near.length} nearest on the map too`, kept < near.length ? '; dashed lines lead to the others. ' : '. ', h('button', {class: 'fm-zoom', onclick: () => charts[side].close([i, ...near.map(one => one.i)])}, 'Zoom to them')),
      table({
        label: `Latents nearest to ${map.latents[i]} in the original space`, rows: near.map(one => ({id: one.i, ...one})), onpick: j => { charts[side].reveal(j); app.pick(side, j); },
        columns: [
          {key: 'close', label: '', format: v => h('span', {title: v ? 'near on the map too' : 'far on the map', class: v ? 'fm-on' : 'fm-off'}, v ? '●' : '○')},
          {key: 'i', label: 'latent', num: true, format: v => String(map.latents[v])},
          {key: 'word', label: '', format: (_, row) => h('bdi', {class: 'fm-word'}, words(side, row.i))},
          {key: 'cosine', label: 'cosine', num: true, format: v => v.toFixed(3).replace('-', '−')},
        ],
      }));
    if (top && st.shown === map.latents[i]) pick.querySelector('.wb-scroll').scrollTop = top;
    st.shown = map.latents[i];
  }

  // the table: pages from Python, or of what the page holds
  function held() {
    const {side, sort, descending, page} = st.query, map = maps[side], chosen = w.get(TRAITS[side][1]);
    const columns = [{key: 'id', name: 'latent', label: 'latent', num: true},
      ...Object.keys(map.words).map(k => ({key: k, name: k, label: pretty(k)})),
      ...map.columns.filter(c => c.data).map((c, j) => ({key: 'c' + j, name: c.name, label: pretty(c.name), num: c.kind === 'number', whole: c.whole, c}))];
    const by = columns.find(c => c.name === sort) ?? columns[0], lines = (chosen.length ? chosen.map(n => map.at.get(n)) : Array.from(map.latents.keys())).map(i => [i, by.c ? valueOf(by.c, i) : by.key === 'id' ? map.latents[i] : word(side, i, by.key)]);
    lines.sort(([, a], [, b]) => (a == null) - (b == null) || (descending ? -1 : 1) * (a < b ? -1 : a > b ? 1 : 0));
    const pages = Math.max(1, Math.ceil(lines.length / PAGE)), at = Math.min(page, pages - 1);
    return {side, all: !chosen.length, sort: by.name, descending, total: lines.length, page: at, pages, columns, rows: lines.slice(at * PAGE, at * PAGE + PAGE).map(([i]) => ({
      id: map.latents[i], ...Object.fromEntries(columns.slice(1).map(c => [c.key, c.c ? valueOf(c.c, i) : word(side, i, c.key)])),
    }))};
  }
  const turn = change => {
    st.query = {...st.query, ...change};
    if (offline(w)) drawList();
    else w.set({query: st.query});
  };
  function drawList() {
    const r = offline(w) ? held() : w.get('rows');
    if (!r.rows) return;
    st.query = {side: r.side, sort: r.sort, descending: r.descending, page: r.page};
    const at = document.activeElement, had = list.contains(at) ? at.dataset.key ?? (at.closest('tr') ? 'row' : null) : null, row = had === 'row' ? at.closest('tr').dataset.id : null;
    const mine = maps[r.side], first = r.page * PAGE, key = r.columns.find(c => c.name === r.sort)?.key;
    const button = (key, text, label, disabled, onclick) => h('button', {'data-key': key, 'aria-label': label, disabled, onclick}, text);
    list.replaceChildren(
      h('div', {class: 'wb-row'},
        h('h3', null, `${name(r.side)}${r.all ? `${maps.length > 1 ? 'all' : 'All'} ${count(r.total)} latents` : `${count(r.total)} selected`}`),
        ...(r.all ? [] : [button('clear', 'Clear selection', 'Clear selection', false, () => w.set(Object.fromEntries(maps.map((_, side) => [TRAITS[side][1], []]))))]),
        ...(maps.length > 1 && r.all ? maps.map((m, side) => h('button', {'data-key': 'side' + side, 'aria-pressed': String(side === r.side), onclick: () => turn({side, page: 0})}, plain(m.title))) : []),
        r.all ? null : h('span', {class: 'wb-soft'}, matchedCount(r.side)),
        h('span', {class: 'fm-gap'}),
        h('span', {class: 'wb-soft'}, r.total ? `${count(first + 1)}–${count(first + r.rows.length)} of ${count(r.total)}` : ''),
        button('back', '‹', 'Previous page', r.page === 0, () => turn({page: r.page - 1})), button('on', '›', 'Next page', r.page >= r.pages - 1, () => turn({page: r.page + 1}))),
      table({
        label: r.all ? 'All latents' : 'Selected latents', rows: r.rows, picked: mine.latents[spot(r.side)], sort: {key, descending: r.descending},
        onsort: (key, descending) => turn({sort: r.columns.find(c => c.key === key).name, descending, page: 0}),
        onpick: latent => { const i = mine.at.get(latent); charts[r.side].reveal(i); app.pick(r.side, i); },
        columns: r.columns.map(c => ({...c, format: v => (v == null ? '–' : typeof v === 'number' ? (c.key === 'id' ? String(v) : spelt(c, v)) : v === '' ? '–' : c.name === 'top_token' ? h('bdi', null, quoted(v)) : h('bdi', {class: 'fm-word', title: plain(v)}, plain(v)))})),
      }));
    if (row != null) (list.querySelector(`tr[data-id="${row}"]`) ?? list.querySelector('tr[tabindex="0"]'))?.focus();
    else if (had != null) (list.querySelector(`[data-key="${had}"]:not(:disabled)`) ?? list.querySelector('[data-key]:not(:disabled)'))?.focus();
  }
  function matchedCount(side) {
    if (!pairs) return '';
    const mine = w.get(TRAITS[side][1]).map(n => maps[side].at.get(n)), with_ = mine.filter(i => pairs.of(side, i).length), there = new Set(with_.flatMap(i => pairs.of(side, i).map(m => m.i)));
    return `${count(with_.length)} have a match (${count(there.size)} latents of ${plain(maps[1 - side].title)}, lit there), ${count(mine.length - with_.length)} have none`;
  }
  function selected() {
    const lists = maps.map((m, side) => w.get(TRAITS[side][1]).map(n => m.at.get(n)).filter(i => i != null));
    charts.forEach((c, side) => {
      const other = lists[1 - side];
      c.select(lists[side].length || !pairs || !other?.length ? lists[side] : [...new Set(other.flatMap(i => pairs.of(1 - side, i).map(m => m.i)))]);
    });
    if (offline(w)) drawList();
  }

  // search
  function find() {
    const text = box.value.trim();
    if (!text) return hits([]);
    if (!maps.some(m => m.silent)) {
      const low = text.toLowerCase();
      hits(maps.map(m => {
        const found = [];
        for (let i = 0; i < m.n; i++) if (String(m.latents[i]) === text || Object.values(m.words).some(words => words[i].toLowerCase().includes(low))) found.push(i);
        return {points: found, total: found.length};
      }), text);
    } else if (offline(w)) told.textContent = NO_KERNEL;
    else w.set({seek: {text}});
  }
  function hits(sides, text) {
    st.hits = sides.flatMap((found, side) => found.points.map(i => [side, i]));
    st.hit = -1;
    next.hidden = !st.hits.length;
    told.textContent = text ? (st.hits.length ? `${count(sides.reduce((n, f) => n + f.total, 0))} found` : 'nothing found') : '';
    charts.forEach((c, side) => { c.marks.hits = sides[side]?.points ?? []; c.overlay(); });
  }
  function step(by) {
    if (!st.hits.length) return;
    st.hit = (st.hit + by + st.hits.length) % st.hits.length;
    const [side, i] = st.hits[st.hit];
    told.textContent = `${count(st.hit + 1)} of ${count(st.hits.length)}`;
    charts[side].reveal(i);
    app.pick(side, i);
  }

  w.on('latent', () => { if (w.get('latent') >= 0 || maps.length < 2) st.last = 0; picked(); drawList(); if (w.get('color') === PICKED) recolour(); if (spot(0) >= 0) charts[0].reveal(spot(0)); });
  w.on('other_latent', () => { if (w.get('other_latent') >= 0) st.last = 1; picked(); drawList(); if (spot(1) >= 0) charts[1].reveal(spot(1)); });
  w.on('near', picked);
  w.on('selection other_selection', selected);
  w.on('rows', drawList);
  w.on('color told', () => { if (st.color !== w.get('color')) st.isolated.clear(); st.color = w.get('color'); recolour(); });
  w.on('found', () => { const found = w.get('found'); if (found.text === box.value.trim()) hits(found.sides, found.text); });
  w.on('spoken', () => {
    const {side, latent, words} = w.get('spoken');
    if (words) maps[side].heard.set(maps[side].at.get(latent), words);
    charts.forEach(c => c.retell());
    if (spot(side) >= 0 && latent === maps[side].latents[spot(side)]) picked();
  });
  w.listen(frame, 'wb-theme', () => recolour());
  st.color = w.get('color');
  recolour();
  picked();
  drawList();

  // the engine: one context for both maps, made when there is a size to draw at
  let renderer = null, canvas = null, gl = null;
  function begin() {
    canvas = document.createElement('canvas');
    gl = canvas.getContext('webgl', {antialias: false, preserveDrawingBuffer: true});
    if (!gl || !gl.getExtension('OES_texture_float')) {
      stage.replaceChildren(h('div', {class: 'wb-empty', role: 'status'}, 'The map cannot be drawn: this browser offers no WebGL. The search, the neighbours and the table work without it.'));
      gl = null;
      canvas = false;
      return;
    }
    canvas.addEventListener('webglcontextlost', lost);
    renderer = createRenderer({canvas});
    resize();
    charts.forEach(c => c.start(renderer));
    selected();
    note.textContent = `Drag to move${maps.length > 1 ? ' a map' : ''}, click it and scroll to zoom, Shift-drag or Lasso to select, click a latent for its neighbours.${pairs ? ` ${count(pairs.matched[0])} of ${count(maps[0].n)} in ${plain(maps[0].title)} and ${count(pairs.matched[1])} of ${count(maps[1].n)} in ${plain(maps[1].title)} have a match${pairs.lost ? `; ${count(pairs.lost)} pairs name latents that are not on the maps` : ''}.` : ''}`;
  }
  function end() {
    charts.forEach(c => c.stop());
    canvas?.removeEventListener?.('webglcontextlost', lost);
    renderer?.destroy();
    gl?.getExtension('WEBGL_lose_context')?.loseContext(); // else a browser keeps it, and it has sixteen
    renderer = gl = canvas = null;
  }
  function lost() {
    note.replaceChildren('The browser took the drawing surface away, as it does when many maps are open. ', h('button', {onclick: () => { end(); begin(); }}, 'Draw again'));
  }
  function resize() {
    const sizes = charts.map(c => c.size());
    if (!sizes.every(([a, b]) => a > 0 && b > 0)) return false;
    if (renderer) {
      const [a, b] = [0, 1].map(k => Math.max(...sizes.map(z => z[k])));
      if (canvas.width !== Math.round(a * devicePixelRatio) || canvas.height !== Math.round(b * devicePixelRatio)) renderer.resize(a, b);
      charts.forEach(c => c.scatter?.redraw());
    }
    return true;
  }
  const watch = new ResizeObserver(() => { if (resize() && canvas === null) begin(); });
  charts.forEach(c => watch.observe(c.box));
  w.later(() => { watch.disconnect(); clearTimeout(st.asking); clearTimeout(st.typing); end(); });
  frame.fm = {app, charts, get gl() { return gl; }}; // what a test looks at
});
