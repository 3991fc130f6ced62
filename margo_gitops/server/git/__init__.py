"""The git subset, served (docs/git-subset.md): one device sees one branch, and answers come from memory."""
