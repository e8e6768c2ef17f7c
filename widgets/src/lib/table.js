// A table to sort, walk through by keyboard and pick from. It shows what it is given: sorting and paging are the caller's.
import {h} from './dom.js';

// columns: [{key, label, num, title, format(value, row) -> text or element, sort: false}]; rows: plain objects with an `id`.
// sort: {key, descending}; onsort(key, descending); onpick(id); picked: an id; label: for screen readers.
export function table({columns, rows, sort, onsort, onpick, picked, label}) {
  const head = columns.map(c => {
    const on = sort?.key === c.key, down = on && sort.descending;
    const text = [c.label, on ? (down ? ' ▾' : ' ▴') : ''];
    return h('th', {
      class: c.num ? 'wb-num' : null, scope: 'col', title: c.title,
      'aria-sort': on ? (down ? 'descending' : 'ascending') : null,
    }, onsort && c.sort !== false
      ? h('button', {class: 'wb-sort', 'data-key': c.key, onclick: () => onsort(c.key, on ? !down : !!c.num)}, text) : text);
  });
  const start = rows.some(r => r.id === picked) ? picked : rows[0]?.id;
  const body = h('tbody', null, rows.map(row => h('tr', {
    'data-id': row.id, class: onpick ? 'wb-pick' : null, 'aria-selected': onpick ? String(row.id === picked) : null,
    tabindex: onpick ? (row.id === start ? 0 : -1) : null,
  }, columns.map(c => h('td', {class: c.num ? 'wb-num' : null}, c.format ? c.format(row[c.key], row) : String(row[c.key] ?? '–'))))));
  if (onpick) {
    const of = e => { const tr = e.target.closest('tr'); return tr && rows.find(r => String(r.id) === tr.dataset.id); };
    body.addEventListener('click', e => { if (!e.target.closest('button, input, a')) { const row = of(e); if (row) onpick(row.id); } });
    body.addEventListener('keydown', e => {
      if (e.target.tagName !== 'TR') return;
      const step = {ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling'}[e.key];
      if (step) {
        const next = e.target[step];
        if (next) { e.target.tabIndex = -1; next.tabIndex = 0; next.focus(); }
      } else if (e.key === 'Enter' || e.key === ' ') onpick(of(e).id);
      else return;
      e.preventDefault();
    });
  }
  return h('div', {class: 'wb-scroll'}, h('table', {'aria-label': label, role: onpick ? 'grid' : null}, h('thead', null, h('tr', null, head)), body));
}
