# The two things to do with a clone: `make run` and `make test`.

.PHONY: help run test test-etcd soak demo simulate fuzz clean

help:
	@echo 'make run    build and serve on 127.0.0.1:7400 with 1 GiB of memory; FLAGS="--memory 4GiB ..." adds flags'
	@echo 'make test   install what the tests need where that is possible, run everything, say what was skipped'
	@echo 'make test-etcd   metadata in a real etcd: builds the feature, some minutes'
	@echo 'make soak   ten minutes, 500 connections, every answer checked; SOAK="--seconds 60" changes it'
	@echo 'make demo   a stampede on a real PostgreSQL and a real Redis, with and without us; a table and a plot'
	@echo 'make simulate  moves of shards in a simulated cluster, 100,000 seeds; SEEDS=... changes it'
	@echo 'make fuzz   a minute of fuzzing for each parser, sessions and the store (nightly Rust, C++); FUZZ_SECONDS=... changes it'
	@echo 'make bench  ten minutes beside the floor, memcached, Valkey and Redis; writes bench/record'
	@echo 'make clean  remove what was built and the tests'"'"' Python environment'

run:
	cargo build --release
	@echo
	@echo 'Talk to it from another terminal (Ctrl-C here stops it):'
	@echo "  redis-cli -p 7400 set greeting hello        any Redis client, by RESP2 or RESP3"
	@echo "  printf 'get greeting\r\nquit\r\n' | nc 127.0.0.1 7400   any memcached client, on the same port"
	@echo "  http://127.0.0.1:7401/                       dashboard; /metrics for Prometheus"
	@echo
	@exec target/release/foreshadow serve $(FLAGS)

test:
	@scripts/test

# A build of its own, beside that of `make test`: the feature's crates, and this one with them.
test-etcd:
	@scripts/setup-etcd
	cargo clippy --locked --features etcd --lib --test metadata -- -D warnings
	cargo test --locked --features etcd --test metadata

include bench/bench.mk

soak:
	cargo build --release --bin foreshadow --example soak
	target/release/examples/soak $(SOAK)

# Half of the time goes to the seeds that are always the same, half to fresh ones.
SEEDS ?= 100000
simulate:
	FORESHADOW_SEEDS=$(SEEDS) cargo test --release --locked --test sim seeds_ -- --nocapture

FUZZ_SECONDS ?= 60
fuzz:
	for target in session resp memcached native store; do scripts/fuzz $$target $(FUZZ_SECONDS) || exit 1; done

demo:
	cargo build --release
	python3 bench/demo/run.py $(DEMO)

clean:
	cargo clean
	rm -rf .venv
