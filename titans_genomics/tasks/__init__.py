"""What is measured downstream of pre-training: one task per module."""
