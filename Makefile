# module-ref: build, run, test. `make help` lists what there is.

# Options of the stress program, for `make stress`.
STRESS ?= --seconds 10

CARGO  ?= cargo
PYTHON ?= python3
VENV   := .venv
# What the venv was made from; it is made anew when this changes.
VENV_READY := $(VENV)/.ready
# The wheel in the project's venv is built anew, unless it is known to be the newest.
WHEEL = $(if $(WHEEL_IS_THERE),,test-wheel)
CC     ?= cc
CXX    ?= c++

SCRIPTS := python benches examples ci/check-dist ci/layers ci/man ci/mutants ci/readme ci/soak \
	benches/run benches/compare
MODELS := $(CARGO) test --quiet --release --package module-ref --lib -- models --nocapture
LIBRARY := target/release/libmodule_ref.so
# Everything is built here, whatever the user's own settings say.
export CARGO_TARGET_DIR = target
C_TREE  := $(MAKE) --no-print-directory -C c-tests
BENCHES_C = $(MAKE) --no-print-directory -C benches/c CC="$(CC)" CXX="$(CXX)"

.DELETE_ON_ERROR:
.PHONY: help
help: ## what can be made
	@awk -F ':.*## ' '/^# ---- / { group = $$0; gsub(/# | ?-+ ?/, "", group) } \
		/^[a-z0-9-]+:.*## / { if (group != shown) print "\n" (shown = group); \
			printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n%s\n%s\n' 'For example: make test; make install PREFIX=$$HOME/.local;' \
		'             make stress STRESS="--seconds 60 --bad"; make soak HOURS=2'

# ---- tools ---------------------------------------------------------------------

.PHONY: need-rust need-cc need-python
need-rust:
	@ci/need $(CARGO) "the Rust toolchain, 1.88 or newer" "https://rustup.rs"
need-cc:
	@ci/need "$(firstword $(CC))" "a C compiler" "apt-get install gcc"
need-python:
	@ci/need $(PYTHON) "Python 3.9 or newer" "apt-get install python3 python3-venv"
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' || { \
		echo "$(PYTHON) is older than 3.9 or has no venv: apt-get install python3-venv" >&2; exit 1; }

$(VENV_READY): python/requirements-dev.txt | need-python
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# ---- build ---------------------------------------------------------------------

.PHONY: build header man venv wheels
build: need-rust ## the Rust and C libraries and the guard, in target/release
	$(CARGO) build --release

header: need-rust ## write include/module_ref.h from the source
	$(CARGO) build --release --package module-ref-capi

# The page of the stress program is compared with its --help.
man: need-cc need-python build ## write the manual pages from the headers
	@$(C_TREE) CC="$(CC)" OUT=../target/c/cc all
	$(PYTHON) ci/man

venv: $(VENV_READY) ## the project's own Python environment

wheels: need-rust $(VENV_READY) ## the Python wheels and source distribution, in target/dist
	ci/wheels

# ---- install -------------------------------------------------------------------

# Below DESTDIR, which no installed file knows of.
PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR    ?= $(PREFIX)/share
INSTALLER = PREFIX="$(PREFIX)" BINDIR="$(BINDIR)" LIBDIR="$(LIBDIR)" INCLUDEDIR="$(INCLUDEDIR)" \
	DATADIR="$(DATADIR)" DESTDIR="$(DESTDIR)" CARGO="$(CARGO)" CC="$(CC)" ci/install

.PHONY: stage install uninstall
stage: ## build what install copies, if root has no Rust: PREFIX=
	@$(INSTALLER) stage

install: ## library, headers, man pages, tools: PREFIX= DESTDIR= LIBDIR=
	@$(INSTALLER) install

uninstall: ## remove it, with the same PREFIX= DESTDIR= LIBDIR=
	@$(INSTALLER) uninstall

# ---- run -----------------------------------------------------------------------

