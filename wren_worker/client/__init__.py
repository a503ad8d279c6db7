"""The caller's side: cuts jobs into chunks, sends them, collects outcomes into futures.

``executor`` is the face, ``session`` holds what its threads share. A job is written by ``writer`` (cut into chunks)
and ``shipping`` (stored, then sent) on the threads of ``sender``; ``collector`` brings result objects, ``resolve``
keeps the books of them, ``job`` turns them into finished ``future``s. ``waiting`` and ``attach`` stand beside.
"""
