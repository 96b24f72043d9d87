"""What can be tapped."""
