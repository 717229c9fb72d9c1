"""Systems side by side. Imports evaluation and below; never training."""
