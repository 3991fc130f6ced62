"""The disk, for the edges: the pure core reads and writes nothing.

Small files read within a bound, files and folders that change in one step and survive a loss of power, stamps that tell
a changed file, locks between processes, and SQLite files. The callers choose their own errors.
"""
