"""A fleet repo to start with, and its tooling kept up to date."""
