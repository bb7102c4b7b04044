# make run        the default run: real sequence files to results/default/report.html
# make test       the test suite, the default run included (about a quarter of an hour on two cores)
# make bacteria   17 bacterial genomes of four species, whole species held out; gets them with apt (Debian, Ubuntu)
# make ablations  Titans without one of its parts at a time, beside the paper's table (three quarters of an hour on two cores)
# make lint       style of the code and of the workflow
# make bench-ops  speed and memory beside other implementations (tens of minutes; small sizes: make bench-ops BENCH=--quick)
# make bench-gpu  the same on an NVIDIA GPU
# make bench-data  sequence files to tokens, and tokens to windows, beside other ways (half an hour, 7 GB of disk)
# make bench-downstream  fine-tuning and prediction, sequences per second, each variant beside the Transformer
# make bench-text  decoding after 4k and 1M tokens, time to the first token, memory: each variant beside a Transformer and a peer
# make bench-use  a trained model at work: variants, tracks, vectors, new sequence, memory, each beside the plain way (needs make run)
# make bench-study  chunk size, depth and stability by loss (docs/studies.md; hours, goes on where it stopped)
#
# Each sets up .venv by itself, and again when pyproject.toml or constraints.txt change.
# Another config:   make run CONFIG=configs/own_genome.yaml
# Part of the tests: make test TESTS="-m 'not slow'"

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONFIG ?= configs/default.yaml
TESTS ?=
BENCH ?=
BIN := $(CURDIR)/.venv/bin
READY := .venv/.ready
export PATH := $(BIN):$(PATH)

.PHONY: help setup run bacteria ablations test lint bench-ops bench-gpu bench-data bench-downstream bench-text bench-use bench-study clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -16

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x .venv/bin/pip || "$(PYTHON)" -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(READY)
	snakemake --configfile $(CONFIG)

# The genomes lie in packages of Debian and Ubuntu as examples of other programs; unpacked, not installed.
GENOMES := genomes/.ready

$(GENOMES):
	@command -v apt-get dpkg > /dev/null || { echo "apt-get and dpkg are needed to get the genomes; elsewhere list genomes of your own in configs/bacteria/genomes.tsv"; exit 1; }
	mkdir -p genomes
	cd genomes && apt-get download ragout-examples bowtie-examples
	cd genomes && for package in *.deb; do dpkg -x "$$package" . && rm "$$package"; done
	@touch $@

bacteria: $(READY) $(GENOMES)
	snakemake --configfile configs/bacteria/bacteria.yaml

ablations: $(READY)
	snakemake ablations --configfile configs/ablations.yaml

test: $(READY)
	OMP_NUM_THREADS=1 pytest -n auto --dist worksteal $(TESTS)

lint: $(READY)
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow/rules
	snakemake --configfile $(CONFIG) --lint

# the benchmarks' own environment: the peers never enter .venv
BENCH_READY := benchmarks/.venv/.ready

$(BENCH_READY): benchmarks/requirements.txt constraints.txt
	@test -x benchmarks/.venv/bin/pip || "$(PYTHON)" -m venv benchmarks/.venv
	benchmarks/.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -r benchmarks/requirements.txt
	@touch $@

bench-ops: $(BENCH_READY)
	benchmarks/.venv/bin/python -m benchmarks $(BENCH)

bench-use: $(READY)
	python -m benchmarks use --into docs/benchmarks.md $(BENCH)

bench-gpu: $(BENCH_READY)
	benchmarks/.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -r benchmarks/requirements-gpu.txt
	benchmarks/.venv/bin/python -m benchmarks.gpu $(BENCH)

bench-data: $(BENCH_READY)
	benchmarks/.venv/bin/python -m benchmarks.data $(BENCH)

bench-downstream: $(BENCH_READY)
	benchmarks/.venv/bin/python -m benchmarks.downstream $(BENCH)

bench-text: $(BENCH_READY)
	benchmarks/.venv/bin/python -m benchmarks text --into docs/benchmarks.md $(BENCH)

bench-study: $(READY)
	python -m benchmarks.titans_study --resume $(BENCH)

# not .snakemake: without its records a changed config would not be noticed in the results that are there
clean:
	rm -rf .venv benchmarks/.venv .pytest_cache .ruff_cache
