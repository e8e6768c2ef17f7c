// The frame of every widget: theme, a line for errors and work, listeners that all go when the widget goes.
import {h} from './dom.js';

// draw(w) fills w.root. w.on(keys, f): a trait's change; w.listen(target, type, f); w.later(f): at clean-up.
export function define(name, draw) {
  return {
    render({model, el}) {
      const last = [], w = {
        model,
        root: h('div', {class: 'wb-body'}),
        get: key => model.get(key),
        set(values) {
          for (const [key, value] of Object.entries(values)) model.set(key, value);
          model.save_changes();
        },
        on(keys, f) {
          const events = keys.split(' ').map(k => 'change:' + k).join(' ');
          model.on(events, f);
          last.push(() => model.off(events, f));
        },
        listen(target, type, f, options) {
          target.addEventListener(type, f, options);
          last.push(() => target.removeEventListener(type, f, options));
        },
        later: f => last.push(f),
      };
      const status = h('div', {class: 'wb-status', role: 'status', 'aria-live': 'polite'});
      const frame = h('div', {class: `wb ${name}`}, w.root, status);
      // JupyterLab's own shortcuts must not hear keys meant for a widget, nor its cells a drag that begins here
      for (const type of ['keydown', 'mousedown']) frame.addEventListener(type, e => e.stopPropagation());
      frame.setAttribute('data-lm-suppress-shortcuts', 'true');
      el.replaceChildren(frame);
      last.push(themed(frame));
      const say = () => {
        const error = model.get('error'), busy = model.get('busy');
        status.replaceChildren(...(error ? [h('div', {class: 'wb-error', role: 'alert'}, error)] : busy ? [h('div', {class: 'wb-busy'}, busy)] : []));
      };
      w.on('error busy', say);
      say();
      draw(w);
      return () => {
        for (const f of last.reverse()) f();
        el.replaceChildren();
      };
    },
  };
}

// Follows JupyterLab's theme, else the system's; w.root's nearest .wb has class wb-dark or not.
function themed(frame) {
  const system = matchMedia('(prefers-color-scheme: dark)');
  const apply = () => {
    const lab = document.body.dataset.jpThemeLight;
    frame.classList.toggle('wb-dark', lab ? lab === 'false' : system.matches);
    frame.dispatchEvent(new CustomEvent('wb-theme'));
  };
  const watch = new MutationObserver(apply);
  watch.observe(document.body, {attributes: true, attributeFilter: ['data-jp-theme-light']});
  system.addEventListener('change', apply);
  apply();
  return () => {
    watch.disconnect();
    system.removeEventListener('change', apply);
  };
}

export const offline = w => !w.get('live');
// What to say where only a kernel could answer.
export const NO_KERNEL = 'This is a page without a kernel: open the notebook to compute more.';
