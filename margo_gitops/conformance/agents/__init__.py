"""The cases that an agent is put through, and the judgement of what it did."""
