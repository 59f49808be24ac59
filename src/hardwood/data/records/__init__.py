"""What a dataset is made of, in memory: tables of texts, judgements, pairs, and which rows are the same.

It knows ids, texts, rows and grades. It must not know files.
"""
