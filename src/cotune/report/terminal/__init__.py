"""What is shown in a terminal or a notebook."""
