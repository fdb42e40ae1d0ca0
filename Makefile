# The front door. `make run` and `make test` install what is missing; the rest is for working on it.
#
# Arguments for the program behind a target go into ARGS: make run ARGS="--port 19000"

CARGO ?= cargo
XTASK  = $(CARGO) run -q --locked -p xtask --
TARGET = $${CARGO_TARGET_DIR:-target}
ARGS  ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: toolchain ## Build the gateway in release mode and start it on 127.0.0.1:18789
	$(CARGO) build --release --locked -p gateway
	@exec "$(TARGET)/release/openclaw-gateway" run $(ARGS)

.PHONY: run-with-openclaw
run-with-openclaw: toolchain ## The same, with a real OpenClaw behind it (installed into the cache)
	@exec $(XTASK) run-with-openclaw $(ARGS)

.PHONY: test
test: toolchain ## Install what the suites need and run all of them (ARGS="suite …" for some)
	@exec $(XTASK) ci $(ARGS)

.PHONY: setup
setup: toolchain ## Only install what is missing: Node, OpenClaw, Chromium, …
	@exec $(XTASK) setup

.PHONY: test-clients
test-clients: setup ## The unmodified CLI, TUI, Control UI and libraries through us, alone
	$(CARGO) build --locked -p gateway
	@CLIENTS_ALL=1 exec $(XTASK) node --test --test-concurrency=1 tests/clients/cli.test.mjs tests/clients/control-ui.test.mjs tests/clients/sdk.test.mjs tests/clients/tui.test.mjs

KILLS ?= 1000
SEED ?= 20260927
.PHONY: crash-loop
crash-loop: setup ## Kill -9 under load, KILLS times: what was accepted arrives, in order
	$(CARGO) build --locked -p gateway
	@COMMANDS_ALL=1 $(XTASK) node --test tests/messages/commands.test.mjs
	@KILLS=$(KILLS) SEED=$(SEED) exec $(XTASK) node --test --test-name-pattern="random kills" tests/messages/crash.test.mjs

.PHONY: crash-memory
crash-memory: toolchain ## Kill -9 a writer of memories, KILLS times: indexes hold what the table holds
	@KILLS=$(KILLS) $(CARGO) test --locked -p memory --test it -- --nocapture crash::what

.PHONY: crash-upstream
crash-upstream: setup ## Kill OpenClaw and stop it for 30 s with 100 clients and 20 runs in flight
	$(CARGO) build --locked -p gateway
	@CRASH_CLIENTS=100 CRASH_RUNS=20 CRASH_STOPPED_S=30 exec $(XTASK) node --test --test-concurrency=1 tests/crash/runs.test.mjs tests/crash/upstream.test.mjs

.PHONY: tidy
tidy: toolchain ## Check the source tree: crate edges, file sizes, leftovers, docs in step
	@exec $(XTASK) tidy

.PHONY: addon
addon: toolchain ## Build the Node addon (crates/media-napi/npm) for this platform, ready for `npm pack`
	@exec $(XTASK) node crates/media-napi/npm/scripts/build.cjs --prebuilt

.PHONY: bench
bench: toolchain ## All benchmarks, ours and the original in turn; writes docs/benchmarks.md
	$(CARGO) build --release --locked -p gateway
	$(CARGO) build --release --locked -p bench
	@exec $(XTASK) node bench/run.mjs $(ARGS)

.PHONY: bench-quick
bench-quick: toolchain ## The same measures in a few minutes
	$(CARGO) build --release --locked -p gateway
	$(CARGO) build --release --locked -p bench
	@exec $(XTASK) node bench/run.mjs --quick $(ARGS)

.PHONY: bench-scrape
bench-scrape: setup ## A scrape of /metrics, idle and while 200 clients call without pause
	$(CARGO) build --release --locked -p gateway
	@mkdir -p bench/results
	@GATEWAY_BIN="$(TARGET)/release/openclaw-gateway" $(XTASK) node bench/scrape.mjs $(ARGS) | tee bench/results/$$(date -u +%F)-scrape.json

.PHONY: bench-store
bench-store: toolchain ## Durable accepts, lookups and drain of the message store, beside the disk's own fsync rate
	$(CARGO) build --release --locked -p store --example load
	@mkdir -p bench/results
	@target/release/examples/load $(ARGS) | tee bench/results/$$(date -u +%F)-store.json

.PHONY: bench-routing
bench-routing: toolchain ## A message's route with 10,000 bindings and 1,000,000 sessions
	$(CARGO) build --release --locked -p gateway --example routes
	@mkdir -p bench/results
	@target/release/examples/routes $(ARGS) | tee bench/results/$$(date -u +%F)-routing.json

.PHONY: bench-media
bench-media: setup ## The image engine beside sharp, in Rust and through the addon; writes docs/media.md
	$(CARGO) build --release --locked -p media-napi
	@exec $(XTASK) node --expose-gc bench/media.mjs $(ARGS)

.PHONY: bench-agent
bench-agent: setup ## Agents that run here beside the original's, same scripted model; writes docs/agent-benchmarks.md
	$(CARGO) build --release --locked -p gateway
	@exec $(XTASK) node bench/agent.mjs $(ARGS)

SECONDS_EACH ?= 600
.PHONY: fuzz
fuzz: toolchain ## libFuzzer on every parser of outside bytes, SECONDS_EACH=600 each; `make test` replays the corpus
	@exec $(XTASK) fuzz --seconds $(SECONDS_EACH) $(ARGS)

CHUNKS ?= 10000 100000
.PHONY: bench-memory
bench-memory: setup ## Memory search beside SQLite FTS5 on the same chunks, CHUNKS="10000 100000"
	LIBSQLITE3_FLAGS= $(CARGO) build --release --locked -p memory --example compare
	@mkdir -p bench/results
	@target/release/examples/compare tests/node_modules/openclaw/docs $(CHUNKS) | tee bench/results/$$(date -u +%F)-memory.jsonl

.PHONY: bench-relevance
bench-relevance: toolchain ## What words alone find of the judged set in bench/relevance, beside SQLite FTS5
	LIBSQLITE3_FLAGS= $(CARGO) build --release --locked -p memory --example relevance
	@mkdir -p bench/results
	@target/release/examples/relevance bench/relevance | tee bench/results/$$(date -u +%F)-relevance.jsonl

.PHONY: bench-memory-slot
bench-memory-slot: setup ## memory_search of OpenClaw's agents: its own engine, and ours in its memory slot, on the same workspace
	$(CARGO) build --release --locked -p gateway
	@GATEWAY_BIN="$$PWD/$(TARGET)/release/openclaw-gateway" exec $(XTASK) node bench/memory-slot.mjs $(ARGS)

# Cargo itself and, when root on Debian, what building needs: a C compiler to link, CMake and NASM for
# libjpeg-turbo, whose speed is its assembly (its build stops rather than go without).
.PHONY: toolchain
toolchain:
	@command -v $(CARGO) >/dev/null || { \
	  echo "error: no cargo on PATH: install Rust from https://rustup.rs (the version in rust-toolchain.toml follows by itself)" >&2; exit 1; }
	@packages=""; \
	command -v cc >/dev/null || packages="build-essential"; \
	command -v cmake >/dev/null || packages="$$packages cmake"; \
	command -v nasm >/dev/null || packages="$$packages nasm"; \
	test -z "$$packages" || { \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    echo "installing $$packages (building needs them)"; \
	    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$packages; \
	  else \
	    echo "error: building needs: sudo apt-get install -y $$packages  (or your system's equivalent)" >&2; exit 1; \
	  fi; }
