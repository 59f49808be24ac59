"""What the trainer hands over for a step: columns, labels, features and prompts, held against the loss's own data.

It knows texts' features, rows and sentence-transformers' conventions. It must not know draws, weights or checkpoints.
"""
