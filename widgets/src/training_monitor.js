import {chart, color, scale} from './lib/chart.js';
import {h, s} from './lib/dom.js';
import {count, number, share} from './lib/numbers.js';
import {define, NO_KERNEL, offline} from './lib/widget.js';

const PHASES = {
  waiting: ['waiting', 'idle'], running: ['running', 'go'], paused: ['paused', 'hold'], stopping: ['stopping after this step', 'hold'],
  stopped: ['stopped', 'idle'], finished: ['finished', 'done'], crashed: ['crashed', 'bad'], failed: ['failed', 'bad'],
};
const PANELS = [['l0', 'L0', 'active latents per row'], ['fvu', 'FVU', 'fraction of variance unexplained'], ['dead', 'Dead latents', 'share of latents']];
const SPANS = [0, 5, 20, 100];

export default define('wb-training-monitor', w => {
  const floats = key => { const v = w.get(key); return v?.byteLength ? new Float32Array(v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength)) : new Float32Array(0); };
  const panel = (title, about, plot, ...tools) => h('section', {class: 'wb-panel'}, h('div', {class: 'wb-panel-head'}, h('h4', {title: about}, title, ' ', h('span', null, about)), ...tools), plot.node);

  // header
  const chip = h('span', {class: 'wb-phase', role: 'status'}), step = h('b'), facts = h('span', {class: 'wb-facts'});
  const bar = h('div', {class: 'wb-bar', role: 'progressbar', 'aria-label': 'steps done', 'aria-valuemin': 0, 'aria-valuemax': 100}, h('i'));
  const say = what => w.set({ask: {what, at: (w.get('ask')?.at ?? 0) + 1}});
  const pause = h('button', {onclick: () => say(w.get('phase') === 'paused' ? 'resume' : 'pause')});
  const stop = h('button', {onclick: () => say('stop')}, 'Stop');
  const note = h('div', {class: 'wb-soft wb-note'}), why = h('div', {class: 'wb-soft wb-note'});
  const recipes = h('div', {class: 'wb-row wb-recipes', role: 'group', 'aria-label': 'recipes'});

  // loss
  const log = h('input', {type: 'checkbox', onchange: e => w.set({log_losses: e.target.checked})});
  const span = h('select', {'aria-label': 'smoothing', onchange: e => w.set({smooth: Number(e.target.value)})});
  const term = h('select', {'aria-label': 'loss term', onchange: e => w.set({term: e.target.value})});
  const terms = h('div', {class: 'wb-legend'});
  const loss = chart(w, {label: 'losses over steps', height: 230});
  const smooth = h('label', null, 'smooth', span);
  const termBox = h('label', null, 'term', term);

  // densities
  const heat = map(w), which = h('select', {'aria-label': 'recipe of the densities', onchange: e => { shownMap = e.target.value; maps(); }});
  const whichBox = h('label', null, which);
  let shownMap = null;

  const target = h('span', {class: 'wb-target'});
  const plots = Object.fromEntries(PANELS.map(([key, name]) => [key, chart(w, {label: `${name} over steps`, height: 188})]));
  const lr = chart(w, {label: 'learning rate over steps', height: 82}), rate = chart(w, {label: 'tokens per second over steps', height: 82});
  const body = h('div', {class: 'wb-panels'},
    h('section', {class: 'wb-panel wb-wide'}, h('div', {class: 'wb-panel-head'}, h('h4', null, 'Loss'), termBox, smooth, h('label', null, log, 'log')), loss.node, terms),
    h('section', {class: 'wb-panel wb-wide'}, h('div', {class: 'wb-panel-head'}, h('h4', null, 'Densities ', h('span', null, 'share of latents by how often they fire')), whichBox), heat.node),
    ...PANELS.map(([key, name, about]) => panel(name, about, plots[key], key === 'l0' ? target : null)),
    h('section', {class: 'wb-panel'}, h('div', {class: 'wb-panel-head'}, h('h4', null, 'Learning rate')), lr.node,
      h('div', {class: 'wb-panel-head'}, h('h4', {title: 'mean since the run began or went on'}, 'Tokens per second ', h('span', null, 'mean so far'))), rate.node));
  const empty = h('div', {class: 'wb-empty'});
  w.root.append(h('header', {class: 'wb-head'}, h('div', {class: 'wb-row'}, chip, h('span', null, 'step ', step), facts), h('div', {class: 'wb-row wb-buttons'}, pause, stop)), bar, note, why, recipes, empty, body);

  function head() {
    const phase = w.get('phase'), [text, tone] = PHASES[phase] ?? [phase, 'idle'], at = w.get('head') ?? {}, gone = offline(w);
    const open = ['waiting', 'running', 'paused', 'stopping'].includes(phase);
    chip.className = `wb-phase wb-${tone}`;
    chip.textContent = gone && open ? `${text} when this page was made` : text;
    step.textContent = at.step == null ? '–' : count(at.step) + (at.steps ? ` / ${count(at.steps)}` : '');
    facts.replaceChildren(...[
      ['tokens', at.tokens == null ? '–' : big(at.tokens) + (at.budget ? ` / ${big(at.budget)}` : '')],
      ['tokens/s', at.rate == null ? '–' : big(at.rate)],
      ...(phase === 'running' && !gone ? [['ETA', at.eta == null ? '–' : long(at.eta)]] : []),
    ].map(([name, value]) => h('span', null, `${name} `, h('b', null, value))));
    const done = at.steps && at.step != null ? Math.min(1, at.step / at.steps) : null;
    bar.hidden = done == null;
    bar.firstChild.style.width = `${100 * (done ?? 0)}%`;
    bar.className = `wb-bar wb-${tone}`;
    bar.setAttribute('aria-valuenow', Math.round(100 * (done ?? 0)));
    note.textContent = at.note ?? '';
    note.hidden = !at.note;
    const {live, why: reason} = w.get('buttons') ?? {}, mine = live && !gone && ['waiting', 'running', 'paused'].includes(phase);
    pause.hidden = stop.hidden = !open;
    pause.disabled = stop.disabled = !mine;
    pause.textContent = phase === 'paused' ? 'Resume' : 'Pause';
    pause.title = gone ? NO_KERNEL : reason || (phase === 'paused' ? 'go on with the next step' : 'wait after the current step');
    stop.title = gone ? NO_KERNEL : reason || 'end after the current step; what was trained so far is kept';
    why.hidden = !open || (!gone && live);
    why.textContent = gone ? NO_KERNEL : reason ?? '';
  }

  const many = () => (w.get('curves')?.recipes ?? []).length > 1;
  function lines(pick, tint, name) {
    const {lines = [], recipes: all = []} = w.get('curves') ?? {}, hidden = w.get('hidden'), points = data, several = many();
    const wavy = new Set(lines.filter(l => l.mean).map(l => `${l.recipe} ${l.name}`));
    return lines.filter(l => pick(l) && !hidden.includes(all[l.recipe])).map(l => {
      const raw = !l.mean && wavy.has(`${l.recipe} ${l.name}`);
      return {name: name(l), color: tint(l), x: points.subarray(l.x, l.x + l.n), y: points.subarray(l.y, l.y + l.n), faint: raw, quiet: raw, wide: !several && l.name === 'total' && !raw};
    });
  }
  let data = new Float32Array(0);

  function curves() {
    data = floats('points');
    const {lines: all = [], recipes: names = [], targets = [], left = 0} = w.get('curves') ?? {}, several = many();
    const losses = [...new Set(all.filter(l => l.panel === 'loss').map(l => l.name))];
    const chosen = losses.includes(w.get('term')) ? w.get('term') : losses[0];
    fill(term, losses.map(name => [name, name]), chosen);
    termBox.hidden = !several;
    fill(span, SPANS.concat(SPANS.includes(w.get('smooth')) ? [] : w.get('smooth')).map(n => [n, n ? `${n} rows` : 'off']), w.get('smooth'));
    span.disabled = offline(w);
    span.title = offline(w) ? NO_KERNEL : 'draw the mean of the last rows of the log over the rows themselves';
    log.checked = w.get('log_losses');
    const x = {label: 'step', format: v => count(Math.round(v))}, mine = l => names[l.recipe] || l.name, own = l => l.recipe;
    const tint = l => (several ? l.recipe : l.name === 'total' ? 'var(--ink)' : losses.filter(n => n !== 'total').indexOf(l.name));
    const drawn = lines(l => l.panel === 'loss' && (!several || l.name === chosen), tint, l => (several ? mine(l) : l.name));
    loss.draw({x, y: {log: w.get('log_losses'), zero: !w.get('log_losses')}, series: drawn});
    terms.replaceChildren(...(several ? [] : losses.map(name => h('span', null, h('i', {style: {background: color(tint({name, recipe: 0}))}}), name))),
      left ? h('span', {class: 'wb-soft'}, `${left} more terms in the log`) : '');
    terms.hidden = several && !left;
    for (const [key] of PANELS) {
      const marks = key === 'l0' ? [...new Set(targets.filter((v, i) => v != null && !w.get('hidden').includes(names[i])))].map(v => ({y: v, fit: true})) : [];
      if (key === 'l0') target.replaceChildren(...(marks.length ? [h('i'), `target ${marks.map(m => number(m.y)).join(', ')}`] : []));
      plots[key].draw({x, y: {zero: true, ...(key === 'dead' ? {format: share} : {})}, series: lines(l => l.panel === key, own, several ? mine : l => l.name === 'l0' ? 'L0' : l.name === 'fvu' ? 'FVU' : 'dead'), marks});
    }
    lr.draw({x: {format: x.format}, y: {zero: true}, series: lines(l => l.panel === 'lr', own, several ? mine : () => 'lr')});
    rate.draw({x: {format: x.format}, y: {zero: true}, series: lines(l => l.panel === 'rate', own, several ? mine : () => 'tokens/s')});
    const hidden = w.get('hidden'), had = recipes.contains(document.activeElement) ? document.activeElement.dataset.i : null;
    recipes.hidden = !several;
    recipes.replaceChildren(...(several ? names.map((name, i) => h('button', {
      class: 'wb-recipe', 'data-i': i, 'aria-pressed': String(!hidden.includes(name)), title: hidden.includes(name) ? 'show' : 'hide',
      onclick: () => w.set({hidden: hidden.includes(name) ? hidden.filter(n => n !== name) : [...hidden, name]}),
    }, h('i', {style: {background: color(i)}}), h('bdi', null, name))) : []));
    if (had != null) recipes.querySelector(`[data-i="${had}"]`)?.focus();
    const none = !all.length;
    empty.hidden = !none;
    body.hidden = none;
    empty.textContent = w.get('phase') === 'waiting' ? 'Waiting for the first row of the log.' : w.get('phase') === 'running' ? 'No row yet.' : 'This run has no row to show.';
  }

  function maps() {
    const {maps: all = [], peak, least} = w.get('densities') ?? {}, values = floats('shares');
    const at = Math.max(0, all.findIndex(m => m.recipe === shownMap));
    fill(which, all.map((m, i) => [m.recipe, m.recipe || `recipe ${i}`]), all[at]?.recipe);
    whichBox.hidden = all.length < 2;
    let start = 0;
    for (const m of all.slice(0, at)) start += (m.steps.length - 1) * m.bins;
    heat.draw(all[at] && {...all[at], peak, least, values: values.subarray(start, start + (all[at].steps.length - 1) * all[at].bins)});
  }

  w.on('phase head buttons live', head);
  // new rows always change the bytes; what describes them may stay equal
  w.on('points hidden term log_losses live', curves);
  w.on('phase', () => { if (!empty.hidden) curves(); });
  w.on('shares', maps);
  head();
  curves();
  maps();
});

