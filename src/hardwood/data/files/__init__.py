"""Datasets' files, read line by line and written whole or not at all, with file and line in each error.

It knows formats and the records that they hold. It must not know what a dataset does with them.
"""
