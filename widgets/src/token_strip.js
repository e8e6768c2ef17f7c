import {h} from './lib/dom.js';
import {strip} from './lib/tokens.js';
import {define} from './lib/widget.js';

export default define('wb-token-strip', w => {
  function draw() {
    const {tokens = [], values = []} = w.get('strip'), label = w.get('label'), picked = w.get('picked');
    w.root.replaceChildren(
      ...(label ? [h('h4', null, label)] : []),
      tokens.length
        ? strip(tokens, values, {
            peak: w.get('peak'), label, unit: w.get('unit'), picked: picked < 0 ? undefined : picked,
            onpick: i => w.set({picked: i}),
          })
        : h('div', {class: 'wb-empty'}, 'no token'),
    );
  }
  w.on('strip peak label unit', draw);
  w.on('picked', () => {
    const had = w.root.contains(document.activeElement);
    draw();
    if (had) w.root.querySelector('.wb-picked')?.focus();
  });
  draw();
});
