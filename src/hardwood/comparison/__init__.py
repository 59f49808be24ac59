"""Comparing sources of negatives: the same data, steps and seeds for all, in two budgets, with what each cost.

Knows runs (`hardwood.training`) by their settings and their ``metrics.json`` alone; each run is a process of its own,
so that its memory peak is its own.
"""

from hardwood.comparison.plan import BUDGETS, PlannedRun, plan_runs
from hardwood.comparison.report import markdown_table, summarize
from hardwood.comparison.run import compare, run_all, run_one

__all__ = ["BUDGETS", "PlannedRun", "compare", "markdown_table", "plan_runs", "run_all", "run_one", "summarize"]
