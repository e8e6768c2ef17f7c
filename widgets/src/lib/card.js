// A latent on one card. `data` is payload.card's; what it lacks is left away.
import {h} from './dom.js';
import {histogram} from './histogram.js';
import {count, number, share, signed} from './numbers.js';
import {quoted, strip, word} from './tokens.js';

const TABS = [['top', 'Strongest'], ['quantile', 'Over its range'], ['random', 'Random']];

// onlatent(latent): a neighbour was chosen. marker: an activation to mark in the histogram. label: shown in place of the
// card's own; onlabel(text): it was edited, without it it cannot be. actions: elements beside the title.
// view: {tab} is kept by the caller over redraws.
export function card(data, {onlatent, marker, label = data.label, onlabel, actions, view = {}} = {}) {
  const peak = data.max || 1;
  return h('section', {class: 'wb-card lc', 'data-latent': data.latent, 'aria-label': `latent ${data.latent}`},
    h('header', null,
      h('div', {class: 'wb-row lc-title'},
        h('h3', null, `Latent ${count(data.latent)}`),
        data.token && h('span', {class: 'lc-chip', title: 'the token it fires on most'}, word(data.token)),
        naming(data.latent, label, onlabel),
        actions && h('span', {class: 'lc-actions'}, actions)),
      facts(data)),
    data.dead && h('p', {class: 'lc-dead', role: 'note'},
      `Dead: it never fired in ${count(data.rows)} rows.`, data.effects ? ' Its atom still writes what is shown here.' : ''),
    h('div', {class: 'lc-sides'},
      h('div', {class: 'lc-side'},
        data.histogram.length > 0 && h('div', null,
          h('h4', null, 'Activations ', h('small', null, 'half octaves, √ rows')),
          histogram(data.histogram, {marker, label: 'histogram of activations'})),
        data.effects && effects(data.effects),
        near(data.near ?? {}, onlatent),
        data.scores?.length > 0 && h('div', null, h('h4', null, 'Scores'), h('dl', {class: 'lc-scores'},
          data.scores.map(([name, value]) => h('div', null, h('dt', null, name), h('dd', null, typeof value === 'string' ? value : number(value))))))),
      h('div', {class: 'lc-contexts'}, contexts(data, peak, view))),
    h('footer', null, h('small', null, data.provenance)));
}

function facts(data) {
  if (data.dead) return null;
  const fact = (name, value, title) => h('span', {title}, h('small', null, name), ' ', value);
  return h('div', {class: 'lc-facts'},
    fact('fires on', share(data.density), `${count(data.fired)} of ${count(data.rows)} rows`),
    fact('that is', `1 in ${count(Math.round(data.rows / data.fired))}`, `${count(data.fired)} of ${count(data.rows)} rows`),
    fact('mean when on', number(data.mean)),
    fact('max', number(data.max)));
}

function naming(latent, label, onlabel) {
  if (!onlabel) return label ? h('span', {class: 'lc-named'}, h('bdi', null, label)) : null;
  const place = h('span', {class: 'lc-naming'});
  const show = text => {
    const button = h('button', {class: text ? 'lc-name' : 'lc-name lc-unnamed', title: 'edit the label', onclick: () => edit(text)},
      text ? h('bdi', null, text) : 'add a label');
    place.replaceChildren(button);
    return button;
  };
  const edit = text => {
    let over = false;
    const end = (save, back) => {
      if (over) return;
      over = true;
      const now = save ? input.value.trim() : text, button = show(now);
      if (back) button.focus();
      if (now !== text) onlabel(now);
    };
    const input = h('input', {
      class: 'lc-edit', value: text, maxlength: 500, 'aria-label': `label of latent ${latent}`, placeholder: 'label',
      onblur: () => end(true),
      onkeydown: e => {
        if (e.key !== 'Enter' && e.key !== 'Escape') return;
        e.preventDefault(); // the button that takes the focus must not be pressed by the same key
        end(e.key === 'Enter', true);
      },
    });
    place.replaceChildren(input);
    input.focus();
    input.select();
  };
  show(label ?? '');
  return place;
}

function effects({plus, minus}) {
  const most = [...plus, ...minus].reduce((a, [, v]) => Math.max(a, Math.abs(v ?? 0)), 0) || 1;
  const list = (title, kind, rows) => h('div', {class: kind}, h('h4', null, title), rows.map(([token, value]) =>
    h('div', {class: 'lc-effect', style: {'--w': (Math.abs(value ?? 0) / most).toFixed(3)}, title: `${quoted(token)} ${signed(value)}`},
      word(token), h('small', null, signed(value)))));
  return h('div', {class: 'lc-effects', title: 'direct effect on the logits, per unit of activation'},
    list('Promotes', 'lc-plus', plus), list('Suppresses', 'lc-minus', minus));
}

function near({cosine, firing}, onlatent) {
  const line = (other, title) => {
    const inside = [h('span', null, count(other.latent)), h('bdi', null, other.label || word(other.token ?? '')), h('small', null, number(other.value))];
    return h(onlatent ? 'button' : 'div', {class: 'lc-near', title, onclick: onlatent && (() => onlatent(other.latent))}, inside);
  };
  const list = (title, note, rows, say) => rows && h('div', null, h('h4', {title: note}, title),
    rows.length ? rows.map(r => line(r, say(r))) : h('small', null, 'none'));
  return (cosine || firing) && h('div', {class: 'lc-nears'},
    list('Nearest by cosine', 'cosine of the atoms', cosine, r => `latent ${r.latent} ${quoted(r.token)}: cosine ${number(r.value)}`),
    list('Fires with', 'rows where both fire, of the rows where either does', firing,
      r => `latent ${r.latent} ${quoted(r.token)}: both in ${count(r.both)} rows, either in ${count(r.either)}`));
}

function contexts(data, peak, view) {
  const have = TABS.filter(([key]) => data[key]?.length);
  if (!have.length) return h('div', {class: 'wb-empty'}, 'no context to show');
  const panel = h('div', {role: 'tabpanel', class: 'lc-panel'});
  const tabs = have.map(([key, name]) => h('button', {role: 'tab', class: 'lc-tab', 'data-tab': key, onclick: () => show(key)}, name));
  const show = key => {
    view.tab = key;
    for (const tab of tabs) {
      const on = tab.dataset.tab === key;
      tab.setAttribute('aria-selected', String(on));
      tab.tabIndex = on ? 0 : -1;
    }
    panel.setAttribute('aria-label', have.find(([k]) => k === key)[1]);
    panel.replaceChildren(...(key === 'quantile'
      ? data.quantile.flatMap(q => [h('h5', null, `percentiles ${q.low} to ${q.high}`), ...q.contexts.map(c => line(c, peak))])
      : data[key].map(c => line(c, peak))));
  };
  show(have.some(([key]) => key === view.tab) ? view.tab : have[0][0]);
  return [h('div', {role: 'tablist', class: 'lc-tabs', 'aria-label': 'contexts', onkeydown: e => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[e.key], i = tabs.indexOf(e.target);
    if (!step || i < 0) return;
    const next = tabs[(i + step + tabs.length) % tabs.length];
    show(next.dataset.tab);
    next.focus();
    e.preventDefault();
  }}, tabs), panel];
}

function line(c, peak) {
  const where = `text ${c.text}, position ${c.first + c.center}`;
  return h('div', {class: 'lc-context'},
    h('span', {class: 'lc-value', title: where}, number(c.value)),
    strip(c.tokens, c.values, {peak, center: c.center, first: c.first, label: `${where}, activation ${number(c.value)}`}));
}
