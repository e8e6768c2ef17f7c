// Tokens as people can read them: blanks and controls get signs, right-to-left text stays in its own place.
import {h} from './dom.js';
import {number} from './numbers.js';

const SIGNS = {'\n': '⏎', '\r': '␍', '\t': '⇥'};
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Cs}\p{Zl}\p{Zp}\p{Zs}]/u;
const EMOJI_JOINS = /[\u200d\ufe0f\u{e0020}-\u{e007f}]/u; // they belong to the sign before them

// [text, whether it is a sign that stands for a character] pieces of a token
export function pieces(token) {
  if (!token) return [['∅', true]];
  const blank = !token.trim(), found = [];
  for (const c of token) {
    const sign = c === ' ' ? (blank ? '·' : null) : SIGNS[c]
      ?? (HIDDEN.test(c) && !(EMOJI_JOINS.test(c) && found.length) ? `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}` : null);
    const last = found[found.length - 1];
    if (last && last[1] === (sign != null)) last[0] += sign ?? c;
    else found.push([sign ?? c, sign != null]);
  }
  return found;
}
export const plain = token => pieces(token).map(p => p[0]).join('');
export const quoted = token => `“${plain(token)}”`;
// a token as an element that cannot reorder its neighbours
export const word = token => h('bdi', {class: 'wb-word'}, pieces(token).map(([text, sign]) => (sign ? h('i', null, text) : text)));

// Background of a token: warm above zero, cold below, empty where there is no value.
export function heat(value, peak) {
  if (value == null || !Number.isFinite(value) || value === 0) return null;
  const strength = Math.min(1, 0.12 + 0.88 * Math.abs(value) / (peak || 1));
  return {'--a': strength.toFixed(3), '--hue': value > 0 ? 'var(--hot)' : 'var(--cold)'};
}

// A run of tokens, each with its value as background. One token is in the tab order; arrows move, `onpick(i)` is told.
// values[i]: null where there is none. Tokens beyond `most` are drawn when asked for.
export function strip(tokens, values, {peak, center, first = 0, label, unit = '', onpick, onhover, picked, most = 2000} = {}) {
  const top = peak ?? values.reduce((a, v) => Math.max(a, Math.abs(Number.isFinite(v) ? v : 0)), 0);
  const root = h('div', {class: 'wb-strip', role: onpick ? 'listbox' : 'list', 'aria-label': label ?? 'tokens'});
  const say = i => `${quoted(tokens[i])} · ${values[i] == null || Number.isNaN(values[i]) ? 'no value' : number(values[i]) + unit} · position ${first + i}`;
  let drawn = 0;
  const make = i => {
    const v = values[i], none = v == null || !Number.isFinite(v);
    const node = h('span', {
      class: 'wb-t' + (i === center ? ' wb-on' : '') + (none ? ' wb-none' : '') + (i === picked ? ' wb-picked' : ''),
      role: onpick ? 'option' : 'listitem', 'aria-selected': onpick ? String(i === picked) : null,
      style: heat(v, top), title: say(i), 'data-i': i, tabindex: onpick ? (i === (picked ?? 0) ? 0 : -1) : null,
    }, word(tokens[i]));
    return [node, /\n\n$/.test(tokens[i]) ? h('br') : h('wbr')];
  };
  const more = h('button', {class: 'wb-more', onclick: () => draw(drawn + most)});
  function draw(upto) {
    const end = Math.min(tokens.length, upto), made = document.createDocumentFragment();
    for (; drawn < end; drawn++) made.append(...make(drawn));
    more.remove();
    root.append(made);
    if (drawn < tokens.length) {
      more.textContent = `${tokens.length - drawn} more tokens`;
      root.append(more);
    }
  }
  draw(Math.max(most, (picked ?? 0) + 1));
  const at = e => { const t = e.target.closest?.('.wb-t'); return t && root.contains(t) ? Number(t.dataset.i) : null; };
  if (onpick) {
    root.addEventListener('click', e => { const i = at(e); if (i != null) onpick(i); });
    root.addEventListener('keydown', e => {
      const i = at(e);
      if (i == null) return;
      if (e.key === 'Enter' || e.key === ' ') onpick(i);
      else if (e.key === 'ArrowRight' || e.key === 'ArrowLeft') {
        const next = root.querySelector(`[data-i="${i + (e.key === 'ArrowRight' ? 1 : -1)}"]`);
        if (!next) return;
        e.target.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      } else return;
      e.preventDefault();
      e.stopPropagation();
    });
  }
  if (onhover) {
    root.addEventListener('pointerover', e => { const i = at(e); if (i != null) onhover(i); });
    root.addEventListener('pointerleave', () => onhover(null));
  }
  return root;
}
