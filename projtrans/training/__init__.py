"""From settings to a trained run. Imports evaluation and below; never comparison."""
