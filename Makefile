# The one door to this project. `make` alone says what there is.
#
# Needs Rust (rustup), make and git; on Debian every target installs what else it needs, as packages and as Python
# environments under target/venv. It installs only what is missing and starts no server of the machine's own.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

INSTALL := tests/support/install.sh
TARGET := $(or $(CARGO_TARGET_DIR),target)
PY := /usr/bin/python3
export PYTHONDONTWRITEBYTECODE := 1

# COMMAND:PACKAGE, what the compiler and the linker want for zstd, xz and ring
COMPILE := cc:gcc '/usr/include/*/sys/cdefs.h:libc6-dev'
SERVERS := redis-server:redis-server '/usr/lib/postgresql/*/bin/initdb:postgresql' \
           '/usr/lib/postgresql/*/bin/pg_dump:postgresql-client'
TOOLS := tar:tar zstd:zstd openssl:openssl setpriv:util-linux
VENV := /usr/bin/python3:python3 '/usr/lib/python3*/ensurepip/__main__.py:python3-venv'

.PHONY: help build test lint demo bench fuzz clean tools-build tools-test

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: tools-test ## see it work: real Celery Beat, backups, kill -9, archives opened by plain tools (a minute)
	@$(INSTALL) debian faketime:faketime
	@cargo build --locked
	@$(PY) tests/demo/demo.py $(TARGET)/debug/rna-backup

test: tools-test ## every test, against real servers that the tests start themselves
	@cargo test --locked

lint: tools-build ## format, clippy, documentation, dependencies, scripts, README
	@$(INSTALL) debian shellcheck:shellcheck /usr/bin/python3:python3
	@echo '--- cargo fmt'; cargo fmt --check
	@echo '--- cargo clippy'; cargo clippy --all-targets --locked -- -D warnings
	@echo '--- cargo doc'; RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items --locked
	@if command -v cargo-deny >/dev/null; then echo '--- cargo deny'; cargo deny --locked check; \
	  else echo '--- cargo deny SKIPPED: licences and advisories unchecked (cargo install cargo-deny)'; fi
	@echo '--- shellcheck'; shellcheck .ci/run $(INSTALL)
	@echo '--- README'; $(PY) tests/support/readme.py

bench: tools-test ## side by side with tar, pg_dump, Python's shutil and a Python Celery worker (BENCH_SCALE=0.01: quick)
	@$(INSTALL) debian pigz:pigz
	@cargo build --locked --release
	@$(PY) benches/bench.py $(TARGET)/release/rna-backup

fuzz: tools-build ## damaged messages, requests and results at every reader, for ten minutes (FUZZ_SECONDS=60: one)
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-600} cargo test --locked --test integration fuzz:: -- --nocapture

build: tools-build ## the program, optimised: target/release/rna-backup
	@cargo build --locked --release

clean: ## everything that was built, the Python environments too
	@rm -rf target

tools-build:
	@command -v cargo >/dev/null || { echo 'Please install Rust first: https://rustup.rs' >&2; exit 1; }
	@$(INSTALL) debian $(COMPILE)

tools-test: tools-build
	@$(INSTALL) debian $(SERVERS) $(TOOLS) $(VENV)
	@$(INSTALL) venv celery-5.3 celery-newest celery-tools
