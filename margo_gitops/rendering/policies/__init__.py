"""Whether a change obeys the fleet's policy (docs/policy.md). Pure: facts and differences in, verdicts out."""
