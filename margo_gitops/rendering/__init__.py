"""Intent to exact bytes, purely."""
