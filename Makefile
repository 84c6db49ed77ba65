# Everything here can be repeated; `make help` lists it. Needs a Rust toolchain (rustup reads
# rust-toolchain.toml), Python 3 with pip, and GNU make. The network is used for package registries only.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

CARGO ?= cargo
PYTHON ?= python3
VENV := .guildhall/venv
BUILT := $(or $(CARGO_TARGET_DIR),target)
# cargo-nextest runs each test in its own process and ends with one summary for all of them.
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: tools
tools:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.9 or newer (with pip), or set PYTHON=" >&2; exit 1; }

.PHONY: deps
deps: tools ## Fetch the ONNX Runtime library
	@$(PYTHON) scripts/fetch-onnxruntime

.PHONY: deps-test
deps-test: deps $(VENV)/installed ## Also fetch the Python clients that the tests use

$(VENV)/installed: tests/requirements.txt
	@echo "Installing the Python clients for tests into $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "the tests need Python 3.11 or newer; set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
	@touch $@

.PHONY: run
run: deps ## Build in release mode and start the gateway with its demo experts
	@echo "Building guildhall and mock-expert in release mode (the first time takes some minutes)"
	@$(CARGO) build --release --locked --package gateway --package mock-expert --bins
	@$(PYTHON) scripts/run

.PHONY: test
test: deps-test ## Run all tests
	@echo "Building the programs that the black-box tests start, and the tests"
	@# Together, because tests switch on features of shared dependencies, which would be built twice otherwise.
	@$(CARGO) build --locked --workspace --bins --tests
	@echo "Running the documentation tests"
	@$(CARGO) test --locked --workspace --doc --quiet
	@[ -n "$${GUILDHALL_LLAMA_SERVER:-}" ] || command -v llama-server >/dev/null || \
		echo "Residency with a real llama-server: not tested; set GUILDHALL_LLAMA_SERVER to one"
	@echo "Running all other tests$(if $(NEXTEST), with cargo-nextest)"
	@$(if $(NEXTEST),$(CARGO) nextest run --locked --workspace --no-fail-fast,$(CARGO) test --locked --workspace --no-fail-fast --lib --bins --tests)

.PHONY: lint
lint: tools ## Check formatting, lints, documentation and, where installed, dependencies
	@echo "Formatting"
	@$(CARGO) fmt --all --check
	@echo "Clippy"
	@$(CARGO) clippy --locked --workspace --all-targets --quiet -- --deny warnings
	@echo "Documentation"
	@RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "Dependencies"; $(CARGO) deny --log-level error check bans licenses sources; \
	else \
		echo "Dependencies: not checked, cargo-deny is not installed (cargo install cargo-deny --locked)"; \
	fi
	@if command -v promtool >/dev/null; then \
		echo "Alert rules"; cd deploy/prometheus && promtool check rules *-rules.yaml alerts.yaml >/dev/null && promtool test rules tests.yaml >/dev/null; \
	else \
		echo "Alert rules: not tested, promtool is not installed (Debian and Ubuntu: apt install prometheus)"; \
	fi

.PHONY: fmt
fmt: tools ## Format the code
	@$(CARGO) fmt --all

.PHONY: gen
gen: tools ## Write the generated files anew: configuration schema, OpenAPI document
	@$(CARGO) build --locked --package gateway --bin guildhall
	@$(BUILT)/debug/guildhall schema > config/.schema.tmp && mv config/.schema.tmp config/guildhall.schema.json
	@$(BUILT)/debug/guildhall openapi > docs/.openapi.tmp && mv docs/.openapi.tmp docs/openapi.json
	@echo "config/guildhall.schema.json and docs/openapi.json are fresh"

.PHONY: bench
bench: deps ## Run the benchmarks of the packages
	@$(CARGO) bench --locked --workspace --benches

TARGET ?= chat_body config messages_request messages_stream responses_request responses_stream sse
SECONDS ?= 60

.PHONY: fuzz
fuzz: tools ## Fuzz for SECONDS (60) what TARGET names, or everything
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2; exit 1; }
	@for target in $(TARGET); do \
		mkdir -p fuzz/found/$$target; \
		$(CARGO) fuzz run --fuzz-dir fuzz --sanitizer none $$target fuzz/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -max_len=4096 -timeout=10; \
	done

# Reading the prompts takes most of the time; the readings are kept, so that a second run is shorter.
EVAL := $(abspath .guildhall/eval)
PROMPTS := $(GUILDHALL_DATA)/prompts/test.jsonl.gz

.PHONY: eval
eval: deps ## Measure the router and the routing on the data that GUILDHALL_DATA names; SETS="llmrouter9" for some
	@if [ ! -f "$(PROMPTS)" ]; then \
		echo "skipped: set GUILDHALL_DATA to a folder with prompts/test.jsonl.gz and routing/; nothing was measured"; \
	else \
		set -e; mkdir -p $(EVAL); \
		$(CARGO) build --release --locked --package gateway --bins; \
		target/release/guildhall eval router --data "$(PROMPTS)" --markdown $(EVAL)/router.md; \
		target/release/guildhall eval routing --data "$(GUILDHALL_DATA)" $(addprefix --set ,$(SETS)) \
			--cache $(EVAL)/readings.safetensors --markdown $(EVAL)/routing.md --plot $(EVAL)/routing.svg; \
		echo "Tables and picture: $(EVAL)"; \
	fi

LOAD_BINS := --package gateway --package mock-expert --package loadtest --bins

.PHONY: load
load: deps ## Measure the gateway's cost per request beside a bare proxy (Linux, two CPUs)
	@$(CARGO) build --release --locked $(LOAD_BINS)
	@$(PYTHON) loadtest/run.py hop $(ARGS)

.PHONY: scenarios
scenarios: deps ## Put the gateway under load and faults, with thresholds
	@$(CARGO) build --release --locked $(LOAD_BINS)
	@$(PYTHON) loadtest/run.py scenario $(or $(ARGS),all)

.PHONY: soak
soak: deps ## Run at half load with faults for half an hour; ARGS="--minutes 60"
	@$(CARGO) build --release --locked $(LOAD_BINS)
	@$(PYTHON) loadtest/run.py soak $(ARGS)

.PHONY: load-report
load-report: tools ## Write loadtest/REPORT.md from the kept results
	@$(PYTHON) loadtest/run.py report

.PHONY: clean
clean: tools ## Remove what was built and fetched; stored experts and the admin token stay
	@$(CARGO) clean
	@rm -rf .guildhall/onnxruntime $(VENV) .guildhall/.fetch-* .guildhall/.old-*
