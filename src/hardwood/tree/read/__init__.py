"""Asking a tree: the kernels behind `sample`, `search`, `log_partition`, `expectation` and `log_proposal`.

    survey ──> cut ──> sample, sample_without, proposal, expectation
       │        └── masses: exact ones of opened leaves, estimates and bounds of the others
       └── products of a block of queries with the means of groups and leaves
    search: the survey's products alone; certify: every leaf's bounds, without a survey

It knows arrays, and changes none. It must not know `change.tree.Tree`, locks, files or the user's types.

What kernels take, by the names that they all use (``B`` queries, ``d`` dimensions):

    nodes               the tree, see `arrays.nodes.Nodes`
    sketch, spill       see `arrays.nodes`; empty where there is none
    question            `question.Question`, which has these:
      queries           (B, d) float32
      scale             β > 0 in s = β x·y
      probes            leaves that each query opens
      groups            groups whose leaves each query looks at
      excluded_offsets  (B + 1,) and
      excluded_rows     int64: query b excludes the rows excluded_rows[excluded_offsets[b] : excluded_offsets[b + 1]],
                        which ascend; ``excluded`` is one query's part
      gamma             relative error of a float32 score, see `arrays.bounds.rounding`
    seed, first         random numbers of query b depend on (seed, first + b); ``stream`` is one query's key
    certify             whether bounds are wanted too
    begin, end          the queries (or leaves) that this call does: one thread's part
    unit, beta_norm     (d,) x / ‖x‖ in float32 and β‖x‖ of one query
    share               the share of a node's spread that lies along the query
    head                products of one leaf's targets with ``unit``, -inf where excluded; ``weight`` their masses up
                        to a common factor
    marks               (B, 3) written: log Ẑ, and its lower and upper bound
    rows, log_q, scores (B, k) written: the row, log probability and score of each draw
    ahead               the first row of what will be read next, which is fetched meanwhile; -1: not known
"""
