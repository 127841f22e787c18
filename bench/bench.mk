# Measuring; included by the Makefile.

.PHONY: bench bench-quick bench-all

# The short comparison with the floor and the peers, at most ten minutes; writes bench/record.
bench: bench-build
	bench/compare

# Two rows, half a minute, nothing written. For one question: make bench-quick ROWS=p16 SERVERS=floor,foreshadow
bench-quick: bench-build
	bench/compare --quick $(if $(ROWS),--rows $(ROWS)) $(if $(SERVERS),--servers $(SERVERS))

# Every named row.
bench-all: bench-build
	bench/compare --all

.PHONY: bench-build
bench-build:
	cargo build --release --bin foreshadow --example floor

# Instruction counts of codec, index and engine (callgrind), checked and recorded.
.PHONY: instructions instructions-record instructions-build
instructions: instructions-build
	cargo test --locked --release --test instructions
instructions-record: instructions-build
	FORESHADOW_RECORD_INSTRUCTIONS=1 cargo test --locked --release --test instructions
# A test alone does not build the example that it counts.
instructions-build:
	cargo build --locked --release --example instructions

# The store under floods that are too slow for a build without optimisation.
.PHONY: hardships
hardships:
	cargo test --release --lib hardships

# A million random histories of fetches, fills, writes, invalidations, expiry and eviction against the checker.
.PHONY: interleavings
interleavings:
	cargo test --locked --release --lib -- --ignored --nocapture no_reply_of_a_million_histories

# 100,000 keys of one origin that end in one second: questions at a time, and what hits take meanwhile.
.PHONY: storm
storm:
	cargo test --locked --release --test blackbox -- --ignored --nocapture a_hundred_thousand_keys

# CPU of a hit: ours in front of a Redis, and that Redis's own; writes bench/record.
.PHONY: bench-origin
bench-origin: bench-build
	python3 bench/origin/hits.py $(ORIGIN)

# How long others wait while very long values are written and read.
.PHONY: bench-long-values
bench-long-values: bench-build
	bench/long-values $(LONG_VALUES)

# How long a quiet client waits beside greedy ones; writes to a file with FAIRNESS="--out FILE".
.PHONY: bench-fairness
bench-fairness: bench-build
	bench/fairness $(FAIRNESS)

# What TLS costs the server beside plain; writes to a file with TLS="--out FILE".
.PHONY: bench-tls
bench-tls: bench-build
	bench/tls $(TLS)

# Every eviction policy on the traces (FORESHADOW_TRACES); writes bench/record and docs/internals/eviction.md.
.PHONY: replay-record
replay-record: bench-build
	bench/replay eviction

# Bytes per item beside the peers, resident memory under churn, the longest step: 15 minutes; writes bench/record.
.PHONY: bench-memory
bench-memory:
	cargo build --release --bin foreshadow --example memory
	bench/memory/compare $(MEMORY)

# The store's unsafe code under Miri (rustup toolchain install nightly -c miri,rust-src).
.PHONY: miri
miri:
	cargo +nightly miri test --locked --lib -- store::memory::

# What prefetching does on traces: docs/prefetch.md and bench/record.
.PHONY: prefetch-record
prefetch-record: bench-build
	bench/replay prefetch

# Prefetching through sockets, a real Redis behind a proxy that makes it slow: docs/prefetch.md and bench/record.
.PHONY: bench-prefetch
bench-prefetch:
	cargo build --release --bin foreshadow --example slow_origin --example replay_load
	bench/prefetch $(PREFETCH)

# Moves of a shard between two cores under writes; MIGRATE="--moves 20 --writes 30000".
.PHONY: bench-migrate
bench-migrate:
	cargo build --release --bin foreshadow
	bench/migrate $(MIGRATE)
