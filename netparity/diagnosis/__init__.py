"""What is said of a difference: conventions, known mistakes, patterns, and a script that shows it."""
