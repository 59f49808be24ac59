"""A second model beside the encoder: a guide that finds false negatives, a teacher whose scores are a target.

It knows pairs of rows and their scores by that model. It must not know sources or weights of draws.
"""
