"""The fleet as its devices report it, beside what they should run."""
