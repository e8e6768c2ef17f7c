import {card} from './lib/card.js';
import {copyCode} from './lib/copy.js';
import {h} from './lib/dom.js';
import {histogram} from './lib/histogram.js';
import {count, number, share, signed} from './lib/numbers.js';
import {table} from './lib/table.js';
import {quoted, strip, word} from './lib/tokens.js';
import {NO_KERNEL, define, offline} from './lib/widget.js';

export default define('wb-feature-dashboard', w => {
  const about = w.get('about'), view = {tab: 'top'}, parsed = new Map();
  const name = latent => w.get('names')[latent] ?? '';
  const go = latent => { if (Number.isInteger(latent) && latent >= 0 && latent < about.latents) w.set({latent}); };

  // ---- a card's data, from the page

  function cardOf(latent) {
    const kept = w.get('cards').find(c => c.latent === latent);
    if (!kept) return null;
    if (parsed.get(latent)?.text !== kept.card) parsed.set(latent, {text: kept.card, data: JSON.parse(kept.card)});
    const {data} = parsed.get(latent), near = {};
    for (const [kind, some] of Object.entries(data.near)) near[kind] = some.map(o => ({...o, label: name(o.latent)}));
    return {...data, near};
  }
  const inPage = latent => w.get('cards').some(c => c.latent === latent);
  const read = () => (w.get('reading') ? JSON.parse(w.get('reading')) : null);

  // ---- the table and what it is asked for

  let order = null; // without a kernel: the order of the rows that are here
  const ask = (change, page = 0) => w.set({query: {...w.get('query'), ...change, page}});
  let timer;
  const soon = change => { clearTimeout(timer); timer = setTimeout(() => ask(change), 200); };
  w.later(() => clearTimeout(timer));

  const by = h('select', {'aria-label': 'search in', onchange: () => ask({by: by.value})},
    h('option', {value: 'token'}, 'tokens'), h('option', {value: 'label'}, 'labels'));
  const search = h('input', {
    type: 'search', class: 'fd-search', placeholder: 'search', 'aria-label': 'search latents', spellcheck: 'false',
    oninput: () => soon(found(search.value)), onkeydown: e => { if (e.key === 'ArrowDown') focusRow(e); },
  });
  // the best found first, as long as a text is searched
  function found(text) {
    const q = w.get('query'), tokens = q.by === 'token';
    if (text && !q.search && tokens) return {search: text, sort: 'hits', descending: true};
    return !text && q.sort === 'hits' ? {search: text, sort: 'latent', descending: false} : {search: text};
  }
  const dead = h('select', {'aria-label': 'dead or alive', onchange: () => ask({dead: dead.value})},
    [['all', 'all latents'], ['alive', 'alive'], ['dead', 'dead']].map(([v, t]) => h('option', {value: v}, t)));
  const score = h('select', {'aria-label': 'score', onchange: () => ask({score: score.value, score_low: null, score_high: null, ...(w.get('query').sort === 'score' ? {sort: 'latent', descending: false} : {})})},
    h('option', {value: ''}, 'no score'), about.scores.map(n => h('option', {value: n}, n)));
  const bound = (key, label) => h('input', {
    class: 'fd-bound', inputmode: 'decimal', placeholder: label, 'aria-label': `score, ${label}`,
    onchange: e => { const v = e.target.value.trim() === '' ? null : Number(e.target.value); if (v === null || Number.isFinite(v)) ask({[key]: v}); },
  });
  const least = bound('score_low', 'least'), most = bound('score_high', 'most'), bounds = h('span', {class: 'wb-row fd-bounds'}, least, most);
  const bins = about.densities, edges = bins.length;
  const spread = h('div'), said = h('small');
  const slide = label => h('input', {type: 'range', min: 0, max: edges, step: 1, 'aria-label': label, oninput: () => drawSpread(), onchange: sendSpread});
  const low = slide('least density'), high = slide('largest density');
  low.value = 0;
  high.value = edges;
  const span = () => [Math.min(Number(low.value), Number(high.value)), Math.max(Number(low.value), Number(high.value))];
  function drawSpread() {
    const [a, b] = span(), at = i => (i < edges ? bins[i][0] : bins[edges - 1][1]);
    spread.replaceChildren(histogram(bins, {chosen: [a, b - 1], height: 34, unit: 'latents', say: share, label: 'latents by density'}));
    said.textContent = a === 0 && b === edges ? 'any density' : `${share(at(a))} to ${share(at(b))}`;
    for (const [slider, i] of [[low, low.value], [high, high.value]]) slider.setAttribute('aria-valuetext', share(at(Number(i))));
  }
  function sendSpread() {
    const [a, b] = span();
    ask({low: a === 0 ? null : bins[a]?.[0] ?? bins[edges - 1][1], high: b === edges ? null : bins[b][0]});
  }
  const reset = h('button', {class: 'fd-reset', onclick: () => ask({...about.query})}, 'Reset');
  const listed = h('div', {class: 'fd-listed'});
  const filters = h('div', {class: 'fd-filters'},
    h('div', {class: 'wb-row fd-find'}, search, h('label', null, 'in', by)),
    edges > 0 && h('div', {class: 'fd-density'}, h('h4', null, 'Density ', said), h('div', {class: 'fd-spread'}, spread, h('div', {class: 'fd-slides'}, low, high))),
    h('div', {class: 'wb-row'}, dead, about.scores.length > 0 && [score, bounds], reset));
  const browse = h('div', {class: 'fd-browse', role: 'tabpanel', 'aria-label': 'latents'}, filters, listed);

  function fillFilters() {
    const q = w.get('query'), here = document.activeElement;
    for (const [control, value] of [[by, q.by], [search, q.search], [dead, q.dead], [score, q.score], [least, q.score_low ?? ''], [most, q.score_high ?? '']])
      if (control !== here || control.tagName === 'SELECT') control.value = value;
    const near = (v, otherwise) => {
      if (v == null) return otherwise;
      let best = 0;
      for (let i = 0; i <= edges; i++) if (Math.abs((i < edges ? bins[i][0] : bins[i - 1][1]) - v) < Math.abs((best < edges ? bins[best][0] : bins[best - 1][1]) - v)) best = i;
      return best;
    };
    if (edges) {
      low.value = near(q.low, 0);
      high.value = near(q.high, edges);
      drawSpread();
    }
    bounds.hidden = !q.score;
    reset.hidden = Object.keys(about.query).every(k => k === 'page' || q[k] === about.query[k]);
    const off = offline(w);
    for (const control of [by, search, dead, score, least, most, low, high, reset]) control.disabled = off;
    filters.hidden = off;
  }

  const what = (token, row) => h('span', {class: 'fd-what', title: name(row.id) || null},
    name(row.id) ? h('bdi', {class: 'fd-label'}, name(row.id)) : row.dead ? h('small', null, 'dead') : word(token ?? ''),
    offline(w) && !inPage(row.id) && h('small', null, ' not in this page'));
  function drawList() {
    const {rows = [], found = 0, page = 0, pages = 1, chosen} = w.get('listing'), q = w.get('query'), off = offline(w);
    const had = listed.contains(document.activeElement) ? document.activeElement : null;
    const focus = had?.dataset.id ?? had?.dataset.key ?? had?.dataset.step;
    const columns = [
      {key: 'latent', label: 'latent', num: true, format: (_, row) => count(row.id)},
      {key: 'token', label: 'token or label', sort: false, title: 'the label, else the token it fires on most', format: what},
      {key: 'density', label: 'density', num: true, title: 'share of the rows on which it fires', format: share},
      !((q.search && q.by === 'token') || q.score) && {key: 'max', label: 'max', num: true, title: 'largest activation', format: number},
      q.search && q.by === 'token' && {key: 'hits', label: 'hits', num: true, title: 'strongest contexts whose token has the text', format: count},
      q.score && {key: 'score', label: q.score, title: q.score, num: true, format: number},
    ].filter(Boolean);
    const sort = off ? order : {key: q.sort, descending: q.descending};
    let shown = rows;
    if (order && off) {
      const sign = order.descending ? -1 : 1, key = order.key === 'latent' ? 'id' : order.key;
      shown = [...rows].sort((a, b) => (a[key] == null) - (b[key] == null) || sign * (a[key] - b[key]));
    }
    const turn = step => h('button', {
      'data-step': step, 'aria-label': step < 0 ? 'page before' : 'next page', disabled: off || page + step < 0 || page + step >= pages,
      onclick: () => ask({}, page + step),
    }, step < 0 ? '‹' : '›');
    listed.replaceChildren(
      h('div', {class: 'wb-row fd-count'}, h('small', {role: 'status'},
        off ? `${count(rows.length)} of ${count(about.latents)} latents in this page` : `${count(found)} of ${count(about.latents)} latents`),
        !chosen && pages > 1 && !off && h('span', {class: 'fd-pager'}, turn(-1), h('small', null, `${count(page + 1)} / ${count(pages)}`), turn(1))),
      rows.length
        ? table({
            columns, rows: shown, sort, picked: w.get('latent'), label: 'latents', onpick: go,
            onsort: (key, descending) => { if (off) { order = {key, descending}; drawList(); } else ask({sort: key, descending}); },
          })
        : h('div', {class: 'wb-empty'}, 'No latent is like this: widen the filters.'));
    if (focus != null) (listed.querySelector(`[data-id="${focus}"], [data-key="${focus}"], [data-step="${focus}"]:not(:disabled)`) ?? listed.querySelector('tr[tabindex="0"]'))?.focus();
  }
  function focusRow(e) {
    const row = listed.querySelector('tr[tabindex="0"]');
    if (row) { row.focus(); e.preventDefault(); }
  }
  listed.addEventListener('keydown', e => {
    const step = {PageDown: 1, PageUp: -1}[e.key], {page = 0, pages = 1} = w.get('listing');
    if (!step || offline(w)) return;
    e.preventDefault();
    if (page + step >= 0 && page + step < pages) ask({}, page + step);
  });

  // ---- a text of one's own

  const typed = h('textarea', {rows: 3, class: 'fd-text', placeholder: 'A text of yours: which latents fire on it?', 'aria-label': 'your text', onkeydown: e => { if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) send(); }});
  typed.value = w.get('text');
  const send = () => { if (!offline(w)) w.set({text: typed.value, at: -1}); };
  const rank = h('button', {class: 'wb-main', onclick: send, title: 'Ctrl+Enter'}, 'Rank latents');
  const ranked = h('div', {class: 'fd-ranked'});
  const own = h('div', {class: 'fd-own', role: 'tabpanel', 'aria-label': 'your text'}, typed, h('div', {class: 'wb-row'}, rank), ranked);
  function drawRanked() {
    const off = offline(w), got = read(), had = ranked.contains(document.activeElement) ? document.activeElement : null;
    const focus = had?.dataset.latent ? `[data-latent="${had.dataset.latent}"]` : had?.dataset.i ? `.fd-whole [data-i="${had.dataset.i}"]` : null;
    typed.disabled = rank.disabled = off || !about.subject;
    if (!got) {
      ranked.replaceChildren(h('div', {class: 'wb-empty'}, off ? NO_KERNEL : about.subject ? 'Type a text, then rank the latents that fire on it.' : 'To read a text, give the dashboard codec= and subject=.'));
      return;
    }
    const latent = w.get('latent');
    ranked.replaceChildren(
      h('h4', null, `Latent ${count(got.latent)} on the text`, got.marker == null && h('small', null, got.at < 0 ? '· does not fire' : '· does not fire there')),
      h('div', {class: 'fd-whole'}, strip(got.tokens, got.values, {
        label: `your text, latent ${got.latent}`, picked: got.at < 0 ? undefined : got.at,
        onpick: off ? undefined : at => w.set({at: at === w.get('at') ? -1 : at}),
      })),
      h('div', {class: 'wb-row fd-rankedby'}, h('h4', null,
        got.at < 0 ? `${count(got.fired)} latents fire, by their largest activation` : [`${count(got.fired)} latents fire at `, word(got.tokens[got.at]), `, position ${got.at}`]),
        got.at >= 0 && !off && h('button', {onclick: () => w.set({at: -1})}, 'Anywhere')),
      ...(got.rows.length
        ? [h('div', {class: 'fd-head'}, h('span', null, 'latent'), h('span', null, 'density'), h('span', null, 'activation')), h('ol', {class: 'fd-rank', onkeydown: step}, got.rows.map(row => h('li', {class: row.id === latent ? 'fd-here' : null},
            h('button', {class: 'fd-line', 'data-latent': row.id, 'aria-pressed': String(row.id === latent), onclick: () => go(row.id)},
              h('span', {class: 'fd-id'}, count(row.id)), h('span', {class: 'fd-what'}, name(row.id) ? h('bdi', {class: 'fd-label'}, name(row.id)) : word(row.token)),
              h('small', {title: `density ${share(row.density)}`}, share(row.density)),
              h('b', {title: `its largest anywhere: ${number(row.max)}`}, number(row.value))),
            strip(got.tokens.slice(row.first, row.first + row.values.length), row.values, {peak: row.max, first: row.first, label: `latent ${row.id} on your text`}))))]
        : [h('div', {class: 'wb-empty'}, got.at < 0 ? 'No latent fires on this text.' : 'No latent fires here (positions that the dictionary leaves out hold none).')]));
    if (focus) ranked.querySelector(focus)?.focus();
  }
  function step(e) {
    const move = {ArrowDown: 1, ArrowUp: -1}[e.key];
    if (!move || !e.target.matches('.fd-line')) return;
    const lines = [...ranked.querySelectorAll('.fd-line')];
    lines[lines.indexOf(e.target) + move]?.focus();
    e.preventDefault();
  }

  // ---- the card, or two

  const right = h('div', {class: 'fd-right'});
  let waits = false; // a label is being edited: nothing is drawn over it
  function drawCards() {
    if (right.querySelector('.lc-edit')) { waits = true; return; }
    waits = false;
    const had = right.contains(document.activeElement) ? document.activeElement : null;
    const key = had && (had.dataset.act ? `[data-act="${had.dataset.act}"]` : had.dataset.tab ? `[data-tab="${had.dataset.tab}"]` : had.matches('.lc-name') ? '.lc-name' : null);
    const latent = w.get('latent'), other = w.get('compare'), off = offline(w), got = read();
    const one = (i, held) => {
      const data = cardOf(i);
      if (!data) return h('div', {class: 'wb-empty'}, off ? `The card of latent ${count(i)} is not in this page. ${NO_KERNEL}` : `reading latent ${count(i)} …`);
      return card(data, {
        view, onlatent: go, label: name(i), marker: got && got.latent === i && w.get('view') === 'text' ? got.marker : null,
        onlabel: off ? undefined : label => { w.set({naming: {latent: i, label, n: (w.get('naming').n ?? 0) + 1}}); },
        actions: held ? null : other == null
          ? h('button', {'data-act': 'hold', title: 'keep this card, then choose another latent', onclick: () => w.set({compare: i})}, 'Compare with …') : null,
      });
    };
    frame.classList.toggle('fd-pairs', other != null);
    right.replaceChildren(...(other == null ? [one(latent)] : [
      between(other, latent),
      h('div', {class: 'fd-two'}, one(other, true), other === latent ? h('div', {class: 'wb-empty'}, 'Choose the latent to compare with: in the table, or among its neighbours.') : one(latent)),
    ]));
    if (had && !right.contains(document.activeElement)) {
      const next = (key && right.querySelector(key)) ?? right.querySelector('.wb-card');
      if (next?.matches('.wb-card')) next.tabIndex = -1;
      next?.focus({preventScroll: true});
    }
  }
  right.addEventListener('focusout', () => setTimeout(() => { if (waits) drawCards(); }));
  function between(a, b) {
    const p = w.get('pair'), known = p.a === a && p.b === b;
    const fact = (label, value, title) => h('span', {title}, h('small', null, label), ' ', value);
    const tokens = (title, lines) => lines.length > 0 && h('div', null, h('h4', null, title), h('table', null,
      h('thead', null, h('tr', null, ['token', count(a), count(b), 'difference'].map((t, i) => h('th', {class: i ? 'wb-num' : null, scope: 'col'}, t)))),
      h('tbody', null, lines.map(([token, x, y, apart]) => h('tr', null, h('td', {title: quoted(token)}, word(token)),
        [x, y, apart].map(v => h('td', {class: 'wb-num'}, v == null ? '–' : signed(v))))))));
    return h('section', {class: 'fd-between', 'aria-label': `latents ${a} and ${b} compared`},
      h('div', {class: 'wb-row'}, h('h3', null, a === b ? `Latent ${count(a)} and …` : `Latents ${count(a)} and ${count(b)}`), h('span', {class: 'lc-actions'},
        a !== b && h('button', {'data-act': 'swap', onclick: () => w.set({latent: a, compare: b})}, 'Swap'),
        h('button', {'data-act': 'end', onclick: () => w.set({compare: null})}, 'End comparison'))),
      a !== b && (known
        ? [h('div', {class: 'lc-facts'},
            about.codec && fact('cosine of the atoms', number(p.cosine)),
            fact('fire together in', `${count(p.both)} of ${count(p.either)} rows`, 'rows where both fire, of the rows where either does'),
            fact('Jaccard', number(p.jaccard), 'rows where both fire / rows where either does'),
            fact(`${count(a)} fires on`, `${count(p.fired[0])} rows`), fact(`${count(b)} fires on`, `${count(p.fired[1])} rows`)),
          (p.more.length > 0 || p.less.length > 0) && h('details', {class: 'fd-apart', open: view.apart, ontoggle: e => { view.apart = e.target.open; }},
            h('summary', null, 'Difference of their effects on the logits, per unit of activation'),
            h('div', {class: 'fd-tokens'}, tokens(`${count(a)} promotes more`, p.more), tokens(`${count(b)} promotes more`, p.less)))]
        : h('small', null, offline(w) ? 'Not compared in this page.' : 'comparing …')));
  }

  // ---- what was seen, the frame

  const jump = h('input', {type: 'number', min: 0, max: about.latents - 1, class: 'fd-jump', 'aria-label': 'go to latent', onchange: () => { if (jump.value !== '') go(Number(jump.value)); jump.value = w.get('latent'); }});
  const seen = h('span', {class: 'fd-seen'});
  function drawSeen() {
    const latent = w.get('latent'), had = seen.contains(document.activeElement) ? document.activeElement.dataset.seen : null;
    if (document.activeElement !== jump) jump.value = latent;
    jump.disabled = offline(w);
    const others = w.get('cards').map(c => c.latent).slice(0, 24);
    seen.replaceChildren(...(others.length > 1 ? [h('small', null, offline(w) ? 'in this page' : 'seen'), ...others.sort((a, b) => a - b).map(i =>
      h('button', {'data-seen': i, 'aria-pressed': String(i === latent), title: name(i) || `latent ${i}`, onclick: () => go(i)}, count(i)))] : []));
    if (had) seen.querySelector(`[data-seen="${had}"]`)?.focus();
  }
  const tabs = ['latents', 'text'].map(key => h('button', {
    role: 'tab', class: 'lc-tab', 'data-view': key, onclick: () => w.set({view: key}),
    onkeydown: e => {
      if (e.key !== 'ArrowLeft' && e.key !== 'ArrowRight') return;
      const next = tabs[1 - tabs.indexOf(e.target)];
      w.set({view: next.dataset.view});
      next.focus();
    },
  }, key === 'latents' ? 'Latents' : 'My text'));
  const left = h('div', {class: 'fd-left'}, h('div', {role: 'tablist', class: 'lc-tabs', 'aria-label': 'choose latents'}, tabs), browse, own);
  const frame = h('div', {class: 'fd'}, left, right);
  function drawView() {
    const now = w.get('view');
    for (const tab of tabs) {
      tab.setAttribute('aria-selected', String(tab.dataset.view === now));
      tab.tabIndex = tab.dataset.view === now ? 0 : -1;
    }
    browse.hidden = now !== 'latents';
    own.hidden = now !== 'text';
    frame.classList.toggle('fd-reads', now === 'text');
  }
  const python = v => (v == null ? 'None' : v === true ? 'True' : v === false ? 'False' : JSON.stringify(v));
  function code() {
    const q = w.get('query'), parts = [...about.call, `latent=${w.get('latent')}`];
    if (w.get('compare') != null) parts.push(`compare=${w.get('compare')}`);
    if (w.get('text')) parts.push(`text=${python(w.get('text'))}`, ...(w.get('at') >= 0 ? [`at=${w.get('at')}`] : []));
    const asked = Object.keys(about.query).filter(k => q[k] !== about.query[k]);
    if (asked.length) parts.push(`query={${asked.map(k => `${python(k)}: ${python(q[k])}`).join(', ')}}`);
    return `# ${about.provenance}\nfrom widgets import FeatureDashboard\n\nFeatureDashboard(\n    ${parts.join(',\n    ')},\n)`;
  }
  w.root.replaceChildren(
    h('div', {class: 'wb-row fd-top'}, h('label', null, 'latent', jump), h('small', {class: 'fd-about', title: about.provenance},
      `${count(about.latents)} latents, ${about.dead ? `${count(about.dead)} dead` : 'none dead'} in ${count(about.rows)} rows`), seen),
    frame, copyCode('Copy as a code cell', code));

  w.on('query live', fillFilters);
  w.on('listing query latent names cards live', drawList);
  w.on('reading latent names live', drawRanked);
  w.on('cards latent compare pair names reading view live', drawCards);
  w.on('cards latent names live', drawSeen);
  w.on('view', drawView);
  w.on('text', () => { if (document.activeElement !== typed) typed.value = w.get('text'); });
  for (const draw of [fillFilters, drawList, drawRanked, drawCards, drawSeen, drawView]) draw();
});
