import {scaleLinear, scaleLog} from 'd3-scale';
import {copyCode} from './lib/copy.js';
import {h, s} from './lib/dom.js';
import {count, number, share} from './lib/numbers.js';
import {plain, strip, word} from './lib/tokens.js';
import {define, NO_KERNEL, offline} from './lib/widget.js';

const RANGES = {add: [-2, 2, 0.05], clamp: [0, 2, 0.05], scale: [0, 10, 0.1]};
const START = {add: 0.25, clamp: 0.25, scale: 2, ablate: 0};
const METHODS = {add: 'add its direction', clamp: 'hold at', scale: 'scale', ablate: 'ablate'};
const WHERE = {both: 'prompt and new', prompt: 'prompt only', generated: 'new tokens only'};
const ARMS = {clean: 'Default', steered: 'Steered', random: 'Random push of equal norm'};
const PEAK = 5; // nats of the deepest colour

// the same value, in whatever order its keys are
function same(a, b) {
  if (a === b) return true;
  if (!a || !b || typeof a !== 'object' || typeof b !== 'object') return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every(k => same(a[k], b[k]));
}
// as typed: no more digits than were given
const given = x => String(Number(x.toPrecision(6))).replace('-', '−');
const plus = x => (x > 0 ? '+' : '') + given(x);
const key = line => `${line.of} ${line.name}`;
const on = settings => (settings?.lines ?? []).filter(l => l.on);

