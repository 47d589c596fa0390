"""Run directories and files of weights: what they hold, and what must not be mixed in one."""
