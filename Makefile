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
IMAGE := rna-backup
export PYTHONDONTWRITEBYTECODE := 1

# COMMAND:PACKAGE, what the compiler and the linker want for zstd, xz and ring
COMPILE := cc:gcc '/usr/include/*/sys/cdefs.h:libc6-dev'
SERVERS := redis-server:redis-server '/usr/lib/postgresql/*/bin/initdb:postgresql' \
           '/usr/lib/postgresql/*/bin/pg_dump:postgresql-client'
TOOLS := age:age /usr/sbin/mkfs.ext2:e2fsprogs /usr/sbin/mkfs.exfat:exfatprogs \
         /usr/sbin/mount.exfat-fuse:exfat-fuse bindfs:bindfs bsdtar:libarchive-tools \
         /usr/sbin/pgbouncer:pgbouncer tar:tar zstd:zstd openssl:openssl setpriv:util-linux jq:jq curl:curl
BROWSER := chromium:chromium chromedriver:chromium-driver setpriv:util-linux
YAML := '/usr/lib/python3/dist-packages/yaml/__init__.py:python3-yaml'
# What looks at the alert rules, and at the image and the compose file, for which no Docker is needed.
WATCH := prometheus:prometheus promtool:prometheus docker-compose:docker-compose $(YAML)
VENV := /usr/bin/python3:python3 '/usr/lib/python3*/ensurepip/__main__.py:python3-venv'

# The app's version, one between, and the newest.
WEAVIATE := 1.26.1 1.37.14 1.39.2

# What `make image-test` needs beside Docker, to make base images where no registry answers.
ENGINE := dockerd:docker.io debootstrap:debootstrap chroot:coreutils

.PHONY: help build quick test test-django lint book demo chaos soak audit sbom bench coverage fuzz clean image image-test weaviate \
        tools-build tools-test tools-engine

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: tools-test weaviate-1.26.1 ## Show the whole job with Celery Beat, kill -9, an accident and restores: 2 minutes (KEEP=1 leaves the web app running)
	@$(INSTALL) debian faketime:faketime
	@$(if $(KEEP),$(INSTALL) venv django-4.2)
	@cargo build --locked
	@$(PY) tests/demo/demo.py $(TARGET)/debug/rna-backup

quick: tools-build ## Check in a minute or two, before a commit: format, clippy, unit tests, names and links of the documentation
	@cargo fmt --all --check
	@cargo clippy --all-targets --locked -- -D warnings
	@cargo test --locked --lib --quiet
	@$(INSTALL) debian $(VENV) $(YAML)
	@$(PY) tests/support/docs.py

test: tools-test weaviate-1.26.1 weaviate-1.39.2 ## Run every test, against real servers that the tests start themselves
	@# Tests wait for servers and disks more than for a processor, those of Weaviate most of the time.
	@cargo test --locked -- --skip weaviate --test-threads 3
	@cargo test --locked --test integration weaviate -- --test-threads 6
	@$(MAKE) test-django

test-django: tools-test weaviate-1.26.1 ## Test the pages in Django Admin alone, by Django's client and in a browser (pictures: target/screenshots/)
	@$(INSTALL) debian $(BROWSER)
	@$(INSTALL) venv django-4.2 django-newest browser
	@cargo build --locked
	@target/venv/browser/bin/python tests/django/run.py $(TARGET)/debug/rna-backup

lint: tools-build ## Check format, clippy, dependencies, scripts and documentation
	@$(INSTALL) debian shellcheck:shellcheck
	@echo '--- cargo fmt'; cargo fmt --all --check
	@echo '--- cargo clippy'; cargo clippy --all-targets --locked -- -D warnings
	@echo '--- celery-redis by itself'; cargo check --package celery-redis --all-targets --locked --quiet
	@echo '--- cargo doc'; RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items --locked
	@if command -v cargo-deny >/dev/null; then echo '--- cargo deny'; cargo deny --locked check; \
	  else echo '--- cargo deny SKIPPED: licences and advisories unchecked (cargo install cargo-deny)'; fi
	@echo '--- shellcheck'; shellcheck .ci/run $(INSTALL)
	@echo '--- documentation'; $(MAKE) book

book: tools-build ## Build the documentation as a book (target/book/index.html), and check its links, names, messages and commands
	@$(INSTALL) debian $(VENV) $(YAML) tar:tar zstd:zstd
	@$(INSTALL) venv book
	@cargo build --locked
	@$(PY) tests/support/docs.py $(TARGET)/debug/rna-backup
	@target/venv/book/bin/mdbook build docs 2>&1 | { ! grep -E 'WARN|ERROR'; }

audit: tools-build ## Check licences, sources and known holes of the dependencies (the first time: minutes for cargo-deny)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	@cargo deny --locked check

