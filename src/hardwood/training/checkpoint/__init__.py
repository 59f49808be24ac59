"""What outlives a process: checkpoints that are whole or don't count, and encodings that a crash can't take.

It knows files, hashes and the rules of resuming. It must not know how a loss is computed.
"""
