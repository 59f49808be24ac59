"""From vectors to a tree: k-means, the nearest leaf of each vector, and the rows laid out leaf by leaf.

It knows vectors and centres. It must not know changes, queries or files. (It is not called "build": `.gitignore`,
ruff, pytest and packagers leave folders of that name out without a word.)
"""
