"""Write the state repo: render a fleet commit, and sign statements of freshness."""
