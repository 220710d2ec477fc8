"""What a comparison found, as a table on the screen, a JSON file and an HTML page."""
