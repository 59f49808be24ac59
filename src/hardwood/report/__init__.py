"""What a run has done, as one page to look at; and the judgements that people make on it, back into the data.

What it is for: a bounded trace that is recorded while a model trains, `report.html` made of a run's files, and
decisions on suspected false negatives added to a dataset. What it knows: the files of a run, datasets, and (the trace
alone) a loss and its source of negatives. What it must not know: how a run or a trainer works.
"""

from hardwood.report.comparison import write_comparison
from hardwood.report.decisions import Cleaned, Decision, add_decisions, read_decisions
from hardwood.report.run import PAGE, write_report
from hardwood.report.trace import Trace

__all__ = [
    "PAGE",
    "Cleaned",
    "Decision",
    "Trace",
    "add_decisions",
    "read_decisions",
    "write_comparison",
    "write_report",
]