// The options of a select, touched only when they changed, so that an open list stays open.
function fill(select, options, value) {
  const key = JSON.stringify(options);
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    select.replaceChildren(...options.map(([v, text]) => h('option', {value: v}, text)));
  }
  select.value = value ?? '';
}

const LEVELS = 14;
// Time by density: how dark a cell is says which share of the latents fires so often.
function map(w) {
  const height = 230, svg = s('svg', {class: 'wb-plot', height, role: 'img'}), tip = h('div', {class: 'wb-tip', hidden: true, 'aria-hidden': 'true'});
  const said = h('div', {class: 'wb-said', role: 'status'}), node = h('div', {class: 'wb-chart', style: {height: height + 'px'}}, svg, tip, said);
  let given = null, width = 0, made = null, at = null;
  const watch = new ResizeObserver(() => { const now = Math.floor(node.clientWidth); if (now && now !== width) { width = now; render(); } });
  watch.observe(node);
  w.later(() => watch.disconnect());
  const name = bin => (bin === 0 ? 'never' : `${power(given.least + (bin - 1) / 2)} to ${power(given.least + bin / 2)} of rows`);

  function render() {
    if (!width) return;
    svg.setAttribute('width', width);
    tip.hidden = true;
    if (!given) {
      made = null;
      node.removeAttribute('tabindex');
      svg.replaceChildren(s('text', {class: 'wb-none', x: width / 2, y: height / 2, 'text-anchor': 'middle'}, 'this log holds no densities'));
      return;
    }
    const {steps, bins, values, peak} = given, columns = steps.length - 1, top = 20, bottom = height - 34, left = 46, right = width - 10;
    const gap = 6, tall = (bottom - top - gap) / bins, x = scale({tight: true}, [steps], left, right);
    const y = bin => (bin === 0 ? bottom - tall : bottom - gap - (bin + 1) * tall);
    const paths = Array.from({length: LEVELS}, () => []);
    for (let c = 0; c < columns; c++)
      for (let bin = 0; bin < bins; bin++) {
        const v = values[c * bins + bin];
        if (!(v > 0)) continue;
        const a = x.at(steps[c]), b = x.at(steps[c + 1]);
        paths[Math.min(LEVELS - 1, Math.floor(Math.sqrt(v / peak) * LEVELS))].push(`M${a.toFixed(1)} ${y(bin).toFixed(1)}H${(b + 0.3).toFixed(1)}v${(tall - 0.5).toFixed(1)}H${a.toFixed(1)}z`);
      }
    const out = [
      s('rect', {class: 'wb-map-back', x: left, y: top, width: right - left, height: bottom - gap - tall - top}),
      s('rect', {class: 'wb-map-back', x: left, y: bottom - tall, width: right - left, height: tall}),
      ...paths.map((p, i) => (p.length ? s('path', {class: 'wb-cell', d: p.join(''), style: {opacity: (0.08 + 0.92 * (i + 1) / LEVELS).toFixed(3)}}) : null)).filter(Boolean),
      s('text', {x: left - 6, y: bottom - tall / 2 + 3.5, 'text-anchor': 'end'}, 'never'),
    ];
    for (let bin = 1; bin <= bins; bin += 2) {
      const edge = y(bin) + tall, k = given.least + (bin - 1) / 2;
      if (bin < bins) out.push(s('text', {x: left - 6, y: edge + 3.5, 'text-anchor': 'end'}, power(k)), s('line', {class: 'wb-tick', x1: left - 4, x2: left, y1: edge, y2: edge}));
    }
    out.push(s('text', {x: left - 6, y: top + 7, 'text-anchor': 'end'}, '1'));
    for (const [v, text] of x.ticks(Math.max(2, Math.round((right - left) / 80)))) {
      const px = Math.min(x.at(v), width - 3.2 * text.length - 1);
      out.push(s('line', {class: 'wb-tick', x1: x.at(v), x2: x.at(v), y1: bottom, y2: bottom + 4}), s('text', {x: px, y: bottom + 15, 'text-anchor': 'middle'}, text));
    }
    out.push(s('text', {class: 'wb-axis-name', x: 1, y: 10}, 'share of rows'), s('text', {class: 'wb-axis-name', x: right, y: bottom + 29, 'text-anchor': 'end'}, 'step'));
    const key = 84, k0 = right - key - 40;
    for (let i = 0; i < LEVELS; i++) out.push(s('rect', {class: 'wb-cell', x: k0 + i * key / LEVELS, y: 3, width: key / LEVELS + 0.3, height: 8, style: {opacity: (0.08 + 0.92 * (i + 1) / LEVELS).toFixed(3)}}, s('title', null, 'grows with the square root of the share')));
    out.push(s('text', {x: k0 - 5, y: 11, 'text-anchor': 'end'}, '0'), s('text', {x: k0 + key + 5, y: 11}, `${(100 * peak).toFixed(0)} %`));
    const cursor = s('rect', {class: 'wb-cursor', visibility: 'hidden'});
    svg.replaceChildren(...out, cursor);
    svg.setAttribute('aria-label', `densities of latents over ${count(Math.round(steps[columns]))} steps; at the end ${share(values[(columns - 1) * bins])} never fire`);
    node.tabIndex = 0;
    made = {x, y, left, right, top, bottom, tall, columns, bins, cursor, steps, values};
    if (at) read(...at);
  }

  function read(c, bin, aloud = false) {
    const m = made;
    at = [c = Math.max(0, Math.min(m.columns - 1, c)), bin = Math.max(0, Math.min(m.bins - 1, bin))];
    const a = m.x.at(m.steps[c]), b = m.x.at(m.steps[c + 1]), from = Math.round(m.steps[c]), to = Math.round(m.steps[c + 1]);
    for (const [k, v] of Object.entries({x: a, y: m.y(bin), width: Math.max(2, b - a), height: m.tall, visibility: 'visible'})) m.cursor.setAttribute(k, v);
    const lines = [`steps ${count(from)} to ${count(to)}`, `fired on ${name(bin)}`, `${share(m.values[c * m.bins + bin])} of latents`];
    tip.replaceChildren(h('div', {class: 'wb-tip-head'}, lines[0]), h('div', null, bin ? lines[1] : 'never fired'), h('b', null, lines[2]));
    tip.hidden = false;
    tip.style.left = Math.max(0, b + 12 + tip.offsetWidth > width ? a - 12 - tip.offsetWidth : b + 12) + 'px';
    tip.style.top = Math.max(0, Math.min(height - tip.offsetHeight, m.y(bin) - tip.offsetHeight / 2)) + 'px';
    if (aloud) said.textContent = lines.join(', ');
  }
  function hide() { at = null; tip.hidden = true; made?.cursor.setAttribute('visibility', 'hidden'); }
  svg.addEventListener('pointermove', e => {
    if (!made) return;
    const box = svg.getBoundingClientRect(), px = e.clientX - box.left, py = e.clientY - box.top;
    if (px < made.left || px > made.right || py < made.top || py > made.bottom) return hide();
    const v = made.x.back(px), c = made.steps.findIndex((edge, i) => i && v <= edge) - 1;
    read(c < 0 ? made.columns - 1 : c, py > made.bottom - made.tall ? 0 : Math.floor((made.bottom - 6 - made.tall - py) / made.tall) + 1);
  });
  svg.addEventListener('pointerleave', hide);
  node.addEventListener('blur', hide);
  node.addEventListener('keydown', e => {
    const step = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[e.key];
    if (e.key === 'Escape') hide();
    if (!step || !made) return;
    const [c, bin] = at ?? [made.columns - 1, 0];
    read(c + (at ? step[0] : 0), bin + (at ? step[1] : 0), true);
    e.preventDefault();
  });
  return {node, draw(next) { given = next ?? null; render(); }};
}

const SUP = {'-': '⁻', 0: '⁰', 1: '¹', 2: '²', 3: '³', 4: '⁴', 5: '⁵', 6: '⁶', 7: '⁷', 8: '⁸', 9: '⁹'};
const power = k => (k === 0 ? '1' : Number.isInteger(k) ? '10' + [...String(k)].map(c => SUP[c]).join('') : number(10 ** k));
const big = n => (n >= 1e9 ? trim(n / 1e9) + ' G' : n >= 1e6 ? trim(n / 1e6) + ' M' : n >= 1e4 ? trim(n / 1e3) + ' k' : count(Math.round(n)));
const trim = x => String(Number(x.toPrecision(3)));
const long = sec => (sec >= 172800 ? `${Math.round(sec / 86400)} days` : sec >= 5400 ? `${Math.floor(sec / 3600)} h ${Math.round(sec % 3600 / 60)} min` : sec >= 90 ? `${Math.round(sec / 60)} min` : `${Math.ceil(sec)} s`);
