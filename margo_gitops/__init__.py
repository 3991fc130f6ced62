"""Run a factory's Margo edge applications from git: render, review, pull, verify, apply, prove."""

__version__ = "0.1.0"
