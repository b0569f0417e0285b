"""What becomes of weight errors in products."""
