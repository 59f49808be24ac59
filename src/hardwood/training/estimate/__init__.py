"""From the draws of a batch to its loss: what each candidate counts in each query's Z, on all processes together.

It knows candidates, draws, weights and processes. It must not know the trainer, files or runs.
"""
