"""What the device did and saw: the journal, its records, events, the log, and the record of polls.

The engine is the truth; this is what restarts steps, answers `agent status` and feeds the reports.
"""
