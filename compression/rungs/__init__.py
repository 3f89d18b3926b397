"""One file per family of rungs; the table of all of them is thinwire.compression.ladder."""
