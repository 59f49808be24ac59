"""The arrays of a tree, and what holds for each of them alone: layout, statistics and their bounds, ids, products.

It knows how a tree lies in memory (`nodes` is the one place that says so). It must not know how leaves are found, how
a tree changes, or what is asked of it.
"""