sbom: tools-build ## List what the program and its image are made of, as CycloneDX (target/rna-backup.cdx.json, target/rna-backup-image.cdx.json)
	@$(INSTALL) debian /usr/bin/python3:python3
	@cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu | $(PY) tests/support/sbom.py >$(TARGET)/rna-backup.cdx.json
	@echo $(TARGET)/rna-backup.cdx.json
	@if docker image inspect $(IMAGE) >/dev/null 2>&1; then \
	  docker create --name rna-backup-sbom $(IMAGE) >/dev/null; trap 'docker rm rna-backup-sbom >/dev/null' EXIT; \
	  docker cp rna-backup-sbom:/var/lib/dpkg/status.d - | $(PY) tests/support/sbom.py --image >$(TARGET)/rna-backup-image.cdx.json; \
	  echo $(TARGET)/rna-backup-image.cdx.json; \
	else echo 'No image $(IMAGE) in Docker: its packages are in no file (make image)'; fi

image: tools-build ## Build the Docker image rna-backup, compiled inside Docker, and print its size and bill of materials
	@docker build --tag $(IMAGE) $(IMAGE_OPTIONS) .
	@docker image inspect --format '{{.Size}} bytes' $(IMAGE)
	@$(MAKE) sbom

image-test: tools-build weaviate-1.26.1 tools-engine ## Test the image and every command of docs/compose.md on a real Docker engine (as root, or with a running engine)
	@cargo build --locked
	@mkdir -p target/image-test && strip -o target/image-test/rna-backup $(TARGET)/debug/rna-backup
	@$(PY) tests/image/image_test.py target/image-test/rna-backup

weaviate: $(WEAVIATE:%=weaviate-%) ## Build real Weaviate servers of several versions from their Go module (target/weaviate/)

weaviate-%:
	@$(INSTALL) go target/weaviate/$*/weaviate-server github.com/weaviate/weaviate v$* github.com/weaviate/weaviate/cmd/weaviate-server

bench: tools-test weaviate-1.39.2 ## Measure side by side with tar, restic, pg_dump, boto3, Weaviate's client and Python's Celery (BENCH_SCALE=0.01: quick)
	@$(INSTALL) debian pigz:pigz restic:restic
	@$(INSTALL) venv boto3 weaviate-client
	@cargo build --locked --release
	@$(PY) benches/bench.py $(TARGET)/release/rna-backup

fuzz: tools-build ## Feed damaged messages, requests and results to every reader: 10 minutes (FUZZ_SECONDS=60: one)
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-600} cargo test --locked --test integration fuzz:: -- --nocapture

chaos: tools-test weaviate-1.26.1 ## Kill, crash, cut and fill disks in the middle of work, and check what must hold: 30 minutes (CHAOS_SECONDS=90: short)
	@$(INSTALL) debian faketime:faketime
	@cargo build --locked
	@$(PY) tests/chaos/chaos.py $(TARGET)/debug/rna-backup --sabotage
	@$(PY) tests/chaos/chaos.py $(TARGET)/debug/rna-backup

coverage: tools-test weaviate ## Count the lines that the Rust tests run, file by file (installs cargo-tarpaulin the first time)
	@command -v cargo-tarpaulin >/dev/null || cargo install --locked cargo-tarpaulin
	@cargo build --locked --examples --target-dir $(TARGET)/coverage
	@RNA_BACKUP_TEST_PROFILE=$(abspath $(TARGET))/coverage/tarpaulin/profraws/program-%8m.profraw \
	  cargo tarpaulin --locked --engine llvm --skip-clean --no-fail-fast --timeout 3600 \
	  --exclude-files 'tests/*' --exclude-files 'crates/*/tests/*' --exclude-files 'crates/test-support/*' \
	  --target-dir $(TARGET)/coverage --objects $(TARGET)/coverage/debug/rna-backup --out Stdout

soak: tools-test weaviate-1.26.1 ## Watch memory, descriptors and threads of one worker for an hour of backups with faults (target/soak/soak.svg)
	@$(INSTALL) debian faketime:faketime
	@cargo build --locked --release
	@$(PY) tests/chaos/soak.py $(TARGET)/release/rna-backup

build: tools-build ## Build the optimised program (target/release/rna-backup)
	@cargo build --locked --release

clean: ## Remove everything that was built, the Python environments too
	@rm -rf target

tools-engine:
	@$(INSTALL) debian $(ENGINE) /usr/bin/python3:python3
	@docker compose version >/dev/null 2>&1 || \
	  $(INSTALL) go target/tools/docker-compose github.com/docker/compose/v2 v2.40.3 github.com/docker/compose/v2/cmd

tools-build:
	@command -v cargo >/dev/null || { echo 'Please install Rust first: https://rustup.rs' >&2; exit 1; }
	@$(INSTALL) debian $(COMPILE)

tools-test: tools-build
	@$(INSTALL) debian $(SERVERS) $(TOOLS) $(WATCH) $(VENV)
	@$(INSTALL) debian "/usr/share/postgresql/*/extension/pg_cron.control:postgresql-$$(ls /usr/lib/postgresql | sort -n | tail -1)-cron"
	@$(INSTALL) venv celery-5.3 celery-newest celery-tools postgres-16 postgres-18 juicefs boto3 hadolint
	@$(INSTALL) go target/tools/versitygw github.com/versity/versitygw v1.8.0 github.com/versity/versitygw/cmd/versitygw
