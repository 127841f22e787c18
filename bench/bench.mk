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
.PHONY: instructions instructions-record
instructions:
	cargo test --release --test instructions
instructions-record:
	FORESHADOW_RECORD_INSTRUCTIONS=1 cargo test --release --test instructions
