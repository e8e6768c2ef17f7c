// Lines or points in SVG: axes, log scales, intervals, a read-out by pointer and by keyboard. It draws what it is given.
import {h, s} from './dom.js';
import {number} from './numbers.js';

const good = v => v != null && Number.isFinite(v);
export const color = i => (typeof i === 'string' ? i : `var(--c${i % 8})`);

// Places for some `count` ticks between two numbers, and what stands there.
export function ticks(lo, hi, count, log = false) {
  if (log) {
    const decades = Math.log10(hi / lo);
    if (decades >= 0.7) {
      const every = Math.max(1, Math.ceil(decades / count)), found = [];
      for (let k = Math.floor(Math.log10(lo)); k <= Math.ceil(Math.log10(hi)); k++)
        for (const m of decades < 2.2 ? [1, 2, 5] : [1]) {
          const v = m * 10 ** k;
          if (k % every === 0 && v >= lo * 0.999 && v <= hi * 1.001) found.push([v, short(v)]);
        }
      return found;
    }
  }
  const rough = (hi - lo) / Math.max(1, count), size = 10 ** Math.floor(Math.log10(rough));
  const step = size * (rough / size >= 7.07 ? 10 : rough / size >= 3.16 ? 5 : rough / size >= 1.41 ? 2 : 1), found = [];
  for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + 1e-9 * step; i++) found.push([i * step, short(i * step, step)]);
  return found;
}

function short(v, step) {
  if (v === 0) return '0';
  const size = Math.abs(v), fit = x => (step == null ? String(Number(x.toPrecision(3))) : '');
  let text;
  if (size >= 1e9 || size < 1e-3 && (step == null || step < 1e-3)) text = v.toExponential(step == null ? 0 : Math.max(0, digits(step / 10 ** Math.floor(Math.log10(size))))).replace('e+', 'e');
  else if (size >= 1e6) text = (fit(v / 1e6) || (v / 1e6).toFixed(digits(step / 1e6))) + 'M';
  else if (size >= 1e4) text = (fit(v / 1e3) || (v / 1e3).toFixed(digits(step / 1e3))) + 'k';
  else text = fit(v) || v.toFixed(digits(step));
  return text.replaceAll('-', '−');
}
const digits = step => Math.max(0, Math.min(12, -Math.floor(Math.log10(step) + 1e-9)));

// From numbers to pixels. axis: {log, domain: [lo, hi], zero: whether 0 belongs to it}; values: arrays that must fit.
export function scale(axis, values, from, to) {
  const {log = false} = axis, g = log ? Math.log10 : v => v;
  let [lo, hi] = axis.domain ?? [Infinity, -Infinity];
  if (!axis.domain) {
    for (const list of values) for (const v of list) if (good(v) && (!log || v > 0)) { lo = Math.min(lo, v); hi = Math.max(hi, v); }
    if (lo > hi) return null;
    if (axis.zero && !log) { lo = Math.min(0, lo); hi = Math.max(0, hi); }
    if (lo === hi) [lo, hi] = log ? [lo / 1.5, hi * 1.5] : lo === 0 ? [0, 1] : [lo - Math.abs(lo) * 0.1, hi + Math.abs(hi) * 0.1];
    else if (!axis.tight) {
      const pad = (g(hi) - g(lo)) * 0.06, floor = axis.zero && lo === 0;
      [lo, hi] = log ? [10 ** (g(lo) - pad), 10 ** (g(hi) + pad)] : [floor ? 0 : lo - pad, axis.zero && hi === 0 ? 0 : hi + pad];
    }
  }
  const a = g(lo), b = g(hi), at = v => from + (g(v) - a) / (b - a) * (to - from);
  return {
    lo, hi, log, at, ok: v => good(v) && (!log || v > 0), clip: v => at(Math.min(hi, Math.max(lo, v))),
    ticks: count => ticks(lo, hi, count, log), back: px => { const u = a + (px - from) / (to - from) * (b - a); return log ? 10 ** u : u; },
  };
}

