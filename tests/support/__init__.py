"""What tests share: real parts from scripts/testbed, a clean git, and the rule for parts that are missing."""
