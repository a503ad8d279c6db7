"""The suite that measures wren_worker beside its peers: ``make bench``, or ``python -m benchmarks --help``."""
