// One sealed module and one stylesheet for each widget: src/NAME.js -> static/NAME.js, src/NAME.css -> static/NAME.css.
// `node build.mjs NAME` builds one of them. static/sources.json says which sources the committed files were built from.
import {build} from 'esbuild';
import {createHash} from 'node:crypto';
import {readdirSync, readFileSync, writeFileSync} from 'node:fs';

const only = process.argv[2];
const names = readdirSync('src').filter(f => f.endsWith('.js')).map(f => f.slice(0, -3)).filter(n => !only || n === only);
for (const name of names) {
  const common = {bundle: true, minify: true, legalComments: 'none', logLevel: 'warning'};
  await build({...common, entryPoints: [`src/${name}.js`], outfile: `static/${name}.js`, format: 'esm', target: 'es2022'});
  await build({...common, entryPoints: [`src/${name}.css`], outfile: `static/${name}.css`});
}

const files = folder => readdirSync(folder, {withFileTypes: true}).sort((a, b) => (a.name < b.name ? -1 : 1))
  .flatMap(f => (f.isDirectory() ? files(`${folder}/${f.name}`) : [`${folder}/${f.name}`]));
const hash = createHash('sha256');
for (const path of [...files('src'), 'package-lock.json', 'build.mjs']) hash.update(path + '\n').update(readFileSync(path));
if (!only) writeFileSync('static/sources.json', JSON.stringify({sha256: hash.digest('hex')}) + '\n');
