"""What fills the tables and excerpts of the README and the documents."""
