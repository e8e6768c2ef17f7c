// Numbers as people read them. null, NaN and infinities have signs of their own.
export function number(x) {
  if (x == null || Number.isNaN(x)) return '–';
  if (!Number.isFinite(x)) return x > 0 ? '∞' : '−∞';
  if (x === 0) return '0';
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) return x.toExponential(2).replace('-', '−');
  return grouped(x.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size)))));
}
export const signed = x => (x > 0 ? '+' : '') + number(x);
export const count = n => (n == null ? '–' : grouped(String(n)));
export const share = x => (x == null || Number.isNaN(x) ? '–' : x === 0 ? '0' : x >= 1e-4 ? (100 * x).toFixed(2) + ' %' : Math.round(1e6 * x) + ' per million');

function grouped(text) {
  const [whole, rest] = text.split('.');
  return whole.replace(/\B(?=(\d{3})+$)/g, ',').replace('-', '−') + (rest ? '.' + rest : '');
}
