// One sealed module and one stylesheet for each widget: src/NAME.js -> static/NAME.js, src/NAME.css -> static/NAME.css.
// `node build.mjs NAME` builds one of them. static/sources.json says which sources the committed files were built from,
// static/LICENSES.txt carries the licences of what others wrote in them.
import {build} from 'esbuild';
import {createHash} from 'node:crypto';
import {existsSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';

const only = process.argv[2], packages = new Set();
const names = readdirSync('src').filter(f => f.endsWith('.js')).map(f => f.slice(0, -3)).filter(n => !only || n === only);
for (const name of names) {
  const common = {bundle: true, minify: true, legalComments: 'none', logLevel: 'warning', metafile: true};
  const made = await build({...common, entryPoints: [`src/${name}.js`], outfile: `static/${name}.js`, format: 'esm', target: 'es2022'});
  await build({...common, entryPoints: [`src/${name}.css`], outfile: `static/${name}.css`});
  for (const path of Object.keys(made.metafile.inputs)) {
    const found = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path);
    if (found) packages.add(found[1]);
  }
}

if (!only) {
  const licences = [...packages].sort().map(name => {
    const {version, license} = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
    const file = ['LICENSE', 'LICENSE.md', 'LICENSE.txt', 'license', 'LICENCE'].map(f => `node_modules/${name}/${f}`).find(existsSync);
    return `${name} ${version} (${license})\n\n${file ? readFileSync(file, 'utf8').trim() : 'no licence file in the package'}\n`;
  });
  writeFileSync('static/LICENSES.txt', 'Parts of the modules in this folder were written by others:\n\n' + licences.join('\n' + '-'.repeat(80) + '\n\n'));
  const files = folder => readdirSync(folder, {withFileTypes: true}).sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap(f => (f.isDirectory() ? files(`${folder}/${f.name}`) : [`${folder}/${f.name}`]));
  const hash = createHash('sha256');
  for (const path of [...files('src').sort(), 'package-lock.json', 'build.mjs']) hash.update(path + '\n').update(readFileSync(path));
  writeFileSync('static/sources.json', JSON.stringify({sha256: hash.digest('hex')}) + '\n');
}
