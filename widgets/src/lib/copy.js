// "Copy as a code cell": the clipboard where the browser allows it; the code is shown either way, to be copied by hand.
import {h} from './dom.js';

export function copyCode(label, code) {
  const shown = h('pre', {class: 'wb-code', hidden: true, tabindex: 0}), said = h('span', {class: 'wb-soft', role: 'status'});
  const button = h('button', {onclick: async () => {
    shown.textContent = code();
    shown.hidden = false;
    const range = document.createRange();
    range.selectNodeContents(shown);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    try {
      await navigator.clipboard.writeText(shown.textContent);
      said.textContent = ' copied';
    } catch {
      said.textContent = ' select and copy';
    }
  }}, label);
  return h('div', {class: 'wb-copy'}, button, said, shown);
}
