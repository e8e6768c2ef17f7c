// Bars over bins as SVG. Heights are square roots of counts, so that rare ones show.
import {h, s} from './dom.js';
import {count, number} from './numbers.js';

// bins: [low, high (null: no end), count], evenly wide on the screen. marker: a value to mark; chosen: [first, last] bins in
// colour, the others pale; unit: what is counted; say(value): how an edge reads; label: for screen readers.
export function histogram(bins, {marker, chosen, height = 70, unit = 'rows', say = number, label = 'histogram'} = {}) {
  const n = bins.length, most = Math.sqrt(bins.reduce((a, b) => Math.max(a, b[2]), 0)) || 1;
  const bars = bins.map(([low, high, many], i) => {
    const tall = many ? Math.max(1.5, (height * Math.sqrt(many)) / most) : 0;
    return s('rect', {
      class: chosen && (i < chosen[0] || i > chosen[1]) ? 'lc-pale' : null,
      x: i + 0.03, y: (height - tall).toFixed(1), width: 0.94, height: tall.toFixed(1),
    }, s('title', null, `${count(many)} ${unit} from ${say(low)}${high == null ? '' : ` to ${say(high)}`}`));
  });
  const at = marker == null || !n ? null : place(bins, marker) / n;
  return h('div', {class: 'lc-histogram'},
    s('svg', {viewBox: `0 0 ${n || 1} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label, style: {height: `${height}px`}}, bars),
    n > 0 && h('div', {class: 'lc-ends'}, h('span', null, say(bins[0][0])), h('span', null, bins[n - 1][1] == null ? '∞' : say(bins[n - 1][1]))),
    at != null && h('div', {class: 'lc-marker', title: `here: ${say(marker)}`, style: {left: `${(100 * at).toFixed(2)}%`, height: `${height}px`}},
      h('span', {style: {transform: `translateX(-${Math.round(100 * at)}%)`}}, say(marker))));
}

// where a value stands, in bins: by the logarithm inside a bin that does not begin at 0
function place(bins, value) {
  const i = bins.findIndex(([, high]) => high == null || value < high);
  if (i < 0) return bins.length;
  const [low, high] = bins[i];
  if (value <= low || high == null) return i + (high == null ? 0.5 : 0);
  return i + (low > 0 ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
}
