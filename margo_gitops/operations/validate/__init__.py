"""Everything that is wrong with a fleet repo: the rules, the findings, and the formats that pipelines read."""
