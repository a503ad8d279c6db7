"""What travels between the places: words and bytes."""
