"""Training: one loop, one step and one state for both stages.

`stages` has the loss of each stage, `state` the optimiser and the moving average, `step` the compiled train step, and
`loop` all that happens around it: `checkpoints`, `log` and `stop`.
"""
