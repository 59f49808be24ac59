"""A whole run: its settings, its folder, its parts put together, training to the end, metrics and model.

It knows all of `hardwood.training`. It must not know the command line.
"""
