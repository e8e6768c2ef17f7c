# Every target creates what it needs. `make report` and `make test` are the two commands of the README.
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
GIVEN := $(HF_HUB_OFFLINE)
export HF_HUB_OFFLINE ?= 1

.PHONY: help setup report test lint lab doctor docs browser widgets pictures notebooks full torture torture-short bench evaluate geometry frontier transcoders mutate retrain effects effects-short parity pack lock clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# torch is asked for by its pin first: an open range would take the newest build with several GB of CUDA packages
$(STAMP): pyproject.toml constraints.txt
	@begin=$$(date +%s) && python3 -m venv $(VENV) \
	&& $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch \
	&& $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs,lab,test]' \
	&& echo "installation: $$(( $$(date +%s) - begin )) s" && touch $@

setup: $(STAMP)  ## create .venv with the locked packages

report: $(STAMP)  ## text to report on SmolLM2-135M: reports/index.html
	@begin=$$(date +%s); $(VENV)/bin/workbench report notebooks/01_first_look.ipynb; status=$$?; \
	echo "report: $$(( $$(date +%s) - begin )) s"; exit $$status

test: $(STAMP)  ## the suites, two workers of one torch thread each
	$(VENV)/bin/workbench fetch smollm2-135m
	OMP_NUM_THREADS=1 timeout 720 $(PY) -m pytest -n 2 --dist loadfile -q -m 'not browser and not torture and not notebook and not effect'

lint: $(STAMP)  ## ruff and pyright
	$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(PY)

lab: export HF_HUB_OFFLINE := $(GIVEN)
lab: $(STAMP)  ## JupyterLab on loopback; hub ids may be loaded, unless HF_HUB_OFFLINE=1 is set
	$(VENV)/bin/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

doctor: $(STAMP)  ## versions, device, cache, one test figure
	$(VENV)/bin/workbench doctor

docs: $(STAMP)  ## the documentation site: build/docs/index.html; a warning is an error
	OMP_NUM_THREADS=1 $(PY) -W error -m mkdocs build

browser: $(STAMP)  ## pages in headless Chromium, network refused
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -q -m browser

widgets:  ## build widgets/static from widgets/src (needs node; the built files are committed)
	cd widgets && npm ci && node build.mjs

pictures: $(STAMP)  ## each widget in light and dark at 1,000 and 1,600 px (docs/widgets/)
	$(PY) tools/build_pictures.py

notebooks: $(STAMP)  ## every notebook at smoke size by papermill
	$(VENV)/bin/workbench fetch smollm2-135m
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -q -m notebook --durations 40

full: transcoders  ## every notebook at full size: time, memory, page (docs/measurements.md); resumable
	$(VENV)/bin/workbench fetch minilm
	$(PY) bench/full.py --record

effects: $(STAMP)  ## every claim over its seeds (docs/effects.md), half an hour; kept where the code is the same
	for model in smollm2-135m minilm; do $(VENV)/bin/workbench fetch $$model || exit 1; done
	$(PY) bench/effects.py

mutate: $(STAMP)  ## plant ten bugs in a copy, one at a time, and see the suites die
	OMP_NUM_THREADS=1 $(PY) tests/mutate.py

effects-short: $(STAMP)  ## one seed of what holds
	for model in smollm2-135m minilm; do $(VENV)/bin/workbench fetch $$model || exit 1; done
	OMP_NUM_THREADS=1 timeout 1140 $(PY) -m pytest -n 2 -q -m effect

parity: $(STAMP)  ## checkpoint formats beside their owners' own code (docs/measurements.md; 12 GB of environments, once)
	$(PY) bench/formats/parity.py --record

frontier: $(STAMP)  ## FVU and delta-CE against L0, ten variants on SmolLM2-135M (docs/frontier.webp)
	$(VENV)/bin/workbench fetch smollm2-135m
	$(PY) bench/frontier.py

transcoders: $(STAMP)  ## a skip transcoder for each layer of SmolLM2-135M, into the cache (20 minutes on two cores)
	$(VENV)/bin/workbench fetch smollm2-135m
	$(VENV)/bin/workbench transcoders smollm2-135m

torture: $(STAMP)  ## 40 kills of harvest, 100 of training, 500 byte flips (docs/measurements.md)
	$(PY) bench/torture.py --record

torture-short: $(STAMP)  ## a few kills, a few flips
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m torture

bench: $(STAMP)  ## harvest, memory, prompt sets (docs/measurements.md), steps beside peers (docs/benchmarks.md)
	$(VENV)/bin/workbench fetch smollm2-135m
	$(PY) bench/peers/install.py
	$(PY) bench/harvest.py --record
	$(PY) bench/memory.py --record
	$(PY) bench/train_step.py --record
	$(PY) bench/step_parts.py --record
	$(PY) bench/encode.py --record
	$(PY) bench/scaling.py --record
	$(PY) bench/prompts.py --record

evaluate: $(STAMP)  ## SAEBench's eight kinds of evaluation, trained against random dictionaries (docs/measurements.md)
	for model in smollm2-135m minilm; do $(VENV)/bin/workbench fetch $$model || exit 1; done
	$(PY) bench/evaluate.py --record

geometry: $(STAMP)  ## dictionaries of SmolLM2-135M and their shape (docs/effects.md); maps and matchings by the clock
	$(VENV)/bin/workbench fetch smollm2-135m
	$(PY) bench/geometry.py --record
	$(PY) bench/shape.py --record

pack: $(STAMP)  ## a workshop folder for Linux, installed with the network refused, lesson 1 run from it (needs 5 GB)
	$(VENV)/bin/workbench fetch smollm2-135m
	$(PY) bench/pack.py --record

retrain: $(STAMP)  ## every tiny subject again from its card's command (docs/measurements.md)
	$(PY) bench/retrain.py --record

# soupsieve 3 wants Python 3.11.5, Debian 12 has 3.11.2; jsonschema from 4.25 on adds two seconds to every import of nbformat
HELD := 'soupsieve<3' 'jsonschema<4.25'
lock:  ## write constraints.txt anew from the newest versions that fit pyproject.toml
	rm -rf .lock && python3 -m venv .lock && .lock/bin/python -m pip install --quiet torch==2.13.0
	.lock/bin/python -m pip install --quiet --editable '.[docs,lab,test]' $(HELD)
	(grep '^#' constraints.txt; .lock/bin/python -m pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/') > constraints.new
	mv constraints.new constraints.txt && rm -rf .lock

clean:  ## remove the environment and reports
	rm -rf $(VENV) reports
