"""What runs calls: a self-contained program that a runtime's interpreter starts by path.

Standard library and cloudpickle only. It shares four files of ``protocol`` (frames, oob, page, records), which import
nothing themselves, and reaches them by relative imports from a package named ``_wren``: a runtime has nothing of
ours installed.
"""
