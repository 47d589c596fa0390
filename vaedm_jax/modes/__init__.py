"""The modes of the command line: each is a function of (config, workdir), in a file of its own."""