.PHONY: stress
stress: need-cc build ## threads call into plugins while others unload them: STRESS=
	@$(C_TREE) CC="$(CC)" OUT=../target/c/cc all
	@target/c/cc/module-ref-stress $(STRESS)

# Both sides of every ratio run in one process, in turns.
BENCH_RUN = target/bench/run.json
REPORT = $(VENV)/bin/python benches/report
# Starts of each program; each takes two minutes.
RUNS ?= 3

.PHONY: bench bench-quick bench-build report
bench-build: need-cc build $(WHEEL)
	@ci/need "$(firstword $(CXX))" "a C++ compiler, for std::weak_ptr" "apt-get install g++"
	$(CARGO) build --release --package module-ref-benches
	@$(BENCHES_C) all

bench: bench-build ## measure against other schemes, into target/bench/run.json
	@$(VENV)/bin/python benches/run --runs $(RUNS) --command "make $@ RUNS=$(RUNS)" --output $(BENCH_RUN)
	@$(REPORT) $(BENCH_RUN) --table

bench-quick: bench-build ## measure with few rounds, in a minute
	@$(VENV)/bin/python benches/run --quick --command "make $@" --output target/bench/quick.json

.PHONY: bench-probes
bench-probes: need-cc build ## measure what trace points cost while no tracer listens
	RUSTFLAGS="--cfg untraced" CARGO_TARGET_DIR=target/untraced MODULE_REF_HEADER=check \
		$(CARGO) build --release --package module-ref-capi
	@$(BENCHES_C) $(addprefix ../../target/bench/c/,probes simulated_rseq.so)
	@benches/probes

report: bench ## measure, and draw a page with plots in target/bench/report
	@$(REPORT) $(BENCH_RUN)

# ---- test ----------------------------------------------------------------------

.PHONY: test test-abi test-lint test-header test-man test-rust test-models test-loom
.PHONY: test-interleave test-c test-install test-builds test-readme test-bench test-python test-wheel mutants
.PHONY: test-sdist test-probes test-examples test-musl test-aarch64
# In lanes, because a compiler uses one CPU for most of its time. Each line says whose it is.
LANES = $(MAKE) --no-print-directory --jobs=2
LANE  = $(MAKE) --no-print-directory --jobs=1
lane-%: SHELL := bash
lane-%: .SHELLFLAGS := -o pipefail -c
NAMED = 2>&1 | sed -u 's/^/$(@:lane-%=%): /'

# What is skipped is listed at the end: ci/skip has kept it.
test: need-rust need-cc need-python $(VENV_READY) ## what every change has to pass; regtest has the rest
	@rm -f target/skipped
	@$(LANE) test-header build
	@$(LANES) lane-rust lane-c
	@$(LANE) test-wheel
	@$(LANES) WHEEL_IS_THERE=1 lane-users lane-python
	@ci/skip

.PHONY: lane-rust lane-c lane-users lane-python
lane-rust:
	@$(LANE) test-lint test-rust test-models $(NAMED)
lane-c:
	@$(LANE) test-abi test-c test-man test-probes $(NAMED)
lane-users:
	@$(LANE) test-readme test-examples $(NAMED)
lane-python:
	@$(LANE) test-bench test-sdist test-python $(NAMED)

# First, because an ordinary build writes the header.
test-header: need-rust ## the committed header is the one that the source gives
	MODULE_REF_HEADER=check $(CARGO) build --release --package module-ref-capi

test-abi: need-rust build ## exported names, and the types against the ABI baseline
	ci/abi

test-lint: need-rust $(VENV_READY) ## formatting and lints, without a warning
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --package module-ref --no-default-features --lib -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps
	$(CARGO) metadata --quiet --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	ci/layers
	ci/mutants --applies
	$(VENV)/bin/ruff check $(SCRIPTS)
	$(VENV)/bin/ruff format --check $(SCRIPTS)

test-rust: need-rust ## Rust tests, no_std, the oldest compiler, other targets
	$(CARGO) test
	ci/no-std
	ci/targets
	ci/msrv

