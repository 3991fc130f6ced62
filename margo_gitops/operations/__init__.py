"""What operators and pipelines run on a fleet repo: validate, plan, render, watch; and what they print."""
