"""What a render would change: both sides compared, the policy asked, the result as text or Markdown."""
