"""The modes of the command line: each is a function of (config, workdir), in the file of its name.

What several modes use is in `shared/`, and the parts of mode `explore` are in `explorer/`.
"""