export default define('wb-steering-desk', w => {
  const about = w.get('about'), live = !offline(w);
  const settings = () => w.get('settings');
  const change = part => w.set({settings: {...settings(), ...part}});
  const changeLine = (i, part) => change({lines: settings().lines.map((l, j) => (j === i ? {...l, ...part} : l))});
  const ask = what => w.set({request: {do: what, n: (w.get('request').n ?? 0) + 1}});
  const named = line => (line.of === 'latent' ? `latent ${line.name}` : line.name);

  // ---- what is pushed
  const head = h('div', {class: 'wb-row wb-sd-head'});
  const lines = h('div', {class: 'wb-sd-lines', role: 'group', 'aria-label': 'what is pushed'}), more = h('div', {class: 'wb-row wb-sd-more'});
  let rows = [], shape = '';

  function makeRow(line, i) {
    const name = named(line), said = text => `${text}, ${name}`;
    const set = h('input', {type: 'checkbox', role: 'switch', class: 'wb-sd-switch', 'aria-label': said('on'), onchange: e => changeLine(i, {on: e.target.checked})});
    const title = h('div', {class: 'wb-sd-name'});
    const method = h('select', {'aria-label': said('method'), onchange: e => changeLine(i, {method: e.target.value, strength: (e.target.value === 'scale') === (settings().lines[i].method === 'scale') && settings().lines[i].method !== 'ablate' ? settings().lines[i].strength : START[e.target.value]})});
    const give = e => {
      const value = e.target.value.trim() === '' ? NaN : Number(e.target.value);
      if (Number.isFinite(value)) changeLine(i, {strength: value});
      else update(settings().lines[i]);
    };
    const range = h('input', {type: 'range', 'aria-label': said('strength'), oninput: e => { num.value = e.target.value; says(settings().lines[i], Number(e.target.value)); }, onchange: give});
    const num = h('input', {type: 'number', step: 'any', 'aria-label': said('strength as a number'), onchange: give});
    const unit = h('span', {class: 'wb-sd-unit'});
    const where = h('select', {'aria-label': said('where it acts'), onchange: e => changeLine(i, {where: e.target.value})}, Object.entries(WHERE).map(([v, label]) => h('option', {value: v}, label)));
    const drop = h('button', {class: 'wb-sd-drop', title: `remove ${name}`, 'aria-label': `remove ${name}`, onclick: () => change({lines: settings().lines.filter((_, j) => j !== i)})}, '×');
    const node = h('div', {class: 'wb-sd-line', role: 'group', 'aria-label': name}, set, title, method, h('div', {class: 'wb-sd-strength'}, range, num, unit), where, drop);

    function says(line, strength) {
      const fact = w.get('known')[key(line)], norm = fact && w.get('norms')[fact.site]?.norm;
      const text = line.method === 'scale' ? ['× its activation'] : line.method === 'ablate' ? ['activation 0']
        : norm == null ? ['× residual norm']
        : line.method === 'add' ? ['× residual norm', ` = ${number(strength * norm)} long`]
        : ['× residual norm', ` = activation ${number(strength * norm / fact.length)}`];
      unit.replaceChildren(text[0], ...(text[1] ? [h('small', null, text[1])] : []));
    }
    function update(line) {
      const fact = w.get('known')[key(line)], [low, high, step] = RANGES[line.method] ?? [0, 1, 1];
      set.checked = line.on;
      node.classList.toggle('wb-sd-off', !line.on);
      title.replaceChildren(h('bdi', null, plain(named(line))), ...(fact?.label ? [h('small', {title: fact.label}, h('bdi', null, plain(fact.label)))] : []), h('small', {class: 'wb-sd-site'}, fact?.site ?? '…'));
      const methods = fact?.methods ?? [line.method];
      method.replaceChildren(...methods.map(m => h('option', {value: m, selected: m === line.method}, METHODS[m])));
      method.value = line.method;
      Object.assign(range, {min: Math.min(low, line.strength), max: Math.max(high, line.strength), step});
      range.value = num.value = line.strength;
      num.value = String(Number(line.strength.toPrecision(6)));
      range.hidden = num.hidden = line.method === 'ablate';
      where.value = line.where;
      says(line, line.strength);
    }
    return {node, update};
  }
  function drawLines() {
    const now = settings().lines, is = JSON.stringify(now.map(key));
    if (is !== shape) {
      const at = [...lines.children].findIndex(n => n.contains(document.activeElement));
      shape = is;
      rows = now.map(makeRow);
      lines.replaceChildren(...(rows.length ? rows.map(r => r.node) : [h('div', {class: 'wb-empty'}, 'Nothing is pushed: add a latent or a vector below.')]));
      if (at >= 0) (lines.children[Math.min(at, rows.length - 1)]?.querySelector('input') ?? more.querySelector('input, select'))?.focus();
    }
    rows.forEach((r, i) => r.update(now[i]));
  }
  const add = (of, name) => change({lines: [...settings().lines, {of, name, on: true, method: 'add', strength: START.add, where: 'both'}]});
  function drawMore() {
    const made = [];
    if (about.latents) {
      const which = h('input', {type: 'number', min: 0, max: about.latents - 1, step: 1, placeholder: `0 – ${about.latents - 1}`, 'aria-label': 'latent to add', onkeydown: e => { if (e.key === 'Enter') go(); }});
      const go = () => {
        const n = Number(which.value);
        if (which.value !== '' && Number.isInteger(n) && n >= 0 && n < about.latents) { which.value = ''; add('latent', n); } else which.focus();
      };
      made.push(h('span', {class: 'wb-sd-pair'}, which, h('button', {onclick: go}, 'Add latent')));
    }
    const names = Object.keys(about.vectors);
    if (names.length) {
      const which = h('select', {'aria-label': 'vector to add'}, names.map(n => h('option', {value: n}, plain(n))));
      made.push(h('span', {class: 'wb-sd-pair'}, which, h('button', {onclick: () => add('vector', which.value)}, 'Add vector')));
    }
    more.replaceChildren(...made);
  }

  // ---- how it is generated
  const prompt = h('textarea', {rows: 2, spellcheck: 'false', 'aria-label': 'prompt', onchange: e => { if (e.target.value.trim()) change({prompt: e.target.value}); else e.target.value = settings().prompt; }, onkeydown: e => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) { e.preventDefault(); prompt.dispatchEvent(new Event('change')); ask('run'); }
  }});
  const field = (label, name, low, high, step) => {
    const input = h('input', {type: 'number', min: low, max: high, step, onchange: e => {
      const v = e.target.value.trim() === '' ? NaN : Number(e.target.value);
      if (v >= low && v <= high && (step === 'any' || Number.isInteger(v))) change({[name]: v});
      else e.target.value = settings()[name];
    }});
    return [h('label', null, label, input), input];
  };
  const [newLabel, newTokens] = field('new tokens', 'new', 1, about.longest, 1);
  const [temperatureLabel, temperature] = field('temperature', 'temperature', 0, 99, 'any');
  const [seedLabel, seed] = field('seed', 'seed', 0, 2 ** 53 - 1, 1);
  const chat = h('input', {type: 'checkbox', onchange: e => change({chat: e.target.checked})});
  const run = h('button', {class: 'wb-main', title: 'Ctrl+Enter in the prompt', onclick: () => ask('run')}, 'Run');
  const stop = h('button', {onclick: () => ask('stop')}, 'Stop');
  const control = h('button', {title: 'the same norms at the same places, in one random direction', onclick: () => w.set({control: !w.get('control')})}, 'Random control');
  const reset = h('button', {onclick: () => w.set({settings: w.get('first')})}, 'Reset');
  const controls = h('fieldset', {class: 'wb-sd-fields', disabled: !live, 'aria-label': 'settings'},
    lines, more,
    h('div', {class: 'wb-sd-ask'}, h('label', {class: 'wb-sd-prompt'}, 'prompt', prompt), h('div', {class: 'wb-row'}, newLabel, temperatureLabel, seedLabel, about.chat ? h('label', null, chat, 'as a chat') : null)));
  const copy = h('div', {class: 'wb-sd-copy'});
  const buttons = h('div', {class: 'wb-row wb-sd-buttons'}, live ? [run, stop] : null, control, live ? reset : null, copy, live ? null : h('span', {class: 'wb-soft'}, NO_KERNEL));

  function drawSettings() {
    const now = settings();
    if (prompt.value !== now.prompt) prompt.value = now.prompt;
    newTokens.value = now.new;
    temperature.value = now.temperature;
    seed.value = now.seed;
    chat.checked = now.chat;
  }
  function drawHead() {
    const norms = Object.entries(w.get('norms'));
    head.replaceChildren(h('h3', null, 'Steering desk'), h('span', {class: 'wb-soft'}, h('bdi', null, plain(about.model))),
      ...norms.map(([site, n]) => h('span', {class: 'wb-sd-chip', title: `median over ${count(n.positions)} kept positions of the ${n.held_out ? 'held-out texts' : 'prompt'}`}, `${site}: residual norm ${number(n.norm)}`)));
  }

  // ---- what came out
  const out = h('div', {class: 'wb-sd-out'}), tip = h('div', {class: 'wb-sd-tip', role: 'tooltip', hidden: true});
  let pinned = null, code = null;

  const summary = made => [
    ...(on(made).length ? on(made).map(l => `${plain(named(l))} ${l.method === 'ablate' ? 'ablated' : `${l.method} ${l.method === 'scale' ? '×' + given(l.strength) : plus(l.strength)}`}${l.where === 'both' ? '' : ` (${WHERE[l.where]})`}`) : ['no line on']),
    `${made.new} tokens`, `temperature ${given(made.temperature)}`, `seed ${made.seed}`, ...(made.chat ? ['chat'] : []),
  ].join(' · ');

  // an arm of the run, with what is written so far
  function arm(name) {
    const kept = w.get('run').arms?.[name], now = w.get('writing');
    return kept?.state === 'running' ? {...kept, tokens: now.arm === name ? now.tokens : []} : kept;
  }
  function status(arm, made) {
    const n = arm.tokens.length, running = made.state === 'running';
    if (arm.state === 'waiting') return running ? 'waits' : 'not generated';
    const of = `${count(n)} ${arm.state === 'done' ? (n === 1 ? 'token' : 'tokens') : `of ${count(made.settings.new)} tokens`}`;
    if (arm.state === 'running') return running ? of : `${of}, ${made.state}`;
    return `${of}${arm.state === 'stopped' ? ', stopped' : ''} · perplexity ${number(arm.perplexity)}`;
  }
  function column(name, arm, made) {
    const text = made.settings.prompt, end = text.length > 70 ? '…' + text.slice(-70) : text;
    const label = ARMS[name];
    const body = h('div', {class: 'wb-sd-text'}, h('bdi', {class: 'wb-sd-given', title: 'the prompt'}, plain(end)));
    if (arm.tokens.length) {
      const node = strip(arm.tokens, arm.change.length ? arm.change : arm.tokens.map(() => null), {
        peak: PEAK, label: `${label}: tokens`, picked: pinned?.name === name ? pinned.i : undefined,
        onpick: i => { pinned = pinned?.name === name && pinned.i === i ? null : {name, i}; mark(); },
      });
      for (const t of node.querySelectorAll('.wb-t')) { t.setAttribute('aria-label', t.title); t.removeAttribute('title'); }
      if (arm.clean.length) {
        const over = e => { const t = e.target.closest?.('.wb-t'); if (t) show(name, Number(t.dataset.i)); };
        node.addEventListener('pointerover', over);
        node.addEventListener('focusin', over);
        for (const type of ['pointerleave', 'focusout']) node.addEventListener(type, rest);
      }
      body.append(node);
    }
    return h('section', {class: `wb-sd-column wb-sd-${name}`, 'data-arm': name, 'aria-label': label},
      h('div', {class: 'wb-sd-title'}, h('b', null, label), h('small', {title: 'perplexity: the default model’s on these tokens'}, status(arm, made))), body);
  }
  function mark() {
    for (const t of out.querySelectorAll('.wb-t')) {
      const is = pinned != null && Number(t.dataset.i) === pinned.i && t.closest('[data-arm]').dataset.arm === pinned.name;
      t.classList.toggle('wb-picked', is);
      t.setAttribute('aria-selected', String(is));
    }
    rest();
  }
  function rest() {
    if (pinned) show(pinned.name, pinned.i);
    else tip.hidden = true;
  }
  function show(name, i) {
    const arm = w.get('run').arms?.[name], at = out.querySelector(`[data-arm="${name}"] [data-i="${i}"]`);
    if (!arm || !at || arm.clean[i] === undefined) { tip.hidden = true; return; }
    const row = (label, v) => [h('span', null, label), h('b', null, `${number(v)} nats`), h('span', {class: 'wb-soft'}, share(v == null ? null : Math.exp(v)))];
    const other = name === 'random' ? 'random push' : 'steered';
    tip.replaceChildren(
      h('div', {class: 'wb-sd-token'}, h('b', null, '“', word(arm.tokens[i]), '”'), h('span', {class: 'wb-soft'}, `new token ${i + 1}`)),
      h('div', {class: 'wb-sd-nats'}, ...row('default', arm.clean[i]), ...row(other, arm.edited[i])),
      h('h4', null, `likeliest here, ${name === 'clean' ? 'default' : other}`),
      h('div', {class: 'wb-sd-top'}, arm.top[i].map(([token, v]) => [
        h('span', {class: token === arm.tokens[i] ? 'wb-sd-taken' : null}, word(token)),
        h('span', {class: 'wb-sd-bar'}, h('i', {style: {width: `${100 * Math.exp(v ?? -99)}%`}})), h('span', {class: 'wb-soft'}, share(v == null ? null : Math.exp(v))),
      ])));
    tip.hidden = false;
    const box = w.root.getBoundingClientRect(), t = at.getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(t.left - box.left, box.width - tip.offsetWidth))}px`;
    tip.style.top = `${t.bottom - box.top + 5}px`;
  }
  function drawRun() {
    const made = w.get('run'), shown = w.get('control');
    control.setAttribute('aria-pressed', String(shown));
    control.disabled = !live && !made.arms?.random;
    const active = document.activeElement, had = out.contains(active) ? [active.closest('[data-arm]')?.dataset.arm, active.dataset.i] : null;
    if (!made.arms) {
      out.replaceChildren(h('div', {class: 'wb-empty'}, live ? 'Run generates the text without an edit and with it, side by side.' : 'No run was made before this page was written.'));
    } else {
      const names = ['clean', 'steered', ...(shown ? ['random'] : [])];
      const waiting = {tokens: [], state: 'waiting', clean: []};
      out.replaceChildren(
        h('div', {class: 'wb-row wb-sd-made'}, h('b', null, `Run ${made.number}`), h('small', {class: 'wb-sd-summary'}, summary(made.settings)),
          made.state === 'stopped' ? h('span', {class: 'wb-sd-chip'}, 'stopped') : null, made.state === 'failed' ? h('span', {class: 'wb-sd-chip wb-sd-moved'}, 'failed') : null,
          same(made.settings, settings()) ? null : h('span', {class: 'wb-sd-chip wb-sd-moved', role: 'status'}, 'settings have moved since')),
        h('div', {class: `wb-sd-columns wb-sd-of-${names.length}`}, names.map(name => column(name, arm(name) ?? waiting, made))),
        h('div', {class: 'wb-sd-legend'}, h('small', null, 'log-probability with the edits less the default’s, nats'), h('span', {class: 'wb-sd-scale'}, `−${PEAK}`, h('i'), `+${PEAK}`)));
      if (had?.[0]) out.querySelector(`[data-arm="${had[0]}"] [data-i="${had[1]}"]`)?.focus();
    }
    if (code !== (made.code ?? '')) {
      code = made.code ?? '';
      copy.replaceChildren(code ? copyCode('Copy as a code cell', () => code) : h('button', {disabled: true, title: 'after a run'}, 'Copy as a code cell'));
    }
    rest();
  }

  // ---- KL and perplexity against strength
  const sweep = h('button', {onclick: () => ask('sweep')}, 'Sweep');
  const chart = h('section', {class: 'wb-sd-chart', 'aria-label': 'KL and perplexity against strength'}), body = h('div', null);
  const bar = h('progress', {max: 1, 'aria-label': 'share of the sweep done'}), told = h('span', {class: 'wb-row'});
  chart.append(h('div', {class: 'wb-row'}, h('h3', null, 'Against strength'), live ? sweep : null, bar, told), body);

  function panel(curve, metric, title, log) {
    const W = Math.max(280, Math.min(760, (body.clientWidth - 20) / 2)), H = 216, left = 52, right = 12, top = 10, bottom = 38;
    const all = Object.values(curve.arms).flat(), xs = [0, curve.set, ...all.map(p => p.x)];
    const ys = [...all.flatMap(p => [p[metric], ...p[`${metric}_points`]]), ...(log && curve.clean ? [curve.clean] : [])].filter(v => v != null && (!log || v > 0));
    if (!ys.length) return h('figure', null, h('h4', null, title), h('div', {class: 'wb-empty'}, 'no finite value'));
    const x = scaleLinear([Math.min(...xs), Math.max(...xs)], [left, W - right]);
    const low = Math.min(...ys), high = Math.max(...ys);
    const y = (log ? scaleLog([low / 1.15, high * 1.15], [H - bottom, top]) : scaleLinear([0, high > 0 ? high * 1.06 : 1], [H - bottom, top]).nice(4));
    let ticks = log ? y.ticks(4) : y.ticks(4);
    if (log && ticks.length > 5) ticks = ticks.filter(v => /^[125]/.test(v.toExponential()));
    if (log && ticks.length > 5) ticks = ticks.filter(v => /^1/.test(v.toExponential()));
    if (log && ticks.length < 2) ticks = [low, high];
    const path = points => points.filter(p => p[metric] != null).map((p, i) => `${i ? 'L' : 'M'}${x(p.x).toFixed(1)},${y(p[metric]).toFixed(1)}`).join('');
    const said = name => curve.arms[name].map(p => `${number(p.x)}: ${number(p[metric])}`).join(', ');
    return h('figure', null, h('h4', null, title), s('svg', {width: W, height: H, role: 'img', 'aria-label': `${title}. Steered: ${said('steered')}. Random push: ${said('random')}.`},
      ticks.map(v => [s('line', {class: 'wb-sd-grid', x1: left, x2: W - right, y1: y(v), y2: y(v)}), s('text', {x: left - 7, y: y(v) + 4, 'text-anchor': 'end'}, v < 1e5 && v >= 1e-3 ? given(v) : number(v))]),
      x.ticks(6).map(v => s('text', {x: x(v), y: H - bottom + 17, 'text-anchor': 'middle'}, given(v))),
      s('line', {class: 'wb-sd-axis', x1: left, x2: W - right, y1: H - bottom, y2: H - bottom}),
      s('line', {class: 'wb-sd-set', x1: x(curve.set), x2: x(curve.set), y1: top, y2: H - bottom}, s('title', null, `as set: ${number(curve.set)}`)),
      s('text', {class: 'wb-sd-label', x: (left + W - right) / 2, y: H - 4, 'text-anchor': 'middle'}, curve.axis),
      log && curve.clean ? s('line', {class: 'wb-sd-clean-line', x1: left, x2: W - right, y1: y(curve.clean), y2: y(curve.clean)}, s('title', null, `no edit: ${number(curve.clean)}`)) : null,
      ['random', 'steered'].map(name => s('g', {class: `wb-sd-arm-${name}`}, s('path', {d: path(curve.arms[name])}),
        curve.arms[name].flatMap(p => p[`${metric}_points`].filter(v => v != null).map(v => s('circle', {cx: x(p.x), cy: y(v), r: 2.6}, s('title', null, `${ARMS[name]} at ${number(p.x)}: ${number(v)} (mean ${number(p[metric])})`))))))));
  }
  function drawCurve() {
    const curve = w.get('curve'), shown = curve.arms?.steered?.length > 0;
    bar.hidden = curve.state !== 'running';
    bar.value = curve.done ?? 0;
    const moved = shown && !same([on(curve.settings), curve.settings.seed], [on(settings()), settings().seed]);
    told.replaceChildren(...(shown ? [
      ['steered', 'steered'], ['random', 'random push'], ['clean-line', 'no edit'],
    ].map(([name, label]) => h('span', {class: `wb-sd-key wb-sd-key-${name}`}, label)) : []),
      ...(curve.state === 'stopped' ? [h('span', {class: 'wb-sd-chip'}, 'stopped')] : []),
      ...(moved ? [h('span', {class: 'wb-sd-chip wb-sd-moved'}, 'settings have moved since')] : []));
    sweep.disabled = !about.held_out;
    if (!shown) {
      body.replaceChildren(h('div', {class: 'wb-empty'}, !about.held_out ? 'Give SteeringDesk(held_out=[texts]) to measure KL and perplexity against strength.'
        : live ? `Sweep measures KL and perplexity on ${count(about.held_out)} held-out texts at shares of the strengths set, beside a random push of equal norm.` : 'No sweep was made before this page was written.'));
      return;
    }
    const cells = (name, metric) => curve.arms[name].map(p => h('td', {class: 'wb-num'}, number(p[metric])));
    const open = body.querySelector('details')?.open;
    body.replaceChildren(
      h('div', {class: 'wb-sd-panels'}, panel(curve, 'kl', 'KL(default ‖ edited), nats per position', false), panel(curve, 'perplexity', 'perplexity of held-out text, log scale', true)),
      h('small', null, `${summary(curve.settings).split(' · ').slice(0, on(curve.settings).length).join(' · ')}, at all kept positions of the held-out texts. Lines: mean of ${curve.seeds} ${curve.seeds === 1 ? 'group' : 'groups'} of texts, each with its own random direction; points: the groups. Upright: as set.`),
      h('details', {open}, h('summary', null, 'as numbers'), h('div', {class: 'wb-scroll'}, h('table', {'aria-label': 'the curves as numbers'},
        h('thead', null, h('tr', null, h('th', {scope: 'col'}, curve.axis), curve.arms.steered.map(p => h('th', {class: 'wb-num', scope: 'col'}, number(p.x))))),
        h('tbody', null, [['steered', 'kl', 'KL, steered'], ['random', 'kl', 'KL, random push'], ['steered', 'perplexity', 'perplexity, steered'], ['random', 'perplexity', 'perplexity, random push']]
          .map(([name, metric, label]) => h('tr', null, h('th', {scope: 'row'}, label), cells(name, metric))))))));
  }

  // ---- earlier runs
  const before = h('div', {class: 'wb-sd-before'});
  function drawRuns() {
    const runs = w.get('runs'), open = new Set([...before.querySelectorAll('details[open]')].map(d => d.dataset.n));
    before.replaceChildren(...(runs.length ? [h('h3', null, 'Earlier runs')] : []), ...runs.map(r => h('details', {'data-n': r.number, open: open.has(String(r.number))},
      h('summary', null, h('b', null, `Run ${r.number} `), h('small', null, summary(r.settings))),
      Object.entries(ARMS).filter(([name]) => r.texts[name]).map(([name, label]) => h('div', {class: 'wb-sd-old'}, h('small', null, label), h('bdi', null, plain(r.texts[name]).replaceAll('⏎', '\n').trim()))),
      h('div', {class: 'wb-row'}, live ? h('button', {onclick: () => w.set({settings: r.settings})}, 'Use these settings') : null, copyCode('Copy as a code cell', () => r.code)))));
  }

  // ---- all of it
  function drawBusy() {
    const busy = !!w.get('busy');
    stop.disabled = !busy;
    bar.hidden = w.get('curve').state !== 'running' || !busy;
  }
  w.on('settings', () => { drawLines(); drawSettings(); drawRun(); drawCurve(); });
  w.on('known norms', () => { drawHead(); drawLines(); });
  w.on('run writing control', drawRun);
  w.on('runs', drawRuns);
  w.on('curve', drawCurve);
  w.on('busy', drawBusy);
  w.listen(w.root, 'keydown', e => { if (e.key === 'Escape' && !tip.hidden) { pinned = null; mark(); } });
  w.root.classList.add('wb-sd');
  w.root.append(head, controls, buttons, out, chart, before, tip);
  drawHead();
  drawLines();
  drawMore();
  drawSettings();
  drawRun();
  drawCurve();
  drawRuns();
  drawBusy();
  let wide = body.clientWidth;
  const watch = new ResizeObserver(() => { if (body.clientWidth !== wide) { wide = body.clientWidth; drawCurve(); } });
  watch.observe(body);
  w.later(() => watch.disconnect());
});
