"""A tree as a folder on disk: written whole or not at all, checked before any kernel sees it.

It knows the tree and the format. It must not know queries, or how a tree changes.
"""
