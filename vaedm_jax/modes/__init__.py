"""The modes of the command line: each is a function of (config, workdir), in the file of its name.

Files that several modes use are `opening.py` (the model and its training images), `drawing.py` (any number of samples)
and `restoring.py` (restoration by a model). `likelihood.py` is a part of mode `evaluate`.
"""
