// Draws the widgets of a page from their state. There is no kernel: changes stay in the page.
(() => {
  const json = id => JSON.parse(document.getElementById(id)?.textContent || '{}');
  const bytes = text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const shared = json('wb-shared'), specs = json('wb-models'), models = {}, modules = {};

  function model(id) {
    if (models[id]) return models[id];
    const spec = specs[id], state = spec.state, heard = new Map();
    for (const {path, data} of spec.buffers) {
      let at = state;
      for (const key of path.slice(0, -1)) at = at[key] ??= {};
      at[path[path.length - 1]] = bytes(data);
    }
    const tell = (event, ...what) => [...(heard.get(event) ?? [])].forEach(f => f(...what));
    return models[id] = {
      name: spec.name,
      get: key => state[key],
      set(key, value) {
        for (const [k, v] of Object.entries(typeof key === 'string' ? {[key]: value} : key)) {
          if (state[k] === v) continue;
          state[k] = v;
          tell('change:' + k, this, v);
        }
        tell('change', this);
      },
      save_changes() {},
      send() {},
      on(events, f) { for (const e of events.split(' ')) heard.set(e, (heard.get(e) ?? new Set()).add(f)); },
      off(events, f) {
        if (!events) heard.clear();
        else for (const e of events.split(' ')) f ? heard.get(e)?.delete(f) : heard.delete(e);
      },
      widget_manager: {get_model: async other => model(other.replace('IPY_MODEL_', ''))},
    };
  }

  const module = key => modules[key] ??=
    import(URL.createObjectURL(new Blob([shared[key]], {type: 'text/javascript'}))).then(async m =>
      typeof m.default === 'function' ? m.default() : m.default ?? {render: m.render});

  function style(key) {
    if (!key || document.getElementById('wb-css-' + key)) return;
    const sheet = Object.assign(document.createElement('style'), {id: 'wb-css-' + key, textContent: shared[key]});
    document.head.append(sheet);
  }

  async function draw(id, el) {
    const spec = specs[id];
    if (!spec) return say(el, 'This page holds no state of the widget that stood here: run the notebook again.');
    const state = spec.state;
    if (spec.name === 'AnyModel') {
      style(state._css);
      const made = await module(state._esm);
      const given = {model: model(id), el, experimental: {invoke: async () => [{}, []]}};
      if (!given.model.ready) given.model.ready = Promise.resolve(made.initialize?.({model: given.model}));
      await given.model.ready;
      await made.render(given);
    } else if (/^(H|V|Grid)?BoxModel$/.test(spec.name)) {
      el.style.cssText = `display:flex;gap:12px;flex-wrap:wrap;flex-direction:${spec.name === 'VBoxModel' ? 'column' : 'row'}`;
      for (const child of state.children) {
        const inner = el.appendChild(document.createElement('div'));
        inner.style.minWidth = 0;
        inner.style.flex = spec.name === 'VBoxModel' ? 'none' : '1 1 300px';
        await draw(child.replace('IPY_MODEL_', ''), inner);
      }
    } else if (/^(Label|HTML|HTMLMath)Model$/.test(spec.name)) {
      el.textContent = new DOMParser().parseFromString(state.value ?? '', 'text/html').body.textContent;
    } else if (!/^(Layout|.*Style)Model$/.test(spec.name)) {
      say(el, `A control (${spec.name.replace(/Model$/, '')}) stood here: it works in the notebook only.`);
    }
  }

  function say(el, text) {
    el.append(Object.assign(document.createElement('p'), {className: 'note', textContent: text}));
  }

  document.addEventListener('DOMContentLoaded', () => {
    for (const el of document.querySelectorAll('.wb-view[data-model]'))
      draw(el.dataset.model, el).catch(error => {
        console.error(error);
        say(el, `This widget could not be drawn: ${error.message}`);
      });
  });
})();
