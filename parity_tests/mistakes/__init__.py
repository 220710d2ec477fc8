"""The proof of the diagnosis: mistakes that porters make, planted in networks that pass, and what is said of each."""
