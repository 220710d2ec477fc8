"""What a comparison found: as text, JSON and one HTML page."""
