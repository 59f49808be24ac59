"""Public sets and sets made here, as BEIR folders: each file is one source.

It knows the form in which each source is published. It must not know how a dataset is read again.
"""
