"""Evidence that a third party checks without access to the repos."""