// A chart that follows its width. `node` is to be put somewhere; draw(spec):
// {x, y: {label, name (where it is read out), log, zero, domain, tight, format(v)}, series: [...], marks: [{x or y, label, color}], onpick(id), picked}
// a series: {name, x, y, color: 0.. or CSS, kind: 'line' or 'points', low, high, xlow, xhigh, band, dash, faint, wide, quiet,
//            style: 'full', 'hollow' or 'faint' (points), ids, names, named: write names beside points}
export function chart(w, {label, height = 170}) {
  const svg = s('svg', {class: 'wb-plot', role: 'group', 'aria-label': label, height});
  const tip = h('div', {class: 'wb-tip', hidden: true, 'aria-hidden': 'true'});
  const said = h('div', {class: 'wb-said', role: 'status'});
  const node = h('div', {class: 'wb-chart', style: {height: height + 'px'}}, svg, tip, said);
  let spec = null, width = 0, made = null, shown = null, over = s('g');
  const watch = new ResizeObserver(() => {
    const now = Math.floor(node.clientWidth);
    if (now && now !== width) { width = now; render(); }
  });
  watch.observe(node);
  w.later(() => watch.disconnect());

  function render() {
    if (!spec || !width) return;
    const {series, marks = []} = spec, focused = svg.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const lines = series.filter(c => c.kind !== 'points');
    const ys = [...series.map(c => c.y), ...series.flatMap(c => [c.low ?? [], c.high ?? []]), marks.filter(m => m.fit && m.y != null).map(m => m.y)];
    const xs = [...series.map(c => c.x), ...series.flatMap(c => [c.xlow ?? [], c.xhigh ?? []]), marks.filter(m => m.fit && m.x != null).map(m => m.x)];
    const top = spec.y.label ? 20 : 8, bottom = height - (spec.x.label ? 34 : 20);
    const y = scale(spec.y, ys, bottom, top);
    const yticks = y?.ticks(Math.max(2, Math.round((bottom - top) / 34))) ?? [];
    const left = Math.ceil(10 + 6.3 * Math.max(1, ...yticks.map(t => t[1].length))), right = width - 10;
    const x = scale({tight: lines.length === series.length, ...spec.x}, xs, left, right);
    tip.hidden = true;
    if (!x || !y || right - left < 40) {
      made = null;
      svg.setAttribute('width', width);
      svg.replaceChildren(s('text', {class: 'wb-none', x: width / 2, y: height / 2, 'text-anchor': 'middle'}, 'no value to draw'));
      return;
    }
    const out = [];
    for (const [v, text] of yticks) {
      const py = y.at(v);
      out.push(s('line', {class: 'wb-grid', x1: left, x2: right, y1: py, y2: py}), s('text', {x: left - 6, y: py + 3.5, 'text-anchor': 'end'}, text));
    }
    let free = -Infinity;
    for (const [v, text] of x.ticks(Math.max(2, Math.round((right - left) / 80)))) {
      const px = x.at(v), half = 3.2 * text.length, at = Math.min(px, width - half - 1);
      if (at - half < free) continue;
      free = at + half + 6;
      out.push(s('line', {class: 'wb-tick', x1: px, x2: px, y1: bottom, y2: bottom + 4}), s('text', {x: at, y: bottom + 15, 'text-anchor': 'middle'}, text));
    }
    out.push(s('line', {class: 'wb-axis', x1: left, x2: right, y1: bottom, y2: bottom}));
    if (spec.y.label) out.push(s('text', {class: 'wb-axis-name', x: 1, y: 10}, spec.y.label));
    if (spec.x.label) out.push(s('text', {class: 'wb-axis-name', x: right, y: bottom + 29, 'text-anchor': 'end'}, spec.x.label));
    // a nested svg cuts what lies outside
    const plot = s('svg', {x: left, y: top - 4, width: right - left, height: bottom - top + 8, viewBox: `${left} ${top - 4} ${right - left} ${bottom - top + 8}`});
    const labels = [];
    let missed = 0;
    for (const m of marks) {
      const v = m.y ?? m.x, axis = m.y != null ? y : x;
      if (!axis.ok(v) || v < axis.lo || v > axis.hi) continue;
      const p = axis.at(v), style = {stroke: m.color ?? 'var(--soft)'};
      plot.append(m.y != null ? s('line', {class: 'wb-mark', x1: left, x2: right, y1: p, y2: p, style}) : s('line', {class: 'wb-mark', x1: p, x2: p, y1: top, y2: bottom, style}));
      if (m.label) labels.push(m.y != null ? s('text', {class: 'wb-mark-name', x: right - 3, y: p > top + 14 ? p - 4 : p + 12, 'text-anchor': 'end'}, m.label)
        : s('text', {class: 'wb-mark-name', x: p + (p > right - 60 ? -4 : 4), y: top + 10, 'text-anchor': p > right - 60 ? 'end' : 'start'}, m.label));
    }
    const points = [];
    for (const c of series) {
      const stroke = color(c.color ?? 0), n = Math.min(c.x.length, c.y.length);
      if (c.low && c.high && c.band) {
        for (const run of runs(n, i => x.ok(c.x[i]) && good(c.low[i]) && good(c.high[i]))) {
          const up = run.map(i => `${x.at(c.x[i]).toFixed(1)} ${y.clip(c.high[i]).toFixed(1)}`), down = run.map(i => `${x.at(c.x[i]).toFixed(1)} ${y.clip(c.low[i]).toFixed(1)}`);
          plot.append(s('path', {class: 'wb-band', d: `M${up.join('L')}L${down.reverse().join('L')}Z`, style: {fill: stroke}}));
        }
      }
      const bars = [];
      for (let i = 0; i < n; i++) {
        if (!x.ok(c.x[i]) || !y.ok(c.y[i])) { if (!c.quiet && good(c.x[i]) && good(c.y[i])) missed++; continue; }
        const px = x.at(c.x[i]), py = y.at(c.y[i]);
        if (!c.band && good(c.low?.[i]) && good(c.high?.[i])) bars.push(`M${px.toFixed(1)} ${y.clip(c.low[i]).toFixed(1)}V${y.clip(c.high[i]).toFixed(1)}`);
        if (good(c.xlow?.[i]) && good(c.xhigh?.[i])) bars.push(`M${x.clip(c.xlow[i]).toFixed(1)} ${py.toFixed(1)}H${x.clip(c.xhigh[i]).toFixed(1)}`);
        if (c.kind === 'points') points.push({c, i, px, py, id: c.ids?.[i] ?? `${c.name} ${i}`, text: c.names?.[i] ?? c.name});
      }
      if (bars.length) plot.append(s('path', {class: 'wb-whisker' + (c.style === 'faint' ? ' wb-faint' : ''), d: bars.join(''), style: {stroke}}));
      if (c.kind === 'points') continue;
      const d = runs(n, i => x.ok(c.x[i]) && y.ok(c.y[i])).map(run => 'M' + run.map(i => `${x.at(c.x[i]).toFixed(1)} ${y.at(c.y[i]).toFixed(1)}`).join('L') + (run.length === 1 ? 'h0' : '')).join('');
      plot.append(s('path', {class: 'wb-line' + (c.faint ? ' wb-faint' : '') + (c.wide ? ' wb-thick' : ''), d, style: {stroke, ...(c.dash || c.color >= 8 ? {'stroke-dasharray': '5 4'} : {})}}));
    }
    plot.append(...labels);
    if (missed) out.push(s('text', {class: 'wb-axis-name', x: right, y: 10, 'text-anchor': 'end'}, `${missed} value${missed > 1 ? 's' : ''} ≤ 0 not on a log axis`));
    over = s('g', {class: 'wb-over'});
    svg.setAttribute('width', width);
    svg.replaceChildren(...out, plot, over, ...dots(points, {left, right, top, bottom}));
    made = {x, y, left, right, top, bottom, lines: lines.filter(c => !c.quiet), points};
    if (made.lines.length) node.tabIndex = 0; else node.removeAttribute('tabindex');
    if (focused != null) svg.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
    if (shown != null && made.lines.length) readAt(shown);
  }

  function dots(points, box) {
    points.sort((a, b) => a.px - b.px);
    const start = points.find(p => p.id === spec.picked) ?? points[0], taken = points.map(p => [p.px - 5, p.py - 5, p.px + 5, p.py + 5]);
    const made = points.map(p => {
      const on = p.id === spec.picked, stroke = color(p.c.color ?? 0), pick = spec.onpick;
      const say = `${p.text}: ${called('x')} ${value(p, 'x')}, ${called('y')} ${value(p, 'y')}`;
      return s('g', {
        class: `wb-point wb-${p.c.style ?? 'full'}${on ? ' wb-on' : ''}`, 'data-id': p.id, tabindex: p === start ? 0 : -1,
        role: pick ? 'button' : 'img', 'aria-label': say, 'aria-pressed': pick ? String(on) : null, style: {'--mine': stroke},
        onclick: () => pick?.(p.id), onfocus: () => readPoint(p), onblur: hide,
      }, on ? s('circle', {class: 'wb-ring', cx: p.px, cy: p.py, r: 9}) : null, s('circle', {cx: p.px, cy: p.py, r: p.c.style === 'faint' ? 3.5 : 4.5}));
    });
    const names = [];
    for (const p of [...points].sort((a, b) => (b.id === spec.picked) - (a.id === spec.picked))) {
      if (!p.c.named && p.id !== spec.picked) continue;
      const text = p.text.length > 28 ? p.text.slice(0, 27) + '…' : p.text, size = 6 * text.length;
      for (const [dx, dy, anchor] of [[9, -7, 'start'], [-9, -7, 'end'], [9, 15, 'start'], [-9, 15, 'end'], [9, 4, 'start'], [-9, 4, 'end']]) {
        const x0 = p.px + dx - (anchor === 'end' ? size : 0), rect = [x0, p.py + dy - 9, x0 + size, p.py + dy + 2];
        if (x0 < box.left || x0 + size > box.right || rect[1] < box.top - 8 || rect[3] > box.bottom || taken.some(t => t[0] < rect[2] && t[2] > rect[0] && t[1] < rect[3] && t[3] > rect[1])) continue;
        taken.push(rect);
        names.push(s('text', {class: 'wb-point-name', x: p.px + dx, y: p.py + dy, 'text-anchor': anchor, 'aria-hidden': 'true'}, text));
        break;
      }
    }
    return [...names, ...made];
  }

  const called = (axis, none = axis) => spec[axis].name ?? spec[axis].label ?? none;
  const value = ({c, i}, axis) => {
    const low = axis === 'x' ? c.xlow : c.low, high = axis === 'x' ? c.xhigh : c.high, say = spec[axis].format ?? number;
    return say(c[axis][i]) + (good(low?.[i]) && good(high?.[i]) ? ` [${say(low[i])}, ${say(high[i])}]` : '');
  };

  function place(px, py, title, rows, aloud) {
    tip.replaceChildren(h('div', {class: 'wb-tip-head'}, title), ...rows.slice(0, 12).map(([name, text, tint]) =>
      h('div', {class: 'wb-tip-row'}, tint ? h('i', {style: {background: tint}}) : null, h('span', null, name), h('b', null, text))),
    rows.length > 12 ? h('div', {class: 'wb-soft'}, `${rows.length - 12} more`) : '');
    tip.hidden = false;
    const wide = tip.offsetWidth, tall = tip.offsetHeight;
    tip.style.left = Math.max(0, px + 14 + wide > width ? px - 14 - wide : px + 14) + 'px';
    tip.style.top = Math.max(0, Math.min(height - tall, py - tall / 2)) + 'px';
    if (aloud) said.textContent = [title, ...rows.map(r => `${r[0]} ${r[1]}`)].join(', ');
  }

  function readPoint(p) {
    place(p.px, p.py, p.text, [[called('x'), value(p, 'x')], [called('y'), value(p, 'y')]]);
  }

  // the values nearest to a place on the x axis; null when there is none
  function readAt(v, aloud = false) {
    if (!made?.lines.length || !made.x.ok(v)) return null;
    const {x, y, top, bottom} = made, px = x.at(v);
    const near = made.lines.map(c => ({c, i: nearest(c, v, x, y)})).filter(n => n.i != null);
    if (!near.length) return null;
    const best = near.reduce((a, b) => (Math.abs(x.at(b.c.x[b.i]) - px) < Math.abs(x.at(a.c.x[a.i]) - px) ? b : a)), at = best.c.x[best.i], p = x.at(at);
    const here = near.filter(n => Math.abs(x.at(n.c.x[n.i]) - p) <= 12);
    over.replaceChildren(s('line', {class: 'wb-hair', x1: p, x2: p, y1: top, y2: bottom}),
      ...here.map(n => s('circle', {class: 'wb-dot', cx: x.at(n.c.x[n.i]), cy: y.at(n.c.y[n.i]), r: 3, style: {fill: color(n.c.color ?? 0)}})));
    place(p, (top + bottom) / 2, `${called('x', '')} ${(spec.x.format ?? number)(at)}`.trim(), here.map(n => [n.c.name, value(n, 'y'), color(n.c.color ?? 0)]), aloud);
    return at;
  }

  function hide() {
    tip.hidden = true;
    shown = null;
    over.replaceChildren();
  }

  svg.addEventListener('pointermove', e => {
    if (!made) return;
    const box = svg.getBoundingClientRect(), px = e.clientX - box.left, py = e.clientY - box.top;
    const close = made.points.reduce((a, p) => (Math.hypot(p.px - px, p.py - py) < (a ? Math.hypot(a.px - px, a.py - py) : 18) ? p : a), null);
    if (close) readPoint(close);
    else if (!made.lines.length || px < made.left - 8 || px > made.right + 8) hide();
    else { shown = made.x.back(Math.min(made.right, Math.max(made.left, px))); readAt(shown); }
  });
  svg.addEventListener('pointerleave', hide);
  node.addEventListener('blur', hide);
  node.addEventListener('keydown', e => {
    if (!made) return;
    if (e.target === node && made.lines.length) {
      const c = made.lines.reduce((a, b) => (b.x.length > a.x.length ? b : a)), last = c.x.length - 1;
      const i = shown == null ? null : nearest(c, shown, made.x, null) ?? 0, step = e.shiftKey ? Math.max(1, Math.round(last / 20)) : 1;
      const to = {ArrowRight: i == null ? 0 : i + step, ArrowLeft: i == null ? last : i - step, Home: 0, End: last}[e.key];
      if (e.key === 'Escape') hide();
      else if (to == null) return;
      else { shown = c.x[Math.max(0, Math.min(last, to))]; readAt(shown, true); }
    } else if (e.target.classList?.contains('wb-point')) {
      const i = made.points.findIndex(p => String(p.id) === e.target.dataset.id), next = made.points[i + ({ArrowRight: 1, ArrowLeft: -1}[e.key] ?? 0)];
      if (e.key === 'Enter' || e.key === ' ') spec.onpick?.(made.points[i].id);
      else if (e.key === 'ArrowRight' || e.key === 'ArrowLeft') {
        if (!next) return;
        e.target.setAttribute('tabindex', -1);
        const to = svg.querySelector(`[data-id="${CSS.escape(String(next.id))}"]`);
        to.setAttribute('tabindex', 0);
        to.focus();
      } else return;
    } else return;
    e.preventDefault();
  });
  return {node, draw(given) { spec = given; render(); }};
}

// the finite point of a line whose x is nearest; x must not fall along the line
function nearest(c, v, x, y) {
  let a = 0, b = c.x.length - 1;
  while (a < b) {
    const m = (a + b) >> 1;
    if (c.x[m] < v) a = m + 1; else b = m;
  }
  const ok = i => i >= 0 && i < c.x.length && x.ok(c.x[i]) && (!y || y.ok(c.y[i]));
  let up = a, down = a - 1;
  for (let k = 0; k < 50 && !ok(up) && up < c.x.length; k++) up++;
  for (let k = 0; k < 50 && !ok(down) && down >= 0; k++) down--;
  if (!ok(up)) return ok(down) ? down : null;
  if (!ok(down)) return up;
  return Math.abs(x.at(c.x[up]) - x.at(v)) <= Math.abs(x.at(c.x[down]) - x.at(v)) ? up : down;
}

// the stretches of indices below n where ok holds
function runs(n, ok) {
  const found = [];
  let last = null;
  for (let i = 0; i < n; i++) {
    if (!ok(i)) last = null;
    else if (last) last.push(i);
    else found.push(last = [i]);
  }
  return found;
}
