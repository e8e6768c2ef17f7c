// Elements without markup: text from data only ever becomes text.
const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attrs, children) {
  for (const [key, value] of Object.entries(attrs ?? {})) {
    if (value == null || value === false) continue;
    if (key === 'style' && typeof value === 'object') for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (key in PROPERTIES) node[key] = value;
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter(c => c != null && c !== false));
  return node;
}
const PROPERTIES = {value: 1, checked: 1, selected: 1, disabled: 1, indeterminate: 1};

export const h = (name, attrs, ...children) => fill(document.createElement(name), attrs, children);
export const s = (name, attrs, ...children) => fill(document.createElementNS(SVG, name), attrs, children);