test-models: test-interleave test-loom ## the shipped code under both model checkers

test-interleave: need-rust
	RUSTFLAGS="--cfg interleave" CARGO_TARGET_DIR=target/interleave $(MODELS)

# About a minute and a half of one CPU, without what is built. LOOM_MAX_PREEMPTIONS=3 takes many
# times as long.
test-loom: need-rust
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom $(MODELS)

test-c: need-cc build ## the C tests and the stress program, by every compiler present
	ci/c-tests

test-install: need-cc ## install, build programs by pkg-config and CMake, uninstall
	ci/test-install

test-builds: need-rust need-cc ## programs whose CMake or Meson builds it; Debian packages
	ci/test-builds

test-musl: need-rust ## the C library for musl, and the counter's C tests
	ci/musl

test-aarch64: need-rust ## the C library for aarch64, tested in an emulated machine
	ci/aarch64

test-man: need-cc need-python build ## the manual pages are current; their examples run
	@$(C_TREE) CC="$(CC)" OUT=../target/c/cc all
	CC="$(CC)" $(PYTHON) ci/man check

test-probes: need-rust build ## the trace points are as documented; tracers take them
	ci/probes

test-readme: need-cc build $(VENV_READY) $(WHEEL) ## every program and command of READMEs and guides
	$(VENV)/bin/python ci/readme

# The abi3 wheel, into the project's venv.
test-wheel: wheels
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall target/dist/*-abi3-*.whl

test-bench: bench-build ## every benchmark runs shortly, and the report draws it
	$(VENV)/bin/python benches/run --smoke --command "make $@" --output target/bench/smoke.json
	$(REPORT) target/bench/smoke.json --output target/bench/smoke
	target/bench/c/parts 1
	@$(C_TREE) CC="$(CC)" OUT=../target/c/cc ../target/c/cc/deny
	target/c/cc/deny rseq $(VENV)/bin/python benches/run --smoke --command "make $@" \
		--output target/bench/no-rseq.json
	grep -q '"why": "the system has no restartable sequences' target/bench/no-rseq.json
	$(REPORT) target/bench/no-rseq.json --output target/bench/no-rseq
	$(VENV)/bin/python -m pytest -q benches/report

test-sdist: $(if $(WHEEL_IS_THERE),,wheels) ## pip installs the source distribution
	ci/test-sdist

test-python: $(WHEEL) ## the stubs, and pytest on each Python present
	$(VENV)/bin/python -m mypy.stubtest module_ref
	$(VENV)/bin/mypy python/module_ref
	ci/python-tests

test-examples: need-cc build $(VENV_READY) $(WHEEL) ## every example is built, runs, and works
	@$(MAKE) --no-print-directory -C examples CC="$(CC)" PYTHON="$(abspath $(VENV))/bin/python" check

mutants: need-rust need-cc $(VENV_READY) $(WHEEL) ## break the code on purpose, and see the checks fail
	ci/mutants

# A day of it is HOURS=24.
HOURS ?= 1

.PHONY: soak
soak: need-cc build ## the stress program for HOURS=, with changing threads, seeds
	@$(C_TREE) CC="$(CC)" OUT=../target/c/cc all
	ci/soak $(HOURS)

.PHONY: test-semver test-tsan test-sanitizers test-valgrind
test-semver: need-rust ## the Rust API against the last release
	ci/semver

test-tsan: need-rust ## ThreadSanitizer, the Rust side too (nightly, clang)
	ci/tsan

test-sanitizers: need-rust need-cc ## Address- and UndefinedBehaviorSanitizer, and leaks
	ci/sanitizers

test-valgrind: need-rust need-cc ## memcheck and helgrind
	ci/valgrind

.PHONY: regtest
regtest: ## test, and all slower checks (an hour and more)
	@$(MAKE) --no-print-directory test
	ci/regtest

.PHONY: clean
clean: ## remove what was built
	rm -rf target $(VENV)
