import {chart} from './lib/chart.js';
import {copyCode} from './lib/copy.js';
import {h, s} from './lib/dom.js';
import {count, number} from './lib/numbers.js';
import {table} from './lib/table.js';
import {define, NO_KERNEL, offline} from './lib/widget.js';

const MOST = 50; // rows drawn until more are asked for
const BETTER = {higher: 'higher is better', lower: 'lower is better', none: 'no order'};
const good = v => v != null && Number.isFinite(v);

export default define('wb-scoreboard', w => {
  const {dictionaries, metrics, cells} = w.get('board'), place = Object.fromEntries(metrics.map((m, i) => [m.key, i]));
  const several = new Set(metrics.map(m => m.eval)).size > 1, once = m => metrics.filter(o => o.metric === m.metric).length === 1;

  const filter = h('input', {type: 'search', placeholder: 'filter dictionaries', 'aria-label': 'filter dictionaries by name', oninput: e => set({text: e.target.value})});
  const chosen = h('details', {class: 'wb-choose'}), said = h('span', {class: 'wb-soft', role: 'status'});
  const legend = h('div', {class: 'wb-key'},
    h('span', null, h('i', {class: 'wb-dot-key'}), 'best of all, or not told apart from it (intervals overlap)'),
    h('span', null, h('i', {class: 'wb-bar-key'}), '95 % interval'), h('span', null, h('i', {class: 'wb-chance-key'}), 'chance, ‹ › where it lies beyond the scale'), h('span', null, '– no score'));
  let most = MOST;
  const grid = h('div'), more = h('button', {class: 'wb-more', onclick: () => { most += 200; draw(); }}), plot = chart(w, {label: 'Pareto plot', height: 340});
  const axes = ['x', 'y'].map((name, i) => ({
    select: h('select', {'aria-label': `metric of the ${name} axis`, onchange: e => pair(i, e.target.value)}),
    log: h('input', {type: 'checkbox', 'aria-label': `log ${name} axis`, onchange: e => w.set({logs: w.get('logs').map((v, k) => (k === i ? e.target.checked : v))})}),
  }));
  const swap = h('button', {title: 'swap the axes', 'aria-label': 'swap the axes', onclick: () => { w.set({pair: [...w.get('pair')].reverse(), logs: [...w.get('logs')].reverse()}); }}, '⇄');
  const about = h('div', {class: 'wb-soft wb-about'}), card = h('section', {class: 'wb-card', 'aria-live': 'polite'});
  const [ax, ay] = axes;
  const pareto = h('section', {class: 'wb-pareto'},
    h('div', {class: 'wb-row'}, h('h4', null, 'Pareto'), h('label', null, ay.select), h('label', null, ay.log, 'log'), h('span', {class: 'wb-soft'}, 'against'), h('label', null, ax.select), h('label', null, ax.log, 'log'), swap),
    plot.node, about);
  w.root.append(
    h('div', {class: 'wb-row wb-tools'}, filter, chosen, said), grid, more, legend,
    h('div', {class: 'wb-lower'}, pareto, card), copyCode('Copy as CSV', csv));

  const set = change => w.set({only: {...w.get('only'), ...change}});
  const hidden = () => new Set(w.get('only').hidden ?? []);
  const columns = () => metrics.filter(m => !hidden().has(m.key));
  const matches = name => { const text = (w.get('only').text ?? '').trim().toLowerCase(); return !text || name.toLowerCase().includes(text); };

  // dictionaries that pass the filter, in the order asked for: what has no score stands last either way
  function order() {
    const {key, worst} = w.get('sort'), i = place[key], all = dictionaries.map((name, row) => ({name, row})).filter(d => matches(d.name));
    if (key === '' && worst != null && w.get('sort').names) return all.sort((a, b) => (worst ? -1 : 1) * a.name.localeCompare(b.name, 'en', {numeric: true}));
    if (i == null || metrics[i].direction === 'none') return all;
    const sign = (metrics[i].direction === 'higher' ? -1 : 1) * (worst ? -1 : 1), at = d => cells[d.row][i]?.[0];
    return all.sort((a, b) => (at(a) == null) - (at(b) == null) || sign * ((at(a) ?? 0) - (at(b) ?? 0)));
  }

  function cell(c, m, row) {
    if (!c) return h('span', {class: 'wb-missing', title: `no ${m.metric} of ${dictionaries[row]}`}, '–', h('span', {class: 'wb-said'}, 'no score'));
    const [value, low, high, chance, n, unit] = c, best = m.best.includes(row), [a, b] = m.axis, at = v => 4 + 66 * Math.min(1, Math.max(0, (v - a) / (b - a)));
    const say = [`${number(value)}${good(low) && good(high) ? ` [${number(low)}, ${number(high)}]` : ' without an interval'}`, good(chance) && `chance ${number(chance)}`, n != null && `n = ${count(n)}${m.counted ? ' ' + m.counted : ''}`, unit ?? m.unit, best && 'best, or not told apart from it'].filter(Boolean).join(' · ');
    const beyond = good(chance) && (chance < a || chance > b);
    return h('span', {class: 'wb-score' + (best ? ' wb-best' : ''), title: say},
      h('span', {class: 'wb-value'}, best ? h('i', {'aria-hidden': 'true'}) : null, number(value), best ? h('span', {class: 'wb-said'}, ' best') : null),
      s('svg', {width: 74, height: 13, 'aria-hidden': 'true'},
        s('line', {class: 'wb-rail', x1: 4, x2: 70, y1: 6.5, y2: 6.5}),
        beyond ? s('path', {class: 'wb-far', d: chance < a ? 'M5 3.5L1 6.5L5 9.5' : 'M69 3.5L73 6.5L69 9.5'}) : good(chance) ? s('line', {class: 'wb-chance', x1: at(chance), x2: at(chance), y1: 0.5, y2: 12.5}) : null,
        good(low) && good(high) ? s('line', {class: 'wb-span', x1: at(low), x2: Math.max(at(high), at(low) + 0.5), y1: 6.5, y2: 6.5}) : null,
        s('circle', {class: 'wb-mid', cx: at(value), cy: 6.5, r: 2.6})));
  }

  function draw() {
    const {key, worst, names} = w.get('sort'), shown = columns(), all = order(), focused = focus();
    const rows = all.slice(0, Math.max(most, all.findIndex(d => d.name === w.get('picked')) + 1));
    more.hidden = rows.length === all.length;
    more.textContent = `${all.length - rows.length} more dictionaries`;
    const {scrollTop = 0, scrollLeft = 0} = grid.firstChild ?? {}, down = i => (metrics[i].direction === 'higher') !== !!worst;
    const heads = shown.map(m => ({
      key: m.key, num: true, sort: m.direction === 'none' ? false : undefined,
      title: [m.key, m.unit, BETTER[m.direction], m.direction === 'none' ? 'it ranks nothing' : ''].filter(Boolean).join(' · '),
      label: h('span', {class: 'wb-metric'}, several ? h('small', null, m.eval) : null, h('span', null, m.metric), h('small', null, BETTER[m.direction])),
      format: (none, row) => cell(cells[row.row][place[m.key]], m, row.row),
    }));
    grid.replaceChildren(shown.length && rows.length ? table({
      columns: [{key: '', label: 'dictionary', format: (v, row) => h('bdi', {title: row.id}, row.id)}, ...heads],
      rows: rows.map(({name, row}) => ({id: name, row})),
      sort: names ? {key: '', descending: !!worst} : place[key] == null ? null : {key, descending: down(place[key])},
      onsort: to => w.set({sort: {key: to, worst: (to === key && (to !== '' || names)) ? !worst : false, names: to === ''}}),
      onpick: name => w.set({picked: name === w.get('picked') ? '' : name}), picked: w.get('picked'), label: 'scores',
    }) : h('div', {class: 'wb-empty'}, shown.length ? 'No dictionary has this in its name: clear the filter.' : 'No metric is chosen: open “Metrics” and choose some.'));
    const table_ = grid.querySelector('table');
    if (table_) { table_.classList.add('wb-board'); grid.firstChild.tabIndex = 0; grid.firstChild.setAttribute('role', 'region'); grid.firstChild.setAttribute('aria-label', 'scores, scrolls'); }
    Object.assign(grid.firstChild, {scrollTop, scrollLeft});
    if (focused) grid.querySelector(focused)?.focus({preventScroll: true});
    legend.hidden = !table_;
    said.textContent = all.length < dictionaries.length ? `${all.length} of ${dictionaries.length} dictionaries` : `${dictionaries.length} dictionar${dictionaries.length === 1 ? 'y' : 'ies'}`;
    if (document.activeElement !== filter) filter.value = w.get('only').text ?? '';
    choose();
  }

  function focus() {
    const at = grid.contains(document.activeElement) ? document.activeElement : null;
    if (!at) return null;
    return at.dataset.id != null ? `tr[data-id="${CSS.escape(at.dataset.id)}"]` : at.dataset.key != null ? `button[data-key="${CSS.escape(at.dataset.key)}"]` : null;
  }

  // what may be shown, by eval
  function choose() {
    const off = hidden(), groups = [...new Set(metrics.map(m => m.eval))].map(name => [name, metrics.filter(m => m.eval === name)]), had = chosen.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const toggle = (keys, on) => set({hidden: on ? [...off].filter(k => !keys.includes(k)) : [...new Set([...off, ...keys])]});
    chosen.replaceChildren(h('summary', null, `Metrics ${metrics.length - off.size} of ${metrics.length}`), h('div', {class: 'wb-menu'}, groups.map(([name, list]) => {
      const keys = list.map(m => m.key), on = keys.filter(k => !off.has(k)).length;
      return h('fieldset', null,
        several && name ? h('legend', null, h('label', null, h('input', {type: 'checkbox', 'data-key': 'eval ' + name, checked: on === keys.length, indeterminate: on > 0 && on < keys.length, onchange: e => toggle(keys, e.target.checked)}), name)) : null,
        list.map(m => h('label', null, h('input', {type: 'checkbox', 'data-key': m.key, checked: !off.has(m.key), onchange: e => toggle([m.key], e.target.checked)}), m.metric)));
    })));
    if (had != null) chosen.querySelector(`[data-key="${CSS.escape(had)}"]`)?.focus();
  }

  function pair(i, key) {
    const now = [...w.get('pair')];
    if (now[1 - i] === key) now.reverse(); else now[i] = key;
    w.set({pair: now});
  }

  function scatter() {
    const now = w.get('pair').map(key => place[key]), [i, j] = now;
    pareto.hidden = i == null || j == null;
    if (pareto.hidden) return;
    const [mx, my] = [metrics[i], metrics[j]], ranked = mx.direction !== 'none' && my.direction !== 'none';
    for (const [a, key] of [[ax, mx.key], [ay, my.key]]) {
      if (!a.select.options.length) a.select.append(...metrics.map(m => h('option', {value: m.key}, once(m) ? m.metric : m.key)));
      a.select.value = key;
    }
    const all = dictionaries.map((name, row) => ({name, row, x: cells[row][i], y: cells[row][j]})), both = all.filter(d => d.x && d.y), lost = all.filter(d => !(d.x && d.y));
    const logs = w.get('logs').map((v, k) => { const able = both.every(d => (k ? d.y : d.x)[0] > 0), box = axes[k].log; box.disabled = !able; box.checked = v && able; return v && able; });
    const found = i === j ? null : w.get('fronts')[`${Math.min(i, j)} ${Math.max(i, j)}`], standing = found?.standing ?? dictionaries.map(() => 2);
    const group = (kind, style, tint) => {
      const list = both.filter(d => matches(d.name) && (ranked && found ? standing[d.row] === kind : kind === 2));
      const col = (axis, k) => list.map(d => d[axis][k]);
      return {name: kind === 2 ? 'on the front' : kind === 1 ? 'near it' : 'dominated', kind: 'points', style, color: tint, named: both.length <= 14 || (kind === 2 && list.length <= 8), ids: list.map(d => d.name), names: list.map(d => d.name),
        x: col('x', 0), y: col('y', 0), xlow: col('x', 1), xhigh: col('x', 2), low: col('y', 1), high: col('y', 2)};
    };
    const series = [group(0, 'faint', 'var(--soft)'), group(1, 'hollow', 'var(--accent)'), group(2, 'full', 'var(--accent)')];
    const steps = found && (i < j ? found.line : [found.line[1], found.line[0]]);
    if (steps?.[0].length) series.unshift({name: 'front', x: steps[0], y: steps[1], color: 'color-mix(in srgb, var(--accent) 60%, transparent)', quiet: true});
    const level = (m, k, axis) => [...new Set(both.map(d => d[axis][3]).filter(good))].slice(0, 3).map(v => ({[axis]: v, label: 'chance'}));
    const arrow = (m, up, down) => (m.direction === 'higher' ? up : m.direction === 'lower' ? down : '');
    const name = m => [m.metric, m.unit && m.unit !== m.metric ? `(${m.unit})` : ''].join(' ').trim();
    plot.draw({
      x: {name: mx.metric, label: `${name(mx)}${arrow(mx, '  → better', '  ← better')}`, log: logs[0]}, y: {name: my.metric, label: `${name(my)}${arrow(my, '  ↑ better', '  ↓ better')}`, log: logs[1]}, series,
      marks: [...level(mx, 0, 'x'), ...level(my, 1, 'y')], onpick: id => w.set({picked: id === w.get('picked') ? '' : id}), picked: w.get('picked'),
    });
    about.replaceChildren(...[
      i === j ? 'Choose two different metrics.' : !ranked ? `${[mx, my].filter(m => m.direction === 'none').map(m => m.metric).join(' and ')} ha${mx.direction === my.direction ? 've' : 's'} no direction, so there is no front.`
        : !found ? (offline(w) ? NO_KERNEL : 'The front is being made.') : null,
      ranked && found ? h('span', {class: 'wb-key'}, h('span', null, h('i', {class: 'wb-full-key'}), 'on the front'), h('span', null, h('i', {class: 'wb-hollow-key'}), 'behind it, but within the intervals'), h('span', null, h('i', {class: 'wb-faint-key'}), 'dominated')) : null,
      lost.length ? h('span', null, ` Without both scores: ${lost.slice(0, 5).map(d => d.name).join(', ')}${lost.length > 5 ? ` and ${lost.length - 5} more` : ''}.`) : null,
    ].filter(Boolean));
  }

  function detail() {
    const name = w.get('picked'), row = dictionaries.indexOf(name);
    if (row < 0) {
      card.replaceChildren(h('div', {class: 'wb-empty'}, 'Click a row or a point to see all that is known of a dictionary.'));
      return;
    }
    card.replaceChildren(
      h('div', {class: 'wb-row'}, h('h3', null, h('bdi', null, name)), h('button', {class: 'wb-close', 'aria-label': 'show none', title: 'show none', onclick: () => w.set({picked: ''})}, '×')),
      h('table', {'aria-label': `scores of ${name}`}, h('thead', null, h('tr', null, ['metric', 'value', '95 % interval', 'chance', 'n'].map((t, k) => h('th', {scope: 'col', class: k ? 'wb-num' : null}, t)))), h('tbody', null, metrics.map((m, i) => {
        const c = cells[row][i];
        return h('tr', null, h('td', {title: m.key}, m.metric, h('small', null, c?.[5] ?? m.unit)), c
          ? [h('td', {class: 'wb-num'}, number(c[0])), h('td', {class: 'wb-num'}, good(c[1]) && good(c[2]) ? `${number(c[1])} … ${number(c[2])}` : 'none'), h('td', {class: 'wb-num'}, number(c[3])), h('td', {class: 'wb-num', title: m.counted || null}, count(c[4]))]
          : h('td', {class: 'wb-soft', colspan: 4}, 'no score'));
      }))));
  }

  function csv() {
    const quote = v => (v == null ? '' : /[",\n\r]/.test(String(v)) ? `"${String(v).replaceAll('"', '""')}"` : String(v));
    const lines = [['dictionary', 'eval', 'metric', 'value', 'low', 'high', 'unit', 'direction', 'chance', 'n']];
    for (const {name, row} of order())
      for (const m of columns()) {
        const c = cells[row][place[m.key]];
        if (c) lines.push([name, m.eval, m.metric, c[0], c[1], c[2], c[5] ?? m.unit, m.direction, c[3], c[4]]);
      }
    return lines.map(l => l.map(quote).join(',')).join('\n') + '\n';
  }

  const shut = () => { chosen.open = false; };
  w.listen(document, 'pointerdown', e => { if (!chosen.contains(e.target)) shut(); });
  chosen.addEventListener('keydown', e => { if (e.key === 'Escape') { shut(); chosen.firstChild.focus(); } });
  w.on('sort', draw);
  w.on('only', () => { draw(); scatter(); });
  w.on('pair logs fronts live', scatter);
  // the picked row comes into view of its table, the page stays where it is
  function reveal() {
    const box = grid.firstChild, row = grid.querySelector('tr[aria-selected="true"]'), head = grid.querySelector('thead');
    if (!row) return;
    const top = row.offsetTop - head.offsetHeight, end = row.offsetTop + row.offsetHeight - box.clientHeight;
    if (box.scrollTop > top) box.scrollTop = top;
    else if (box.scrollTop < end) box.scrollTop = end;
  }
  w.on('picked', () => { draw(); reveal(); scatter(); detail(); });
  draw();
  scatter();
  detail();
});
