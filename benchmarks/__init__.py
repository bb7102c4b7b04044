"""Speed and memory beside other implementations: `make bench-ops`, `python -m benchmarks --help`, docs/benchmarks.md."""
