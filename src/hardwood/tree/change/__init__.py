"""A tree that changes: targets come, go and move; what wears out is repaired; every invariant can be checked.

`tree.Tree` owns the arrays and is the only writer. It knows how leaves are found (`construct`). It must not know
queries or files.
"""
