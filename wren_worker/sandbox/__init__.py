"""AWS on this machine: moto's server on loopback, and a local process tree for every EC2 instance in it.

The only place that imports moto. ``control`` is its face; everything else runs in the sandbox's own process
(``python -m wren_worker.sandbox``) or, ``machine`` and ``systemctl``, inside a local instance.
"""
